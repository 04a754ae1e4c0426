// Mistakes in the parts that only GPT-2 has: learned positions, layer norms with a bias, an activation without a gate, and
// q, k and v in one tensor.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

Make activation(double (*f)(double x)) {
  return [f](const Engine&, const Op& op) {
    Floats y;
    for (const float x : op.x) y.push_back(static_cast<float>(f(x)));
    return y;
  };
}

// Rows from which the mean is not subtracted, divided by the root of their mean square or of their variance.
Make norm(bool of_variance) {
  return [of_variance](const Engine&, const Op& op) {
    const std::size_t n = op.w.data.size();
    Floats y(op.x.size());
    for (std::size_t row = 0; row < y.size(); row += n) {
      double mean = 0, squares = 0;
      for (std::size_t i = 0; i < n; ++i) {
        mean += op.x[row + i] / static_cast<double>(n);
        squares += double{op.x[row + i]} * op.x[row + i] / static_cast<double>(n);
      }
      const double scale = 1 / std::sqrt(squares - (of_variance ? mean * mean : 0) + op.config.eps);
      for (std::size_t i = 0; i < n; ++i) {
        y[row + i] = static_cast<float>(op.x[row + i] * scale * op.w.data[i] + op.bias.data[i]);
      }
    }
    return y;
  };
}

std::vector<Plant> make_faults() {
  const Names norms{"attn_norm", "ffn_norm", "output_norm"}, positions{"position_embd"};
  std::vector<Plant> f;
  f.push_back({"positions from 1",
               positions,
               with([](const Engine&, Op& op) {
                 for (float& x : op.x) x += 1;
               }),
               {"position-off-by-one"}});
  f.push_back({"positions from -1",
               positions,
               with([](const Engine&, Op& op) {
                 for (float& x : op.x) x = std::max(x - 1, 0.0F);
               }),
               {"position-off-by-one"}});
  f.push_back({"positions of the step",
               positions,
               with([](const Engine&, Op& op) {
                 for (float& x : op.x) x -= static_cast<float>(op.position);
               }),
               {"position-of-step"}});
  f.push_back({"positions from the end",
               positions,
               with([](const Engine&, Op& op) {
                 for (float& x : op.x) x = 63 - x;
               }),
               {"position-other"}});
  f.push_back({"tokens for positions",
               positions,
               with([](const Engine& e, Op& op) {
                 for (float& x : op.x) x = static_cast<float>(e.tokens()[static_cast<std::size_t>(x)] % 64);
               }),
               {"position-other"}});
  f.push_back({"positions not added", {"embd"}, [](const Engine&, const Op& op) { return op.x; }, {"position-missing"}});
  f.push_back({"the norm's bias left out",
               norms,
               with([](const Engine&, Op& op) { std::fill(op.bias.data.begin(), op.bias.data.end(), 0.0F); }),
               {"norm-bias-missing"}});
  f.push_back({"the norm's bias twice",
               norms,
               with([](const Engine&, Op& op) {
                 for (float& b : op.bias.data) b *= 2;
               }),
               {"norm-other-bias"}});
  f.push_back({"the other norm's bias",
               {"attn_norm", "ffn_norm"},
               with([](const Engine& e, Op& op) {
                 op.bias =
                     e.weight(fmt::format("blk.{}.{}.bias", op.layer, op.role == "attn_norm" ? "ffn_norm" : "attn_norm"));
               }),
               {"norm-other-bias"}});
  f.push_back({"an RMS norm", norms, norm(false), {"norm-mean-kept"}});
  f.push_back({"the mean taken off for the variance alone", norms, norm(true), {"norm-mean-kept"}});
  f.push_back({"another eps", norms, with([](const Engine&, Op& op) { op.config.eps = 0.01; }), {"norm-eps"}});
  f.push_back({"the norm's weight left out",
               norms,
               with([](const Engine&, Op& op) { std::fill(op.w.data.begin(), op.w.data.end(), 1.0F); }),
               {"norm-weight-missing"}});
  const auto act = [&](std::string name, double (*function)(double x), std::string cause) {
    f.push_back({std::move(name), {"ffn_act"}, activation(function), {std::move(cause)}});
  };
  act(
      "GELU by erf", [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }, "activation-other");
  act(
      "quick GELU", [](double x) { return x / (1 + std::exp(-1.702 * x)); }, "activation-other");
  act(
      "SiLU", [](double x) { return x / (1 + std::exp(-x)); }, "activation-other");
  act(
      "ReLU", [](double x) { return std::max(x, 0.0); }, "activation-other");
  act(
      "no activation", [](double x) { return x; }, "activation-missing");
  f.push_back({"K's rows of the joined weight for V's",
               {"attn_v"},
               with([](const Engine& e, Op& op) { op.w = e.weight(fmt::format("blk.{}.attn_k.weight", op.layer)); }),
               {"weight-other"}});
  f.push_back({"the joined rows as those of Q, K and V in turn",
               {"attn_q", "attn_k", "attn_v"},
               with([](const Engine& e, Op& op) {
                 const Matrix &w = e.weight(blk(op.layer, "attn_qkv.weight")),
                              &bias = e.weight(blk(op.layer, "attn_qkv.bias"));
                 const std::size_t part = op.role == "attn_q" ? 0 : op.role == "attn_k" ? 1 : 2, n = op.w.width;
                 for (std::size_t j = 0; j < op.w.rows; ++j) {
                   std::copy_n(&w.data[(3 * j + part) * n], n, &op.w.data[j * n]);
                   op.bias.data[j] = bias.data[3 * j + part];
                 }
               }),
               {"weight-joined"}});
  f.push_back({"K's part of the joined bias for the others",
               {"attn_q", "attn_v"},
               with([](const Engine& e, Op& op) { op.bias = e.weight(blk(op.layer, "attn_k.bias")); }),
               {"bias-other"}});
  f.push_back({"the joined bias left out",
               {"attn_q", "attn_k", "attn_v"},
               with([](const Engine&, Op& op) { std::fill(op.bias.data.begin(), op.bias.data.end(), 0.0F); }),
               {"bias-dropped"}});
  return f;
}

}  // namespace

const std::vector<Plant>& gpt2_faults() {
  static const std::vector<Plant> all = make_faults();
  return all;
}

}  // namespace plumb::diagnose::planted
