// Norms: wrong eps, weight, bias or mean.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <optional>
#include <set>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_norm {
namespace {

using In = std::span<const float>;
using Out = std::span<float>;

double mean(In x) {
  double sum = 0;
  for (const float v : x) sum += v;
  return sum / static_cast<double>(x.size());
}
double mean_square(In x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return sum / static_cast<double>(x.size());
}
// The factor of a row.
double factor(In x, double eps) { return 1 / std::sqrt(mean_square(x) + eps); }

// The values that a norm scales, in groups of n: its input or, in a layer norm, its input minus each group's mean.
std::vector<float> divided(const plan::Norm& op, In x, std::size_t n) {
  std::vector<float> c(x.begin(), x.end());
  for (std::size_t start = 0; op.kind == plan::NormKind::layer && start < c.size(); start += n) {
    const double m = mean(x.subspan(start, n));
    for (std::size_t i = start; i < start + n; ++i) c[i] = static_cast<float>(x[i] - m);
  }
  return c;
}
void add_bias(const plan::Norm& op, const Site& site, Out y) {
  if (!op.bias) return;
  const std::vector<float> bias = site.scene.vector(*op.bias);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
}

// A different norm of one group of components: x and y are [n], w is the weight. x has the values that a norm scales; the
// bias is added to y afterwards.
using GroupNorm = void (*)(In x, Out y, In w, double eps);

void group_wise(Candidates& out, const plan::Norm& op, std::string detail, GroupNorm norm) {
  out.add(std::move(detail), [op, norm](const Site& site) {
    const std::vector<float> w = site.scene.vector(op.weight);
    const std::vector<float> x = divided(op, site.scene.value(op.x), w.size());
    std::vector<float> y(x.size());
    for (std::size_t i = 0; i < x.size(); i += w.size())
      norm(In(x).subspan(i, w.size()), Out(y).subspan(i, w.size()), w, op.eps);
    add_bias(op, site, y);
    return y;
  });
}
template <GroupNorm norm>
void each(const Question&, const plan::Norm& op, Candidates& out) {
  group_wise(out, op, "", norm);
}

// The norm with another factor for every `size` components, which begin at `start` of the site's matrix.
void with_factor(Candidates& out, const plan::Norm& op, std::string detail, std::size_t size,
                 std::function<double(const Site& site, In x, std::size_t start)> of) {
  out.add(std::move(detail), [op, size, of = std::move(of)](const Site& site) {
    const std::vector<float> w = site.scene.vector(op.weight);
    const std::vector<float> x = divided(op, site.scene.value(op.x), w.size());
    std::vector<float> y(x.size());
    for (std::size_t start = 0; start < x.size(); start += size) {
      const double s = of(site, In(x).subspan(start, size), start);
      for (std::size_t i = start; i < start + size; ++i) y[i] = static_cast<float>(x[i] * s * w[i % w.size()]);
    }
    add_bias(op, site, y);
    return y;
  });
}

void other_eps(const Question& q, const plan::Norm& op, Candidates& out) {
  const auto add = [&](double eps) {
    plan::Norm wrong = op;
    wrong.eps = static_cast<float>(eps);
    if (wrong.eps != op.eps) out.changed(wrong, fmt::format("eps {:.3g} instead of {:.3g}", eps, op.eps));
  };
  for (const double eps : {0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3}) add(eps);
  // The suspect's eps follows from found / expected = sqrt((mean square + eps) / (mean square + its eps)). The smallest
  // rows show it best.
  const std::size_t n = q.plan().weight(op.weight).in();
  if (!q.has_both()) return;
  const std::vector<float> x = divided(op, *q.replay.value(op.x), n);
  std::vector<float> bias(n);
  if (op.bias) backends::reference::rows_of(q.plan().weight(*op.bias).tensor)(0, bias);
  const auto size_of = [&](In y) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += std::pow(double{y[i]} - bias[i], 2);
    return sum / static_cast<double>(n);
  };
  double least = infinity;
  std::optional<double> fitted;
  for (std::size_t r = 0; r < q.rows.size(); ++r) {
    for (std::size_t at = 0; at + n <= q.width(); at += n) {
      const double square = mean_square(In(x).subspan(q.rows[r] * q.width() + at, n));
      const double found = size_of(q.found.subspan(r * q.width() + at, n));
      if (square >= least || !(found > 0)) continue;
      least = square;
      fitted = (square + op.eps) * size_of(q.expected.subspan(r * q.width() + at, n)) / found - square;
    }
  }
  // To three digits, as people write it.
  constexpr double largest = 1;  // no eps is larger
  if (fitted && *fitted > 0 && *fitted <= largest) add(std::strtod(fmt::format("{:.2e}", *fitted).c_str(), nullptr));
}

