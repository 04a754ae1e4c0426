// The activation, and the sums of the residual stream.
#include <algorithm>
#include <cmath>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

Make activation(double (*f)(double gate, double up)) {
  return [f](const Engine&, const Op& op) {
    Floats y(op.x.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(f(op.x[i], op.other[i]));
    return y;
  };
}

}  // namespace

void add_feed_forward_faults(const Add& add) {
  const Names act{"ffn_act"};
  add("GELU by tanh", act, activation([](double g, double u) {
        return 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
      }),
      {"activation-other"});
  add("GELU by erf", act, activation([](double g, double u) { return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0))) * u; }),
      {"activation-other"});
  add("quick GELU", act, activation([](double g, double u) { return g / (1 + std::exp(-1.702 * g)) * u; }),
      {"activation-other"});
  add("ReLU", act, activation([](double g, double u) { return std::max(g, 0.0) * u; }), {"activation-other"});
  add("a sigmoid without its factor", act, activation([](double g, double u) { return 1 / (1 + std::exp(-g)) * u; }),
      {"activation-other"});
  add("no activation", act, activation([](double g, double u) { return g * u; }), {"activation-missing"});
  add("gate and up exchanged", act, activation([](double g, double u) { return u / (1 + std::exp(-u)) * g; }),
      {"gate-up-exchanged"});
  add("SiLU of the product", act, activation([](double g, double u) { return g * u / (1 + std::exp(-g * u)); }),
      {"activation-on-product"});
  add("up left out", act, activation([](double g, double) { return g / (1 + std::exp(-g)); }), {"gate-or-up-missing"});
  add("up added", act, activation([](double g, double u) { return g / (1 + std::exp(-g)) + u; }), {"gate-or-up-missing"});
  const Names adds{"attn_resid", "output"};
  add("no residual", adds, [](const Engine&, const Op& op) { return op.other; }, {"residual-missing", "buffer-aliased"});
  add("no branch", adds, [](const Engine&, const Op& op) { return op.x; }, {"branch-missing", "buffer-aliased"});
  add("the residual after the norm", adds, with([](const Engine& e, Op& op) {
        op.x = e.value(blk(op.layer, op.role == "output" ? "ffn_norm" : "attn_norm"), op.step);
      }),
      {"residual-from-elsewhere"});
  add("the residual from before attention", {"output"}, with([](const Engine& e, Op& op) {
        op.x = op.layer == 0 ? e.value("token_embd", op.step) : e.value(blk(op.layer - 1, "output"), op.step);
      }),
      {"residual-from-elsewhere"});
  add("the branch twice", adds, with([](const Engine&, Op& op) {
        for (float& v : op.other) v *= 2;
      }),
      {"residual-weighed"});
  add("the sum halved", adds, each([](float v) { return v / 2; }), {"residual-weighed", "value-scaled"});
  add("SiLU of SiLU", act, activation([](double g, double u) {
        const double once = g / (1 + std::exp(-g));
        return once / (1 + std::exp(-once)) * u;
      }),
      {"activation-other"});
  add("a logarithm for the rectifier", act, activation([](double g, double u) { return std::log(1 + std::exp(g)) * u; }),
      {"activation-other"});
  add("a steeper sigmoid", act, activation([](double g, double u) { return g / (1 + std::exp(-3 * g)) * u; }),
      {"activation-other"});
  add("gpt-oss's activation", act, activation([](double g, double u) {
        g = g > 7 ? 7 : g;
        return (std::min(std::max(u, -7.0), 7.0) + 1) * g / (1 + std::exp(-1.702 * g));
      }),
      {"activation-clamped"});
  add("no activation in the last columns", act, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= width / 2) y[i] = op.x[i] * op.other[i];
        }
      }),
      {"activation-missing"});
  add("the branch of the last token for all", adds, with([](const Engine&, Op& op) {
        const std::size_t width = op.x.size() / op.rows;
        for (std::size_t i = 0; i < op.other.size(); ++i) op.other[i] = op.other[op.other.size() - width + i % width];
      }),
      {"operands-misaligned"});
  add("up of the token before", act, with([](const Engine&, Op& op) {
        const auto width = static_cast<std::ptrdiff_t>(op.x.size() / op.rows);
        std::rotate(op.other.begin(), op.other.end() - width, op.other.end());
      }),
      {"operands-misaligned"});
  add("times for plus", adds,
      [](const Engine&, const Op& op) {
        Floats y = op.x;
        for (std::size_t i = 0; i < y.size(); ++i) y[i] *= op.other[i];
        return y;
      },
      {"residual-multiplied"});
  add("the branch not added in some columns", adds, then([](Floats& y, std::size_t width, const Op& op) {
        for (std::size_t i = 0; i < y.size(); ++i) {
          if (i % width >= 8 && i % width < 24) y[i] = op.x[i];
        }
      }),
      {"branch-missing"});
  add("the residual normalised in place", adds, with([](const Engine& e, Op& op) {
        Op norm = op;
        norm.role = "attn_norm";
        norm.w.data.assign(op.x.size() / op.rows, 1.0f);
        op.x = e.plain(norm);
      }),
      {"residual-normalized"});
}

}  // namespace plumb::diagnose::planted
