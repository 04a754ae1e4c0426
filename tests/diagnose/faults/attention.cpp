// Attention and its cache: scores, mask, softmax, and the slots of the cache.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

// Attention with parts that faults replace: scores, visible positions, and weights.
struct Attention {
  std::function<std::size_t(std::size_t h, const Config& c)> kv = [](std::size_t h, const Config& c) {
    return h / (c.n_heads / c.n_kv_heads);
  };
  std::function<double(double dot, const Config& c)> score = [](double dot, const Config& c) {
    return dot / std::sqrt(static_cast<double>(c.head_dim));
  };
  // t, s: positions; n: positions in the cache, those of all tokens of this step among them
  std::function<bool(std::size_t t, std::size_t s, std::size_t n, const Op& op)> seen =
      [](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t; };
  double masked = -std::numeric_limits<double>::infinity();
  // Added to a score.
  double (*bias)(std::size_t t, std::size_t s, std::size_t h, const Config& c) = [](std::size_t, std::size_t, std::size_t,
                                                                                    const Config&) { return 0.0; };
  std::size_t (*components)(std::size_t head_dim) = [](std::size_t d) { return d; };
  void (*weights)(std::vector<double>& p) = [](std::vector<double>& p) {
    double sum = 0;
    for (double& v : p) sum += v = std::exp(v);
    for (double& v : p) v /= sum;
  };
};

Make attention(Attention a) {
  return [a = std::move(a)](const Engine&, const Op& op) {
    const Config& c = op.config;
    const std::size_t n = op.position + op.rows, kv_width = c.n_kv_heads * c.head_dim;
    Floats y(op.x.size());
    for (std::size_t t = 0; t < op.rows; ++t) {
      for (std::size_t h = 0; h < c.n_heads; ++h) {
        const std::size_t g = a.kv(h, c);
        std::vector<double> p(n, a.masked);
        for (std::size_t s = 0; s < n; ++s) {
          if (!a.seen(op.position + t, s, n, op)) continue;
          p[s] = 0;
          for (std::size_t i = 0; i < a.components(c.head_dim); ++i)
            p[s] += double{op.x[(t * c.n_heads + h) * c.head_dim + i]} * op.keys[s * kv_width + g * c.head_dim + i];
          p[s] = a.score(p[s], c) + a.bias(op.position + t, s, h, c);
        }
        a.weights(p);
        for (std::size_t i = 0; i < c.head_dim; ++i) {
          double sum = 0;
          for (std::size_t s = 0; s < n; ++s) sum += p[s] == 0 ? 0 : p[s] * op.values[s * kv_width + g * c.head_dim + i];
          y[(t * c.n_heads + h) * c.head_dim + i] = static_cast<float>(sum);
        }
      }
    }
    return y;
  };
}

}  // namespace