void without_weight(In x, Out y, In, double eps) {
  const double s = factor(x, eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s);
}

void weight_twice(In x, Out y, In w, double eps) {
  const double s = factor(x, eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i] * w[i]);
}

void weight_plus_one(In x, Out y, In w, double eps) {
  const double s = factor(x, eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * (1.0 + w[i]));
}

void weight_minus_one(In x, Out y, In w, double eps) {
  const double s = factor(x, eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * (w[i] - 1.0));
}

void of_kind(const plan::Norm& op, plan::NormKind kind, std::string detail, Candidates& out) {
  plan::Norm wrong = op;
  wrong.kind = kind;
  out.changed(wrong, std::move(detail));
}

void mean_kept(const Question&, const plan::Norm& op, Candidates& out) {
  if (op.kind != plan::NormKind::layer) return;
  of_kind(op, plan::NormKind::rms, "", out);
  out.add("but for the variance", [op](const Site& site) {
    const std::vector<float> w = site.scene.vector(op.weight);
    const In x = site.scene.value(op.x);
    const std::vector<float> c = divided(op, x, w.size());
    std::vector<float> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double s = factor(In(c).subspan(i / w.size() * w.size(), w.size()), op.eps);
      y[i] = static_cast<float>(x[i] * s * w[i % w.size()]);
    }
    add_bias(op, site, y);
    return y;
  });
}

void without_bias(const Question&, const plan::Norm& op, Candidates& out) {
  if (!op.bias) return;
  plan::Norm wrong = op;
  wrong.bias.reset();
  out.changed(wrong);
}

void other_bias(const Question& q, const plan::Norm& op, Candidates& out) {
  if (!op.bias) return;
  const plan::Weight& right = q.plan().weight(*op.bias);
  out.with_other_weights(q, *op.bias, [&](const plan::Weight& w) { return w.in() == right.in() && w.out() == 1; });
  for (const double by : {2.0, -1.0}) {
    out.with_weight(by > 0 ? "added twice" : "subtracted", *op.bias,
                    [rows = backends::reference::rows_of(right.tensor), by](std::uint64_t row, std::span<float> b) {
                      rows(row, b);
                      for (float& v : b) v = static_cast<float>(v * by);
                    });
  }
}

void mean_subtracted(In x, Out y, In w, double eps) {
  double mean = 0;
  for (const float v : x) mean += v / static_cast<double>(x.size());
  const double s = 1 / std::sqrt(mean_square(x) - mean * mean + eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>((x[i] - mean) * s * w[i]);
}

void multiplied(In x, Out y, In w, double s) {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i]);
}

void sum_for_mean(In x, Out y, In w, double eps) {
  multiplied(x, y, w, 1 / std::sqrt(mean_square(x) * static_cast<double>(x.size()) + eps));
}

void eps_outside(In x, Out y, In w, double eps) { multiplied(x, y, w, 1 / (std::sqrt(mean_square(x)) + eps)); }

void not_rooted(In x, Out y, In w, double eps) { multiplied(x, y, w, 1 / (mean_square(x) + eps)); }

