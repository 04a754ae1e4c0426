// Norms: wrong eps, weight or mean.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

const Names norms{"attn_norm", "ffn_norm", "output_norm"};

// The rows of a norm, computed from the row's mean square.
Make norm(double (*value)(double x, double w, double mean_square, double mean, double n, double eps)) {
  return [value](const Engine&, const Op& op) {
    Floats y(op.x.size());
    const std::size_t n = op.w.data.size();
    for (std::size_t row = 0; row < y.size(); row += n) {
      double squares = 0, sum = 0;
      for (std::size_t i = 0; i < n; ++i) {
        squares += double{op.x[row + i]} * op.x[row + i];
        sum += op.x[row + i];
      }
      const auto count = static_cast<double>(n);
      for (std::size_t i = 0; i < n; ++i)
        y[row + i] =
            static_cast<float>(value(op.x[row + i], op.w.data[i], squares / count, sum / count, count, op.config.eps));
    }
    return y;
  };
}

}  // namespace

void add_norm_faults(const Add& add) {
  for (const double eps : {1e-2, 0.5}) {
    add(fmt::format("eps of {}", eps), norms, with([eps](const Engine&, Op& op) { op.config.eps = eps; }), {"norm-eps"});
  }
  add("the norm's weight left out", norms,
      norm([](double x, double, double ms, double, double, double eps) { return x / std::sqrt(ms + eps); }),
      {"norm-weight-missing"});
  add("the norm's weight twice", norms,
      norm([](double x, double w, double ms, double, double, double eps) { return x / std::sqrt(ms + eps) * w * w; }),
      {"norm-weight-twice"});
  add("1 added to the norm's weight", norms,
      norm([](double x, double w, double ms, double, double, double eps) { return x / std::sqrt(ms + eps) * (w + 1); }),
      {"norm-weight-plus-one"});
  add("a layer norm", norms, norm([](double x, double w, double ms, double mean, double, double eps) {
        return (x - mean) / std::sqrt(ms - mean * mean + eps) * w;
      }),
      {"norm-mean-subtracted"});
  add("the sum for the mean", norms,
      norm([](double x, double w, double ms, double, double n, double eps) { return x / std::sqrt(ms * n + eps) * w; }),
      {"norm-sum-for-mean"});
  add("no root", norms, norm([](double x, double w, double ms, double, double, double eps) { return x / (ms + eps) * w; }),
      {"norm-not-rooted"});
  add("not normalised", norms, norm([](double x, double w, double, double, double, double) { return x * w; }),
      {"norm-not-normalized"});
  add("the norm skipped", norms, [](const Engine&, const Op& op) { return op.x; }, {"norm-skipped", "buffer-aliased"});
  add("n - 1 for n", norms, norm([](double x, double w, double ms, double, double n, double eps) {
        return x / std::sqrt(ms * n / (n - 1) + eps) * w;
      }),
      {"value-scaled"});
  add("the mean of half the row", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t row = 0; row < y.size(); row += n) {
          double squares = 0;
          for (std::size_t i = 0; i < n / 2; ++i) squares += double{op.x[row + i]} * op.x[row + i];
          for (std::size_t i = 0; i < n; ++i)
            y[row + i] = static_cast<float>(op.x[row + i] /
                                            std::sqrt(squares / static_cast<double>(n / 2) + op.config.eps) * op.w.data[i]);
        }
        return y;
      },
      {"norm-part-of-row"});
  add("one mean for all tokens", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        double squares = 0;
        for (const float v : op.x) squares += double{v} * v;
        for (std::size_t i = 0; i < y.size(); ++i)
          y[i] = static_cast<float>(op.x[i] / std::sqrt(squares / static_cast<double>(y.size()) + op.config.eps) *
                                    op.w.data[i % op.w.data.size()]);
        return y;
      },
      {"norm-over-tokens"});
  add("the other norm's weight", {"attn_norm", "ffn_norm"}, with([](const Engine& e, Op& op) {
        op.w = e.weight(blk(op.layer, op.role == "attn_norm" ? "ffn_norm.weight" : "attn_norm.weight"));
      }),
      {"norm-other-weight", "weight-other"});
  add("the norm's weight of the layer after", {"attn_norm", "ffn_norm"}, with([](const Engine& e, Op& op) {
        op.w = e.weight(blk((op.layer + 1) % e.config().n_layers, op.role + ".weight"));
      }),
      {"norm-other-weight", "weight-other-layer"});
  add("a norm of heads taken over the whole row", {"attn_q_norm", "attn_k_norm"},
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t width = y.size() / op.rows;
        for (std::size_t row = 0; row < y.size(); row += width) {
          double squares = 0;
          for (std::size_t i = 0; i < width; ++i) squares += double{op.x[row + i]} * op.x[row + i];
          for (std::size_t i = 0; i < width; ++i)
            y[row + i] =
                static_cast<float>(op.x[row + i] / std::sqrt(squares / static_cast<double>(width) + op.config.eps) *
                                   op.w.data[i % op.w.data.size()]);
        }
        return y;
      },
      {"norm-whole-row"});
  add("a norm of heads skipped", {"attn_q_norm", "attn_k_norm"}, [](const Engine&, const Op& op) { return op.x; },
      {"norm-skipped", "buffer-aliased"});
  add("the norm of what attention read", {"ffn_norm"}, with([](const Engine& e, Op& op) {
        op.x = op.layer == 0 ? e.value("token_embd", op.step) : e.value(blk(op.layer - 1, "output"), op.step);
      }),
      {"norm-other-input"});
  add("the last norm of what the feed-forward read", {"output_norm"},
      with([](const Engine& e, Op& op) { op.x = e.value(blk(e.config().n_layers - 1, "attn_resid"), op.step); }),
      {"norm-other-input"});
  add("the first token's root mean square for all", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        double squares = 0;
        for (std::size_t i = 0; i < n; ++i) squares += double{op.x[i]} * op.x[i];
        for (std::size_t i = 0; i < y.size(); ++i)
          y[i] =
              static_cast<float>(op.x[i] * op.w.data[i % n] / std::sqrt(squares / static_cast<double>(n) + op.config.eps));
        return y;
      },
      {"norm-other-factor"});
  add("half of the squares summed, all counted", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t t = 0; t < op.rows; ++t) {
          double squares = 0;
          for (std::size_t i = 0; i < n; i += 2) squares += double{op.x[t * n + i]} * op.x[t * n + i];
          const double root = std::sqrt(squares / static_cast<double>(n) + op.config.eps);
          for (std::size_t i = 0; i < n; ++i) y[t * n + i] = static_cast<float>(op.x[t * n + i] / root * op.w.data[i]);
        }
        return y;
      },
      {"norm-part-of-row"});
  add("the mean of absolutes for its root", norms,
      [](const Engine&, const Op& op) {
        Floats y(op.x.size());
        const std::size_t n = op.w.data.size();
        for (std::size_t t = 0; t < op.rows; ++t) {
          double sum = 0;
          for (std::size_t i = 0; i < n; ++i) sum += std::fabs(op.x[t * n + i]);
          for (std::size_t i = 0; i < n; ++i)
            y[t * n + i] = static_cast<float>(op.x[t * n + i] / (sum / static_cast<double>(n)) * op.w.data[i]);
        }
        return y;
      },
      {"norm-other-statistic"});
  add("a norm a group of threads", norms,
      [](const Engine& e, Op op) {
        const std::size_t n = op.w.data.size();
        Floats y;
        for (std::size_t start = 0; start < op.x.size(); start += 32) {
          Op of = op;
          of.x.assign(op.x.begin() + static_cast<std::ptrdiff_t>(start),
                      op.x.begin() + static_cast<std::ptrdiff_t>(start + 32));
          of.w.data.assign(op.w.data.begin() + static_cast<std::ptrdiff_t>(start % n),
                           op.w.data.begin() + static_cast<std::ptrdiff_t>(start % n + 32));
          const Floats part = e.plain(of);
          y.insert(y.end(), part.begin(), part.end());
        }
        return y;
      },
      {"norm-by-parts"});
  add("weighed, then normalised", norms,
      [](const Engine& e, Op op) {
        const std::size_t n = op.w.data.size();
        for (std::size_t i = 0; i < op.x.size(); ++i) op.x[i] *= op.w.data[i % n];
        std::fill(op.w.data.begin(), op.w.data.end(), 1.0f);
        return e.plain(op);
      },
      {"norm-weight-before"});
}

}  // namespace plumb::diagnose::planted
