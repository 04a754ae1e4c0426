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
      [](std::size_t t, std::size_t s, std::size_t, const Op& op) { return op.config.sees(op.layer, t, s); };
  double masked = -std::numeric_limits<double>::infinity();
  // Added to a score.
  std::function<double(std::size_t t, std::size_t s, std::size_t h, const Config& c)> bias =
      [](std::size_t t, std::size_t s, std::size_t h, const Config& c) { return c.bias(h, t, s); };
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

namespace {

// A fault in attention alone, with one name that is right.
Plant in_attention(std::string name, Make make, std::string cause) {
  return {std::move(name), {"attn_ctx"}, std::move(make), {std::move(cause)}};
}
Plant configured(std::string name, std::function<void(Config& c, std::size_t layer)> change, std::string cause) {
  return in_attention(std::move(name),
                      with([change = std::move(change)](const Engine&, Op& op) { change(op.config, op.layer); }),
                      std::move(cause));
}
using Sees = bool (*)(std::size_t t, std::size_t s, std::size_t window);
Plant seeing(std::string name, Sees sees, std::string cause) {
  Attention a;
  a.seen = [sees](std::size_t t, std::size_t s, std::size_t, const Op& op) {
    const std::size_t window = op.config.windows[op.layer];
    return window == 0 ? op.config.sees(op.layer, t, s) : sees(t, s, window);
  };
  return in_attention(std::move(name), attention(std::move(a)), std::move(cause));
}
Plant biased(std::string name, double (*bias)(std::size_t t, std::size_t s, std::size_t h, const Config& c)) {
  Attention a;
  a.bias = bias;
  return in_attention(std::move(name), attention(std::move(a)), "attention-alibi");
}
std::size_t distance(std::size_t t, std::size_t s) { return s > t ? s - t : t - s; }

std::vector<Plant> window_faults() {
  return {configured(
              "the other kind of layer's window",
              [](Config& c, std::size_t layer) { c.windows[layer] = c.windows[layer] == 0 ? 5 : 0; },
              "attention-window-of-layer"),
          configured(
              "a window that is one longer",
              [](Config& c, std::size_t layer) { c.windows[layer] += c.windows[layer] == 0 ? 0 : 1; }, "attention-window"),
          configured(
              "parts of the sequence for a sliding window", [](Config& c, std::size_t) { c.chunked = true; },
              "attention-window-kind")};
}

std::vector<Plant> chunk_faults() {
  return {configured(
              "a sliding window for parts of the sequence", [](Config& c, std::size_t) { c.chunked = false; },
              "attention-window-kind"),
          configured(
              "parts that are one longer",
              [](Config& c, std::size_t layer) { c.windows[layer] += c.windows[layer] == 0 ? 0 : 1; }, "attention-window"),
          seeing(
              "parts that begin one late",
              [](std::size_t t, std::size_t s, std::size_t w) {
                return s <= t && (t == 0 || (t - 1) / w == (s == 0 ? 0 : (s - 1) / w));
              },
              "attention-chunk-start"),
          seeing(
              "parts that begin one early",
              [](std::size_t t, std::size_t s, std::size_t w) { return s <= t && (t + 1) / w == (s + 1) / w; },
              "attention-chunk-start"),
          configured(
              "the whole sequence for a part", [](Config& c, std::size_t layer) { c.windows[layer] = 0; },
              "attention-window-of-layer")};
}

std::vector<Plant> encoder_faults() {
  return {
      configured(
          "a causal mask in an encoder",
          [](Config& c, std::size_t layer) {
            c.causal = c.windows[layer] != 0;  // in layers without a window
          },
          "attention-mask-causal"),
      seeing(
          "a causal mask in an encoder's window",
          [](std::size_t t, std::size_t s, std::size_t w) { return s <= t && 2 * (t - s) <= w; }, "attention-window-sides"),
      seeing(
          "half a window after the token alone",
          [](std::size_t t, std::size_t s, std::size_t w) { return s >= t && 2 * (s - t) <= w; }, "attention-window-sides"),
      seeing(
          "a whole window on each side", [](std::size_t t, std::size_t s, std::size_t w) { return distance(t, s) < w; },
          "attention-window-sides"),
      seeing(
          "a whole window before the token",
          [](std::size_t t, std::size_t s, std::size_t w) { return s <= t && t - s < w; }, "attention-mask-causal"),
      seeing(
          "a window without its ends", [](std::size_t t, std::size_t s, std::size_t w) { return 2 * distance(t, s) < w; },
          "attention-window"),
      configured(
          "the whole text for a window", [](Config& c, std::size_t layer) { c.windows[layer] = 0; },
          "attention-window-of-layer")};
}

std::vector<Plant> alibi_faults() {
  return {
      configured(
          "no slopes", [](Config& c, std::size_t) { c.alibi_max_bias = 0; }, "attention-alibi"),
      configured(
          "slopes down to 2^-4", [](Config& c, std::size_t) { c.alibi_max_bias = 4; }, "attention-alibi"),
      biased("slopes of the wrong sign",
             [](std::size_t t, std::size_t s, std::size_t h, const Config& c) { return -c.bias(h, t, s); }),
      biased("the next head's slope", [](std::size_t t, std::size_t s, std::size_t h,
                                         const Config& c) { return c.bias((h + 1) % c.n_heads, t, s); }),
      biased("slopes from 1 on",
             [](std::size_t t, std::size_t s, std::size_t h, const Config& c) {
               return h == 0 ? static_cast<double>(s) - static_cast<double>(t) : c.bias(h - 1, t, s);
             }),
      biased("the heads' slopes in reverse",
             [](std::size_t t, std::size_t s, std::size_t h, const Config& c) { return c.bias(c.n_heads - 1 - h, t, s); }),
      biased("slopes that are scaled with the scores", [](std::size_t t, std::size_t s, std::size_t h, const Config& c) {
        return c.bias(h, t, s) / std::sqrt(static_cast<double>(c.head_dim));
      })};
}

std::vector<Plant> shared_cache_faults() {
  const auto of_layer = [](std::size_t layer) {
    return with([layer](const Engine& e, Op& op) {
      if (op.layer == 2) std::tie(op.keys, op.values) = e.cache(layer);
    });
  };
  return {in_attention("the cache of the layer before the one that is shared", of_layer(0), "cache-other-layer")};
}

// other: by how much the other factors are further from 1.
std::vector<Plant> factor_faults(float other) {
  const auto by = [](float factor) {
    return with([factor](const Engine&, Op& op) {
      for (float& f : op.config.factors) f = 1 + factor * (f - 1);
    });
  };
  const Names rotations{"attn_q_rope", "attn_k_rope"};
  return {{"the factors of another context", rotations, by(other), {"rope-other-factors"}},
          {"no factors", rotations, by(0), {"rope-scaling"}}};
}

}  // namespace

const std::vector<FormFaults>& form_faults() {
  static const std::vector<FormFaults> all{
      {"windows by layer", window_faults()},   {"parts of the sequence", chunk_faults()},
      {"encoder", encoder_faults()},           {"ALiBi", alibi_faults()},
      {"shared cache", shared_cache_faults()}, {"short factors", factor_faults(4)},
      {"long factors", factor_faults(0.25f)}};
  return all;
}

}  // namespace plumb::diagnose::planted