void not_normalized(In x, Out y, In w, double) {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * w[i];
}

void skipped(const Question&, const plan::Norm& op, Candidates& out) {
  out.add("", [op](const Site& site) {
    const In x = site.scene.value(op.x);
    return std::vector<float>(x.begin(), x.end());
  });
}

void weight_before(In x, Out y, In w, double eps) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(double{x[i]} * w[i], 2);
  multiplied(x, y, w, 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps));
}

void part_of_row(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t n = q.plan().weight(op.weight).in();
  // Sums only some components, and divides by their number or by the number of all.
  const auto add = [&](const std::string& detail, std::size_t first, std::size_t last, std::size_t step) {
    if (first >= last || last > n) return;
    for (const bool of_all : {false, true}) {
      if (of_all && q.is_inner()) continue;
      with_factor(out, op, of_all ? detail + ", divided by the number of all" : detail, n,
                  [first, last, step, of_all, eps = op.eps](const Site&, std::span<const float> x, std::size_t) {
                    double sum = 0, count = 0;
                    for (std::size_t i = first; i < last; i += step) sum += double{x[i]} * x[i], ++count;
                    return 1 / std::sqrt(sum / (of_all ? static_cast<double>(x.size()) : count) + eps);
                  });
    }
  };
  add("the last component is left out of the mean", 0, n - 1, 1);
  add("the first component is left out of the mean", 1, n, 1);
  for (const std::size_t size : std::set<std::size_t>{n / 2, n / 4, n * 3 / 4, n > 32 ? n - 32 : 0, n > 64 ? n - 64 : 0, 32,
                                                      64, 128, 256, 512, 1024}) {
    if (size + 1 < n) add(fmt::format("the mean is that of the first {} components", size), 0, size, 1);
  }
  if (q.is_inner()) return;
  add("the mean is that of the second half", n / 2, n, 1);
  add("the mean is that of every second component", 0, n, 2);
  add("the mean is that of every second component, from the second on", 1, n, 2);
}

