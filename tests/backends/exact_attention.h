// Attention of one query in double, for the tests of kernels that compute it in float.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace plumb::backends {

struct ExactAttention {
  std::vector<double> out;       // [head_dim]: sum of p[s] * values[s]
  std::vector<double> absolute;  // [head_dim]: sum of p[s] * |values[s]|
  double magnitude = 0;          // the largest of scale * sum |q[i] * keys[s, i]|
  double total = 0;              // sum of exp(score - largest score)
  std::size_t n_positions = 0;   // attended to
  // Rounding of a score to float, through exp in a weight and in the sum of weights, and float sums, as in
  // tests/engine/backend_agreement_test.cpp: relative to `absolute`.
  [[nodiscard]] double of_float() const {
    return (2 * (static_cast<double>(out.size()) + 8) * magnitude + 2 * (static_cast<double>(n_positions) + 16)) * 0x1p-24;
  }
};

// Of a token at `position`; key(s, i) and value(s, i) are the cache's. window: 0, or how many positions it sees at most;
// soft_cap and sink as plan::Attention has them for a head.
template <class Key, class Value>
ExactAttention exact_attention(std::span<const float> q, std::size_t position, std::size_t window, double scale, Key key,
                               Value value, double soft_cap = 0, double sink = -HUGE_VAL) {
  ExactAttention exact;
  const std::size_t first = window > 0 && position + 1 > window ? position + 1 - window : 0;
  std::vector<double> p;
  double largest = -HUGE_VAL;
  for (std::size_t s = first; s <= position; ++s) {
    double dot = 0, absolute = 0;
    for (std::size_t i = 0; i < q.size(); ++i) {
      const double product = double{q[i]} * key(s, i);
      dot += product;
      absolute += std::abs(product);
    }
    p.push_back(soft_cap > 0 ? soft_cap * std::tanh(dot * scale / soft_cap) : dot * scale);
    largest = std::max(largest, p.back());
    // A cap's tanh is right to some units of its largest value, and does not enlarge what comes in.
    exact.magnitude = std::max(exact.magnitude, absolute * scale + soft_cap);
  }
  largest = std::max(largest, sink);
  exact.total = std::exp(sink - largest);
  for (double& x : p) exact.total += x = std::exp(x - largest);
  exact.n_positions = p.size();
  exact.out.resize(q.size());
  exact.absolute.resize(q.size());
  for (std::size_t n = 0; n < p.size(); ++n) {
    for (std::size_t i = 0; i < q.size(); ++i) {
      const double v = value(first + n, i);
      exact.out[i] += p[n] / exact.total * v;
      exact.absolute[i] += p[n] / exact.total * std::abs(v);
    }
  }
  return exact;
}

}  // namespace plumb::backends