void add_attention_faults(const Add& add) {
  const Names ctx{"attn_ctx"};
  const auto scored = [](double (*score)(double, const Config&)) {
    Attention a;
    a.score = score;
    return attention(std::move(a));
  };
  add("no scale", ctx, scored([](double dot, const Config&) { return dot; }), {"attention-scale"});
  add("the scale twice", ctx, scored([](double dot, const Config& c) { return dot / static_cast<double>(c.head_dim); }),
      {"attention-scale"});
  add("the scale of the whole width", ctx,
      scored([](double dot, const Config& c) { return dot / std::sqrt(static_cast<double>(c.d)); }), {"attention-scale"});
  add("scores capped at 5", ctx, scored([](double dot, const Config& c) {
        return 5 * std::tanh(dot / std::sqrt(static_cast<double>(c.head_dim)) / 5);
      }),
      {"attention-soft-cap"});
  const auto masked = [](bool (*seen)(std::size_t, std::size_t, std::size_t, const Op&)) {
    Attention a;
    a.seen = seen;
    return attention(std::move(a));
  };
  add("the token itself masked", ctx,
      masked([](std::size_t t, std::size_t s, std::size_t, const Op&) { return s < t || t == 0; }),
      {"attention-mask-self"});
  add("the next token seen", ctx, masked([](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t + 1; }),
      {"attention-mask-next"});
  add("no mask", ctx, masked([](std::size_t, std::size_t, std::size_t, const Op&) { return true; }),
      {"attention-mask-missing", "attention-mask-next"});
  for (const std::size_t window : {3u, 8u}) {
    Attention a;
    a.seen = [window](std::size_t t, std::size_t s, std::size_t, const Op&) { return s <= t && s + window > t; };
    add(fmt::format("a window of {}", window), ctx, attention(a), {"attention-window"});
  }
  {
    Attention a;
    a.masked = 0;
    add("masked scores of 0", ctx, attention(a), {"attention-mask-zero"});
  }
  {
    Attention a;
    a.kv = [](std::size_t h, const Config& c) { return h % c.n_kv_heads; };
    add("key and value heads in turn", ctx, attention(a), {"attention-head-map"});
    a.kv = [](std::size_t, const Config&) { return std::size_t{0}; };
    add("the first key and value head for all", ctx, attention(a), {"attention-head-map"});
  }
  {
    Attention a;
    a.bias = [](std::size_t t, std::size_t s, std::size_t h, const Config& c) {
      const double slope = std::pow(2.0, -8.0 / static_cast<double>(c.n_heads) * static_cast<double>(h + 1));
      return t < s ? 0 : -slope * static_cast<double>(t - s);
    };
    add("ALiBi besides the rotation", ctx, attention(a), {"attention-distance-bias"});
    a.seen = [](std::size_t, std::size_t, std::size_t, const Op&) { return true; };
    a.bias = [](std::size_t t, std::size_t s, std::size_t, const Config&) { return s > t ? -5.0 : 0.0; };
    add("a mask of -5", ctx, attention(a), {"attention-mask-weak"});
  }
  {
    Attention a;
    a.components = [](std::size_t d) { return d / 2; };
    add("scores of half a head", ctx, attention(a), {"attention-part-of-head"});
  }
  {
    Attention a;
    a.weights = [](std::vector<double>& p) {
      for (double& v : p) v = std::exp(v);
    };
    add("weights that are not divided by their sum", ctx, attention(a), {"attention-softmax"});
    a.weights = [](std::vector<double>& p) {
      double sum = 0;
      for (double& v : p) sum += v = std::isinf(v) ? 0 : std::max(v, 0.0);
      for (double& v : p) v /= std::max(sum, 1e-9);
    };
    add("a rectifier for the softmax", ctx, attention(a), {"attention-softmax"});
  }
  add("attention's output as [head_dim, heads]", ctx, then([](Floats& y, std::size_t width, const Op& op) {
        const Floats right = y;
        const std::size_t d = op.config.head_dim, n = width / d;
        for (std::size_t i = 0; i < y.size(); ++i) y[i / width * width + i % d * n + i % width / d] = right[i];
      }),
      {"attention-head-order"});
  add("queries before their rotation", ctx, with([](const Engine& e, Op& op) {
        const std::string norm = blk(op.layer, "attn_q_norm");
        op.x = e.value(e.value(norm, op.step).empty() ? blk(op.layer, "attn_q") : norm, op.step);
      }),
      {"attention-other-values"});
  add("keys for values", ctx, with([](const Engine&, Op& op) { op.values = op.keys; }), {"attention-other-values"});
  add("the cache of the layer before", ctx, with([](const Engine& e, Op& op) {
        if (op.layer == 0) return;
        std::tie(op.keys, op.values) = e.cache(op.layer - 1);
      }),
      {"cache-other-layer"});
  add("the cache one position off", ctx, with([](const Engine&, Op& op) {
        const auto width = static_cast<std::ptrdiff_t>(op.config.n_kv_heads * op.config.head_dim);
        std::rotate(op.keys.begin(), op.keys.end() - width, op.keys.end());
        std::rotate(op.values.begin(), op.values.end() - width, op.values.end());
      }),
      {"cache-position"});
  add("the cache cleared before the step", ctx,
      masked([](std::size_t t, std::size_t s, std::size_t, const Op& op) { return s <= t && s >= op.position; }),
      {"cache-lost", "attention-window"});
  add("the step's keys and values in the slot before", ctx,
      [](const Engine& e, Op op) {
        if (op.step == 0) return Floats();
        const auto width = static_cast<std::ptrdiff_t>(op.config.n_kv_heads * op.config.head_dim);
        for (Floats* of : {&op.keys, &op.values}) {
          std::copy(of->end() - width, of->end(), of->end() - 2 * width);
          of->resize(of->size() - static_cast<std::size_t>(width));
        }
        op.position -= 1;
        return e.plain(op);
      },
      {"cache-slot"});
}

}  // namespace plumb::diagnose::planted
