// Norms: wrong eps, weight, bias or mean.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_norm {
namespace {

using In = std::span<const float>;

double mean(In x) {
  double sum = 0;
  for (const float v : x) sum += v;
  return sum / static_cast<double>(x.size());
}
double mean_square(In x) { return squares(x) / static_cast<double>(x.size()); }
// The factor of a row.
double factor(In x, double eps) { return 1 / std::sqrt(mean_square(x) + eps); }

std::vector<float> less_mean(In x) {
  std::vector<float> c(x.size());
  std::transform(x.begin(), x.end(), c.begin(), [m = mean(x)](float v) { return static_cast<float>(v - m); });
  return c;
}

// The values that a norm scales, in groups of n: its input or, in a layer norm, its input minus each group's mean.
std::vector<float> divided(const plan::Norm& op, In x, std::size_t n) {
  std::vector<float> c(x.begin(), x.end());
  for (std::size_t start = 0; op.kind == plan::NormKind::layer && start < c.size(); start += n)
    std::ranges::copy(less_mean(x.subspan(start, n)), c.begin() + static_cast<std::ptrdiff_t>(start));
  return c;
}
void add_bias(const plan::Norm& op, const Site& site, std::span<float> y) {
  if (!op.bias) return;
  const std::vector<float> bias = site.scene.vector(*op.bias);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
}

// Another norm of a group of components, of which w is the weight: y[i] = (x[i] - mean(x)) * factor * weight(w[i]).
struct Rule {
  double (*factor)(In x, In w, double eps) = [](In x, In, double eps) { return in_norm::factor(x, eps); };
  double (*weight)(double w) = [](double w) { return w; };
  bool subtracts_mean = false;
};

// The norm with another factor for every `size` components, which begin at `start` of the site's matrix.
void with_factor(Candidates& out, const plan::Norm& op, std::string detail, std::size_t size,
                 std::function<double(const Site& site, In x, std::size_t start)> of, const Rule& rule = {}) {
  out.add(std::move(detail), [op, size, of = std::move(of), rule](const Site& site) {
    const std::vector<float> w = op.weight ? site.scene.vector(*op.weight) : std::vector<float>(op.group, 1.0f);
    const std::vector<float> all = divided(op, site.scene.value(op.x), op.group);
    std::vector<float> y(all.size());
    for (std::size_t start = 0; start < y.size(); start += size) {
      const In x = In(all).subspan(start, size);
      const double m = rule.subtracts_mean ? mean(x) : 0;
      const double s = of ? of(site, x, start) : rule.factor(x, w, op.eps);
      for (std::size_t i = 0; i < size; ++i)
        y[start + i] = static_cast<float>((x[i] - m) * s * rule.weight(w[(start + i) % w.size()]));
    }
    add_bias(op, site, y);
    return y;
  });
}
void with_rule(const plan::Norm& op, std::string detail, const Rule& rule, Candidates& out) {
  with_factor(out, op, std::move(detail), op.group, {}, rule);
}
template <auto weight>
void weighed(const Question&, const plan::Norm& op, Candidates& out) {
  with_rule(op, "", {.weight = weight}, out);
}
template <auto factor>
void scaled(const Question&, const plan::Norm& op, Candidates& out) {
  with_rule(op, "", {.factor = factor}, out);
}

void other_eps(const Question& q, const plan::Norm& op, Candidates& out) {
  const auto add = [&](double eps) {
    const auto wrong = static_cast<float>(eps);
    if (wrong != op.eps) out.with(op, &plan::Norm::eps, wrong, fmt::format("eps {:.3g} instead of {:.3g}", eps, op.eps));
  };
  for (const double eps : {0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3}) add(eps);
  // The suspect's eps follows from found / expected = sqrt((mean square + eps) / (mean square + its eps)). The smallest
  // rows show it best.
  const std::size_t n = op.group;
  if (!q.has_both()) return;
  const std::vector<float> x = divided(op, *q.replay.value(op.x), n);
  std::vector<float> bias(n);
  if (op.bias) q.rows_of (*op.bias)(0, bias);
  const auto size_of = [&](In y) { return squared_distance(y, bias) / static_cast<double>(n); };
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
  constexpr double largest = 1;  // no eps is larger
  if (fitted && *fitted > 0 && *fitted <= largest) add(to_digits(*fitted, 3));
}

void mean_kept(const Question&, const plan::Norm& op, Candidates& out) {
  if (op.kind != plan::NormKind::layer) return;
  plan::Norm rms = op;
  rms.kind = plan::NormKind::rms;
  out.changed(rms);
  const auto of_variance = [](In x, In, double eps) { return factor(less_mean(x), eps); };
  with_rule(rms, "but for the variance", {.factor = of_variance}, out);
}

void other_bias(const Question& q, const plan::Norm& op, Candidates& out) {
  if (!op.bias) return;
  const plan::Weight& right = q.plan().weight(*op.bias);
  out.with_other_weights(q, *op.bias, [&](const plan::Weight& w) { return w.in() == right.in() && w.out() == 1; });
  for (const double by : {2.0, -1.0}) {
    out.with_changed_weight(by > 0 ? "added twice" : "subtracted", *op.bias, [by](std::span<float> b) {
      for (float& v : b) v = static_cast<float>(v * by);
    });
  }
}

double of_variance(In x, In, double eps) { return 1 / std::sqrt(mean_square(x) - std::pow(mean(x), 2) + eps); }

void mean_subtracted(const Question&, const plan::Norm& op, Candidates& out) {
  with_rule(op, "", {.factor = of_variance, .subtracts_mean = true}, out);
}

double of_weighted(In x, In w, double eps) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(double{x[i]} * w[i], 2);
  return 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
}