void other_statistic(const Question&, const plan::Norm& op, Candidates& out) {
  group_wise(out, op, "the standard deviation", [](In x, Out y, In w, double eps) {
    multiplied(x, y, w, 1 / std::sqrt(mean_square(x) - std::pow(mean(x), 2) + eps));
  });
  group_wise(out, op, "the mean of absolutes", [](In x, Out y, In w, double eps) {
    double sum = 0;
    for (const float v : x) sum += std::abs(v);
    multiplied(x, y, w, 1 / (sum / static_cast<double>(x.size()) + eps));
  });
  group_wise(out, op, "the largest", [](In x, Out y, In w, double eps) {
    float largest = 0;
    for (const float v : x) largest = std::max(largest, std::abs(v));
    multiplied(x, y, w, 1 / (largest + eps));
  });
  group_wise(out, op, "the root mean square, with the mean subtracted afterwards", [](In x, Out y, In w, double eps) {
    double mean = 0;
    for (const float v : x) mean += v / static_cast<double>(x.size());
    const double s = factor(x, eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>((x[i] - mean) * s * w[i]);
  });
}

// Each row, or head, with the factor of another.
void other_factor(const Question& q, const plan::Norm& op, Candidates& out) {
  if (q.is_inner()) return;
  const std::size_t width = q.width(), n = q.plan().weight(op.weight).in();
  const auto add = [&](std::string detail, bool first_group, auto from) {
    with_factor(out, op, std::move(detail), n, [op, first_group, from, width, n](const Site& site, In, std::size_t start) {
      const std::size_t row = from(site.replay.rows(), site.rows[start / width]);
      const Values all = site.replay.value(op.x);
      return factor(divided(op, In(*all).subspan(row * width + (first_group ? 0 : start % width), n), n), op.eps);
    });
  };
  using Rows = std::span<const backends::Row>;
  add("the step's first row's", false, [](Rows rows, std::uint32_t row) { return step_of(rows, row).begin; });
  add("the step's last row's", false, [](Rows rows, std::uint32_t row) { return step_of(rows, row).end - 1; });
  add("the row's before", false, [](Rows, std::uint32_t row) { return row == 0 ? row : row - 1; });
  if (n < width) add("the first head's", true, [](Rows, std::uint32_t row) { return row; });
}

// A row that is normalized in parts, of a head's length or of a thread block's.
void by_parts(const Question& q, const plan::Norm& op, Candidates& out) {
  if (q.is_inner()) return;
  const std::size_t n = q.plan().weight(op.weight).in();
  for (const std::size_t size : std::set<std::size_t>{q.replay.parameters().head_dim, 32, 64, 128, 256}) {
    if (size == 0 || size >= n || n % size != 0) continue;
    with_factor(out, op, fmt::format("{} components each", size), size,
                [eps = op.eps](const Site&, In x, std::size_t) { return factor(x, eps); });
  }
}

void other_input(const Question& q, const plan::Norm& op, Candidates& out) { out.with_other_values(q, op.x); }

// A norm of heads taken over the whole row.
void whole_row(const Question& q, const plan::Norm& op, Candidates& out) {
  if (q.plan().weight(op.weight).in() == q.width()) return;
  with_factor(out, op, "", q.width(), [eps = op.eps](const Site&, In x, std::size_t) { return factor(x, eps); });
}

// The mean over all rows of a step instead of each row's.
void over_rows(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t width = q.width();
  if (q.plan().weight(op.weight).in() != width) return;
  with_factor(out, op, "", width, [op, width](const Site& site, In, std::size_t start) {
    const auto [begin, end] = step_of(site.replay.rows(), site.rows[start / width]);
    const Values all = site.replay.value(op.x);
    double sum = 0;
    for (std::size_t row = begin; row < end; ++row)
      sum += mean_square(divided(op, In(*all).subspan(row * width, width), width));
    return 1 / std::sqrt(sum / (end - begin) + op.eps);
  });
}

void other_weight(const Question& q, const plan::Norm& op, Candidates& out) {
  const plan::Weight& right = q.plan().weight(op.weight);
  out.with_other_weights(q, op.weight, [&](const plan::Weight& w) { return w.in() == right.in() && w.out() == 1; });
  for (const std::size_t by : {std::size_t{1}, right.in() - 1}) {
    out.with_weight(fmt::format("{} one component {}", right.tensor.name, by == 1 ? "late" : "early"), op.weight,
                    [rows = backends::reference::rows_of(right.tensor), by](std::uint64_t row, std::span<float> w) {
                      rows(row, w);
                      std::rotate(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(by), w.end());
                    });
  }
}

constexpr Hypothesis table[] = {
    {"norm-eps", Kind::parameter, of<other_eps>, R"(the norm adds another eps
eps is the file's attention.layer_norm_rms_epsilon. An engine that has a constant of its own is off where the row is small, most in the first layers, and writes slightly worse text rather than garbage.
read eps from the file's metadata)"},
    {"norm-weight-missing", Kind::op, of<each<without_weight>>, R"(the norm's weight is not applied
The row is divided by its root mean square, and the learned factor of each component is left out.
multiply the normalised row by the norm's weight)"},
    {"norm-weight-twice", Kind::op, of<each<weight_twice>>, R"(the norm's weight is applied twice
The weight was folded into the next matrix, or the kernel and its caller both multiply by it.
apply the norm's weight once)"},
    {"norm-weight-plus-one", Kind::op, of<each<weight_plus_one>>, R"(1 is added to the norm's weight
Gemma's checkpoints store weight - 1 and GGUF files have the 1 added already; here it is added again.
use the file's weight as it is)"},
    {"norm-weight-minus-one", Kind::op, of<each<weight_minus_one>>, R"(1 is taken from the norm's weight
The weight is converted as if it were stored with 1 added, which this file's is not.
use the file's weight as it is)"},
    {"norm-mean-subtracted", Kind::op, of<each<mean_subtracted>>, R"(the norm subtracts the mean
That is LayerNorm. RMS norm divides by the root mean square and subtracts nothing.
divide by the root mean square of the row; subtract no mean)"},
    {"norm-mean-kept", Kind::op, of<mean_kept>, R"(the norm does not subtract the mean
That is RMS norm, or half of a layer norm, which divides the row less its mean by its standard deviation.
subtract the row's mean first)"},
    {"norm-bias-missing", Kind::op, of<without_bias>, R"(the norm's bias is not added
The file has a bias beside the norm's weight; RMS norms have none.
add the norm's bias)"},
    {"norm-other-bias", Kind::op, of<other_bias>, R"(another bias is added to the norm
Another norm's, or the right one twice or with the wrong sign.
add the bias of the norm's name once)"},
    {"norm-sum-for-mean", Kind::op, of<each<sum_for_mean>>, R"(the norm divides by the root of the sum of squares
The division by the number of components is missing, so the result is too small by its root.
divide the sum of squares by the row's length before the root)"},
    {"norm-eps-outside", Kind::op, of<each<eps_outside>>, R"(eps is added to the root instead of under it
1 / (rms + eps) in place of 1 / sqrt(mean square + eps): larger by far than it should be for small rows.
add eps to the mean square, under the root)"},
    {"norm-not-rooted", Kind::op, of<each<not_rooted>>, R"(the norm divides by the mean square
The square root is missing.
take the square root of the mean square)"},
    {"norm-not-normalized", Kind::op, of<each<not_normalized>>, R"(the row is multiplied by the weight and not normalised
The division by the root mean square is missing.
divide the row by its root mean square)"},
    {"norm-skipped", Kind::op, of<skipped>, R"(the norm is not applied at all
The output is the input.
apply the norm)"},
    {"norm-part-of-row", Kind::op, of<part_of_row>, R"(the norm averages a part of the row
The reduction ends early: a thread group covers fewer components than the row has, or a remainder is left out.
sum the squares of all components; check the reduction's bounds)"},
    {"norm-other-statistic", Kind::op, of<other_statistic>, R"(the norm divides by something else than the root mean square
The standard deviation, the mean of absolutes and the largest belong to other norms.
divide by the root of the mean square)"},
    {"norm-by-parts", Kind::op, of<by_parts>, R"(parts of the row are normalised by themselves
Each group of threads, or each head, has a mean square of its own, where the row has one.
sum over all groups of threads before the root)"},
    {"norm-weight-before", Kind::op, of<each<weight_before>>,
     R"(the norm's weight is applied before the mean square is taken
The factor is then that of the weighted row.
normalise, and then multiply by the weight)"},
    {"norm-other-factor", Kind::op, of<other_factor>, R"(the row is divided by another row's root mean square
The sum's place in shared memory is indexed by something else than the row, or is read before it is written.
give each row and head a sum of its own)"},
    {"norm-whole-row", Kind::op, of<whole_row>, R"(a norm of heads is taken over all heads at once
The q and k norms normalise each head by itself.
normalise over head_dim components)"},
    {"norm-over-tokens", Kind::op, of<over_rows>, R"(one mean square is used for all tokens
The reduction runs over the rows of the step too: right for one token, wrong for a prompt.
reduce each row by itself)"},
    {"norm-other-weight", Kind::op, of<other_weight>, R"(another norm's weight is used
Two norm tensors are exchanged, or the layer index is off.
bind the norm's weight by its name)"},
    {"norm-other-input", Kind::op, of<other_input>, R"(the norm reads another value
The residual stream has several values a layer: before attention, after it, and after the feed-forward.
give the norm the residual stream as it is there)"},
};

}  // namespace
}  // namespace in_norm

std::span<const Hypothesis> norm() { return in_norm::table; }

}  // namespace plumb::diagnose::families
