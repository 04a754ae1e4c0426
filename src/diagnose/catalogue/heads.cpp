// The heads of attention's output: a wrong order, or heads read in part.
#include <fmt/format.h>

#include <algorithm>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_heads {
namespace {

// For each head of the found output, the head of the right output that it equals. Empty if a head equals none.
std::vector<std::size_t> heads_held(const Question& q, std::size_t n_heads, std::size_t d) {
  constexpr double most_left = 0.05;
  const std::size_t width = n_heads * d;
  std::vector<std::size_t> held(n_heads);
  for (std::size_t h = 0; h < n_heads; ++h) {
    double least = infinity, size = 0;
    for (std::size_t other = 0; other < n_heads; ++other) {
      double error = 0;
      for (std::size_t r = 0; r < std::min<std::size_t>(q.rows.size(), 4); ++r) {
        const auto found = q.found.subspan(r * width + h * d, d);
        error += squared_distance(found, q.expected.subspan(r * width + other * d, d));
        if (other == 0) size += squares(found);
      }
      if (error < least) {
        least = error;
        held[h] = other;
      }
    }
    if (!(least <= most_left * most_left * size)) return {};
  }
  return held;
}

void exchanged(const Question& q, const plan::Attention& op, Candidates& out) {
  if (op.n_heads < 2 || !q.has_both()) return;
  const std::vector<std::size_t> held = heads_held(q, op.n_heads, op.head_dim);
  std::string list;
  bool is_other = false;
  for (std::size_t h = 0; h < held.size(); ++h) {
    is_other = is_other || held[h] != h;
    list += fmt::format("{}{}", h == 0 ? "" : ", ", held[h]);
  }
  const std::size_t d = op.head_dim;
  if (is_other) out.with_columns("heads " + list, held.size() * d, [&](std::size_t c) { return held[c / d] * d + c % d; });
}

void head_order(const Question&, const plan::Attention& op, Candidates& out) {
  if (op.n_heads < 2) return;
  out.with_columns("", std::size_t{op.head_dim} * op.n_heads,
                   [op](std::size_t c) { return c % op.n_heads * op.head_dim + c / op.n_heads; });
}

void part_of_head(const Question&, const plan::Attention& op, Candidates& out) {
  const std::uint32_t d = op.head_dim;
  for (const std::uint32_t n : std::set<std::uint32_t>{d / 2, d - 1, d - 4, 32, 64, 128}) {
    if (n == 0 || n >= d) continue;
    out.with_changed_input(fmt::format("scores are of the first {} of {} components", n, d), op.q,
                           [n, d](std::vector<float>& x) {
                             for (std::size_t i = 0; i < x.size(); ++i) {
                               if (i % d >= n) x[i] = 0;
                             }
                           });
  }
}

constexpr Hypothesis table[] = {
    {"attention-heads-exchanged", Kind::op, of<exchanged>, R"(attention's output has its heads in another order
Each head is right, and lies where another belongs.
write head h at h * head_dim)"},
    {"attention-head-order", Kind::op, of<head_order>, R"(attention's output is [head_dim, heads]
The result is written transposed.
head h's components lie at h * head_dim)"},
    {"attention-part-of-head", Kind::op, of<part_of_head>, R"(scores are made of a part of the head
The inner loop ends before head_dim: a head wider than the kernel was written for.
sum over all head_dim components)"},
};

}  // namespace
}  // namespace in_heads

std::span<const Hypothesis> heads() { return in_heads::table; }

}  // namespace plumb::diagnose::families