void skipped(const Question&, const plan::Norm& op, Candidates& out) {
  out.add("", [op](const Site& site) { return site.value(op.x); });
}

void part_of_row(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t n = op.group;
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
  const auto add = [&](std::string detail, const Rule& rule) { with_rule(op, std::move(detail), rule, out); };
  add("the standard deviation", {.factor = of_variance});
  add("the mean of absolutes", {.factor = [](In x, In, double eps) {
        double sum = 0;
        for (const float v : x) sum += std::abs(v);
        return 1 / (sum / static_cast<double>(x.size()) + eps);
      }});
  add("the largest", {.factor = [](In x, In, double eps) {
        float largest = 0;
        for (const float v : x) largest = std::max(largest, std::abs(v));
        return 1 / (largest + eps);
      }});
  add("the root mean square, with the mean subtracted afterwards", {.subtracts_mean = true});
}

// Each row, or head, with the factor of another.
void other_factor(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t width = q.width(), n = op.group;
  const auto add = [&](std::string detail, bool first_group, auto from) {
    with_factor(out, op, std::move(detail), n, [op, first_group, from, width, n](const Site& site, In, std::size_t start) {
      const std::size_t row = from(site.replay, site.rows[start / width]);
      const Values all = site.replay.value(op.x);
      return factor(divided(op, In(*all).subspan(row * width + (first_group ? 0 : start % width), n), n), op.eps);
    });
  };
  add("the step's first row's", false, [](const Replay& run, std::uint32_t row) { return run.step_of(row).begin; });
  add("the step's last row's", false, [](const Replay& run, std::uint32_t row) { return run.step_of(row).end - 1; });
  add("the row's before", false, [](const Replay&, std::uint32_t row) { return row == 0 ? row : row - 1; });
  if (n < width) add("the first head's", true, [](const Replay&, std::uint32_t row) { return row; });
}

// A row that is normalized in parts, of a head's length or of a thread block's.
void by_parts(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t n = op.group;
  for (const std::size_t size : std::set<std::size_t>{q.replay.parameters().head_dim, 32, 64, 128, 256}) {
    if (size == 0 || size >= n || n % size != 0) continue;
    with_factor(out, op, fmt::format("{} components each", size), size,
                [eps = op.eps](const Site&, In x, std::size_t) { return factor(x, eps); });
  }
}

// A norm of heads taken over the whole row.
void whole_row(const Question& q, const plan::Norm& op, Candidates& out) {
  if (op.group == q.width()) return;
  with_factor(out, op, "", q.width(), [eps = op.eps](const Site&, In x, std::size_t) { return factor(x, eps); });
}

// The mean over all rows of a step instead of each row's.
void over_rows(const Question& q, const plan::Norm& op, Candidates& out) {
  const std::size_t width = q.width();
  if (op.group != width) return;
  with_factor(out, op, "", width, [op, width](const Site& site, In, std::size_t start) {
    const auto [begin, end] = site.step(start / width);
    const Values all = site.replay.value(op.x);
    double sum = 0;
    for (std::size_t row = begin; row < end; ++row)
      sum += mean_square(divided(op, In(*all).subspan(row * width, width), width));
    return 1 / std::sqrt(sum / (end - begin) + op.eps);
  });
}

