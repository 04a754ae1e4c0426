// Attention of one query in double, for tests of kernels that compute it in float.
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
  std::size_t n_positions = 0;   // that the query attends to
  // The allowed error relative to `absolute`: a score's rounding to float, which exp carries to its weight and to the sum
  // of weights, and float sums.
  [[nodiscard]] double of_float() const {
    return (2 * (static_cast<double>(out.size()) + 8) * magnitude + 2 * (static_cast<double>(n_positions) + 16)) * 0x1p-24;
  }
};

// The attention of a token at `position`; key(s, i) and value(s, i) give the cache's elements. window: 0, or the most
// positions that the token attends to. soft_cap and sink are those of plan::Attention, for one head.
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
    // The cap's tanh adds an error of some units of its largest value, and does not increase the error of its input.
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