void other_weight(const Question& q, const plan::Norm& op, Candidates& out) {
  if (!op.weight) return;
  const plan::Weight& right = q.plan().weight(*op.weight);
  out.with_other_weights(q, *op.weight, [&](const plan::Weight& w) { return w.in() == right.in() && w.out() == 1; });
  for (const std::size_t by : {std::size_t{1}, right.in() - 1}) {
    out.with_changed_weight(
        fmt::format("{} one component {}", right.tensor.name, by == 1 ? "late" : "early"), *op.weight,
        [by](std::span<float> w) { std::rotate(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(by), w.end()); });
  }
}

constexpr Hypothesis table[] = {
    {"norm-eps", Kind::parameter, of<other_eps>, R"(the norm adds another eps
eps is the file's attention.layer_norm_rms_epsilon. An engine that has a constant of its own is off where the row is small, most in the first layers, and writes slightly worse text rather than garbage.
read eps from the file's metadata)"},
    {"norm-weight-missing", Kind::op, of<weighed<[](double) { return 1.0; }>>,
     R"(the norm's weight is not applied
The row is divided by its root mean square, and the learned factor of each component is left out.
multiply the normalised row by the norm's weight)"},
    {"norm-weight-twice", Kind::op, of<weighed<[](double w) { return w * w; }>>,
     R"(the norm's weight is applied twice
The weight was folded into the next matrix, or the kernel and its caller both multiply by it.
apply the norm's weight once)"},
    {"norm-weight-plus-one", Kind::op, of<weighed<[](double w) { return w + 1; }>>,
     R"(1 is added to the norm's weight
Gemma's checkpoints store weight - 1 and GGUF files have the 1 added already; here it is added again.
use the file's weight as it is)"},
    {"norm-weight-minus-one", Kind::op, of<weighed<[](double w) { return w - 1; }>>,
     R"(1 is taken from the norm's weight
The weight is converted as if it were stored with 1 added, which this file's is not.
use the file's weight as it is)"},
    {"norm-mean-subtracted", Kind::op, of<mean_subtracted>, R"(the norm subtracts the mean
That is LayerNorm. RMS norm divides by the root mean square and subtracts nothing.
divide by the root mean square of the row; subtract no mean)"},
    {"norm-mean-kept", Kind::op, of<mean_kept>, R"(the norm does not subtract the mean
That is RMS norm, or half of a layer norm, which divides the row less its mean by its standard deviation.
subtract the row's mean first)"},
    {"norm-bias-missing", Kind::op, of<without<&plan::Norm::bias>>, R"(the norm's bias is not added
The file has a bias beside the norm's weight; RMS norms have none.
add the norm's bias)"},
    {"norm-other-bias", Kind::op, of<other_bias>, R"(another bias is added to the norm
Another norm's, or the right one twice or with the wrong sign.
add the bias of the norm's name once)"},
    {"norm-sum-for-mean", Kind::op, of<scaled<[](In x, In, double eps) { return 1 / std::sqrt(squares(x) + eps); }>>,
     R"(the norm divides by the root of the sum of squares
The division by the number of components is missing, so the result is too small by its root.
divide the sum of squares by the row's length before the root)"},
    {"norm-eps-outside", Kind::op, of<scaled<[](In x, In, double eps) { return 1 / (std::sqrt(mean_square(x)) + eps); }>>,
     R"(eps is added to the root instead of under it
1 / (rms + eps) in place of 1 / sqrt(mean square + eps): larger by far than it should be for small rows.
add eps to the mean square, under the root)"},
    {"norm-not-rooted", Kind::op, of<scaled<[](In x, In, double eps) { return 1 / (mean_square(x) + eps); }>>,
     R"(the norm divides by the mean square
The square root is missing.
take the square root of the mean square)"},
    {"norm-not-normalized", Kind::op, of<scaled<[](In, In, double) { return 1.0; }>>,
     R"(the row is multiplied by the weight and not normalised
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
    {"norm-by-parts", Kind::op, of_shown<by_parts>, R"(parts of the row are normalised by themselves
Each group of threads, or each head, has a mean square of its own, where the row has one.
sum over all groups of threads before the root)"},
    {"norm-weight-before", Kind::op, of<scaled<of_weighted>>,
     R"(the norm's weight is applied before the mean square is taken
The factor is then that of the weighted row.
normalise, and then multiply by the weight)"},
    {"norm-other-factor", Kind::op, of_shown<other_factor>, R"(the row is divided by another row's root mean square
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
    {"norm-other-input", Kind::op, of<other_operand<&plan::Norm::x>>, R"(the norm reads another value
The residual stream has several values a layer: before attention, after it, and after the feed-forward.
give the norm the residual stream as it is there)"},
};

}  // namespace
}  // namespace in_norm

std::span<const Hypothesis> norm() { return in_norm::table; }

}  // namespace plumb::diagnose::families
