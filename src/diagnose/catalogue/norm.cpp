// RMS norms: eps, weight, what is averaged.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <optional>
#include <set>

#include "diagnose/hypothesis.h"

namespace plumb::diagnose::families {

namespace in_norm {
namespace {

// Calls f(x, y, weight, eps) for every group that the norm covers.
using GroupNorm = void (*)(std::span<const float> x, std::span<float> y, std::span<const float> weight, double eps);

Candidate group_wise(const plan::Norm& op, GroupNorm f, std::string detail = "") {
  return {std::move(detail), [op, f](const Site& site) {
            const std::vector<float> weight = site.scene->vector(op.weight);
            const auto x = site.scene->value(op.x);
            std::vector<float> y(x.size());
            for (std::size_t i = 0; i < x.size(); i += weight.size()) {
              f(x.subspan(i, weight.size()), std::span(y).subspan(i, weight.size()), weight, op.eps);
            }
            return y;
          }};
}

std::vector<Candidate> one(const Question& q, GroupNorm f) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  return {group_wise(*op, f)};
}

double mean_square(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return sum / static_cast<double>(x.size());
}

std::vector<Candidate> other_eps(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const auto add = [&](double eps) {
    plan::Norm wrong = *op;
    wrong.eps = static_cast<float>(eps);
    if (wrong.eps != op->eps) result.push_back(changed(wrong, fmt::format("eps {:.3g} instead of {:.3g}", eps, op->eps)));
  };
  for (const double eps : {0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3}) add(eps);
  // The eps that the suspect's sizes ask for: found / expected = sqrt((mean square + eps) / (mean square + its eps)). The
  // smallest rows tell it best.
  const std::size_t n = q.plan().weight(op->weight).in();
  if (q.found.empty() || q.expected.size() != q.found.size()) return result;
  const Values x = q.replay.value(op->x);
  double least = std::numeric_limits<double>::infinity();
  std::optional<double> fitted;
  for (std::size_t r = 0; r < q.rows.size(); ++r) {
    for (std::size_t at = 0; at + n <= q.width(); at += n) {
      const double square = mean_square(std::span(*x).subspan(q.rows[r] * q.width() + at, n));
      const double found = mean_square(q.found.subspan(r * q.width() + at, n));
      if (square >= least || !(found > 0)) continue;
      least = square;
      fitted = (square + op->eps) * mean_square(q.expected.subspan(r * q.width() + at, n)) / found - square;
    }
  }
  // To three digits, as people write it.
  constexpr double largest = 1;  // what is more is no eps
  if (fitted && *fitted > 0 && *fitted <= largest) add(std::strtod(fmt::format("{:.2e}", *fitted).c_str(), nullptr));
  return result;
}

std::vector<Candidate> without_weight(const Question& q) {
  return one(q, [](auto x, auto y, auto, double eps) {
    const double s = 1 / std::sqrt(mean_square(x) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s);
  });
}

std::vector<Candidate> weight_twice(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / std::sqrt(mean_square(x) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i] * w[i]);
  });
}

std::vector<Candidate> weight_plus_one(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / std::sqrt(mean_square(x) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * (1.0 + w[i]));
  });
}

std::vector<Candidate> weight_minus_one(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / std::sqrt(mean_square(x) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * (w[i] - 1.0));
  });
}

std::vector<Candidate> mean_subtracted(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    double mean = 0;
    for (const float v : x) mean += v / static_cast<double>(x.size());
    const double s = 1 / std::sqrt(mean_square(x) - mean * mean + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>((x[i] - mean) * s * w[i]);
  });
}

std::vector<Candidate> sum_for_mean(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / std::sqrt(mean_square(x) * static_cast<double>(x.size()) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i]);
  });
}

std::vector<Candidate> eps_outside(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / (std::sqrt(mean_square(x)) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i]);
  });
}

std::vector<Candidate> not_rooted(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    const double s = 1 / (mean_square(x) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i]);
  });
}

std::vector<Candidate> not_normalized(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double) {
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * w[i];
  });
}

std::vector<Candidate> skipped(const Question& q) {
  return one(q, [](auto x, auto y, auto, double) { std::copy(x.begin(), x.end(), y.begin()); });
}

// The op with another factor of a group than 1 / sqrt(mean square + eps).
Candidate by_factor(const plan::Norm& op, std::string detail,
                    std::function<double(std::span<const float> x, double eps)> factor) {
  return {std::move(detail), [op, factor = std::move(factor)](const Site& site) {
            const std::vector<float> w = site.scene->vector(op.weight);
            const auto x = site.scene->value(op.x);
            std::vector<float> y(x.size());
            for (std::size_t start = 0; start < x.size(); start += w.size()) {
              const double s = factor(x.subspan(start, w.size()), op.eps);
              for (std::size_t i = 0; i < w.size(); ++i) y[start + i] = static_cast<float>(x[start + i] * s * w[i]);
            }
            return y;
          }};
}

std::vector<Candidate> part_of_row(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const std::size_t n = q.plan().weight(op->weight).in();
  // Which components are summed, and whether the sum is divided by their number or by that of all.
  const auto add = [&](const std::string& detail, std::size_t first, std::size_t last, std::size_t step) {
    if (first >= last || last > n) return;
    for (const bool of_all : {false, true}) {
      if (of_all && q.is_inner()) continue;
      result.push_back(by_factor(*op, of_all ? detail + ", divided by the number of all" : detail,
                                 [first, last, step, of_all](std::span<const float> x, double eps) {
                                   double sum = 0, count = 0;
                                   for (std::size_t i = first; i < last; i += step) sum += double{x[i]} * x[i], ++count;
                                   return 1 / std::sqrt(sum / (of_all ? static_cast<double>(x.size()) : count) + eps);
                                 }));
    }
  };
  add("the last component is left out of the mean", 0, n - 1, 1);
  add("the first component is left out of the mean", 1, n, 1);
  for (const std::size_t size : std::set<std::size_t>{n / 2, n / 4, n * 3 / 4, n > 32 ? n - 32 : 0, n > 64 ? n - 64 : 0, 32,
                                                      64, 128, 256, 512, 1024}) {
    if (size + 1 < n) add(fmt::format("the mean is that of the first {} components", size), 0, size, 1);
  }
  if (q.is_inner()) return result;
  add("the mean is that of the second half", n / 2, n, 1);
  add("the mean is that of every second component", 0, n, 2);
  add("the mean is that of every second component, from the second on", 1, n, 2);
  return result;
}

std::vector<Candidate> other_statistic(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  const auto mean = [](std::span<const float> x) {
    double sum = 0;
    for (const float v : x) sum += v;
    return sum / static_cast<double>(x.size());
  };
  std::vector<Candidate> result;
  result.push_back(by_factor(*op, "the standard deviation", [mean](std::span<const float> x, double eps) {
    return 1 / std::sqrt(mean_square(x) - std::pow(mean(x), 2) + eps);
  }));
  result.push_back(by_factor(*op, "the mean of absolutes", [](std::span<const float> x, double eps) {
    double sum = 0;
    for (const float v : x) sum += std::abs(v);
    return 1 / (sum / static_cast<double>(x.size()) + eps);
  }));
  result.push_back(by_factor(*op, "the largest", [](std::span<const float> x, double eps) {
    float largest = 0;
    for (const float v : x) largest = std::max(largest, std::abs(v));
    return 1 / (largest + eps);
  }));
  result.push_back(group_wise(
      *op,
      [](auto x, auto y, auto w, double eps) {
        double sum = 0;
        for (const float v : x) sum += v / static_cast<double>(x.size());
        const double s = 1 / std::sqrt(mean_square(x) + eps);
        for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>((x[i] - sum) * s * w[i]);
      },
      "the root mean square, with the mean subtracted afterwards"));
  return result;
}

// Rows of the norm's input, in place of each row's own, for its factor.
std::vector<Candidate> other_factor(const Question& q) {
  if (q.is_inner()) return {};
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const std::size_t width = q.width(), n = q.plan().weight(op->weight).in();
  const auto add = [&](std::string detail, auto from, bool first_group) {
    result.push_back({std::move(detail), [op = *op, from, first_group, width, n](const Site& site) {
                        const std::vector<float> w = site.scene->vector(op.weight);
                        const auto x = site.scene->value(op.x);
                        const Values all = site.replay->value(op.x);
                        std::vector<float> y(x.size());
                        for (std::size_t start = 0; start < x.size(); start += n) {
                          const std::size_t row = from(site.replay->rows(), site.rows[start / width]);
                          const std::size_t group = first_group ? 0 : start % width;
                          const double s =
                              1 / std::sqrt(mean_square(std::span(*all).subspan(row * width + group, n)) + op.eps);
                          for (std::size_t i = 0; i < n; ++i) y[start + i] = static_cast<float>(x[start + i] * s * w[i]);
                        }
                        return y;
                      }});
  };
  using Rows = std::span<const backends::Row>;
  add(
      "the step's first row's",
      [](Rows rows, std::size_t row) {
        while (row > 0 && rows[row - 1].sequence == rows[row].sequence) --row;
        return row;
      },
      false);
  add(
      "the step's last row's",
      [](Rows rows, std::size_t row) {
        while (row + 1 < rows.size() && rows[row + 1].sequence == rows[row].sequence) ++row;
        return row;
      },
      false);
  add(
      "the row's before", [](Rows, std::size_t row) { return row == 0 ? row : row - 1; }, false);
  if (n < width)
    add(
        "the first head's", [](Rows, std::size_t row) { return row; }, true);
  return result;
}

// A row that is normalised in parts: a head's length each, or a block of threads'.
std::vector<Candidate> by_parts(const Question& q) {
  if (q.is_inner()) return {};
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  const std::size_t n = q.plan().weight(op->weight).in();
  std::vector<Candidate> result;
  for (const std::size_t size : std::set<std::size_t>{q.replay.parameters().head_dim, 32, 64, 128, 256}) {
    if (size == 0 || size >= n || n % size != 0) continue;
    result.push_back({fmt::format("{} components each", size), [op = *op, size](const Site& site) {
                        const std::vector<float> w = site.scene->vector(op.weight);
                        const auto x = site.scene->value(op.x);
                        std::vector<float> y(x.size());
                        for (std::size_t start = 0; start < x.size(); start += size) {
                          const double s = 1 / std::sqrt(mean_square(x.subspan(start, size)) + op.eps);
                          for (std::size_t i = start; i < start + size; ++i)
                            y[i] = static_cast<float>(x[i] * s * w[i % w.size()]);
                        }
                        return y;
                      }});
  }
  return result;
}

std::vector<Candidate> weight_before(const Question& q) {
  return one(q, [](auto x, auto y, auto w, double eps) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(double{x[i]} * w[i], 2);
    const double s = 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * s * w[i]);
  });
}

std::vector<Candidate> other_input(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  return op == nullptr ? std::vector<Candidate>() : with_other_values(q, op->x);
}

// A norm of heads taken over the whole row.
std::vector<Candidate> whole_row(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr || q.plan().weight(op->weight).in() == q.width()) return {};
  return {{"", [op = *op, width = q.width()](const Site& site) {
             const std::vector<float> w = site.scene->vector(op.weight);
             const auto x = site.scene->value(op.x);
             std::vector<float> y(x.size());
             for (std::size_t start = 0; start < x.size(); start += width) {
               const double s = 1 / std::sqrt(mean_square(x.subspan(start, width)) + op.eps);
               for (std::size_t i = 0; i < width; ++i)
                 y[start + i] = static_cast<float>(x[start + i] * s * w[i % w.size()]);
             }
             return y;
           }}};
}

// The mean over all rows of a step instead of each row's.
std::vector<Candidate> over_rows(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr || q.plan().weight(op->weight).in() != q.width()) return {};
  return {{"", [op = *op, width = q.width()](const Site& site) {
             const std::vector<float> w = site.scene->vector(op.weight);
             const Values all = site.replay->value(op.x);
             const auto x = site.scene->value(op.x);
             std::vector<float> y(x.size());
             for (std::size_t r = 0; r < site.rows.size(); ++r) {
               const auto& rows = site.replay->rows();
               const std::uint32_t step = rows[site.rows[r]].sequence;
               double sum = 0, n = 0;
               for (std::size_t other = 0; other < rows.size(); ++other) {
                 if (rows[other].sequence != step) continue;
                 sum += mean_square(std::span(*all).subspan(other * width, width));
                 n += 1;
               }
               const double s = 1 / std::sqrt(sum / n + op.eps);
               for (std::size_t i = 0; i < width; ++i) y[r * width + i] = static_cast<float>(x[r * width + i] * s * w[i]);
             }
             return y;
           }}};
}

std::vector<Candidate> other_weight(const Question& q) {
  const auto* op = q.as<plan::Norm>();
  if (op == nullptr) return {};
  std::vector<Candidate> result;
  const plan::Weight& right = q.plan().weight(op->weight);
  for (std::uint32_t i = 0; i < q.plan().weights.size(); ++i) {
    const plan::Weight& other = q.plan().weights[i];
    if (i == op->weight.index || other.in() != right.in() || other.out() != 1) continue;
    result.push_back(with_weight(fmt::format("{} instead of {}", other.tensor.name, right.tensor.name), op->weight,
                                 backends::reference::rows_of(other.tensor)));
  }
  for (const std::size_t by : {std::size_t{1}, right.in() - 1}) {
    result.push_back(
        with_weight(fmt::format("{} one component {}", right.tensor.name, by == 1 ? "late" : "early"), op->weight,
                    [rows = backends::reference::rows_of(right.tensor), by](std::uint64_t row, std::span<float> w) {
                      rows(row, w);
                      std::rotate(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(by), w.end());
                    }));
  }
  return result;
}

constexpr Hypothesis table[] = {
    {"norm-eps", "the norm adds another eps",
     "eps is the file's attention.layer_norm_rms_epsilon. An engine that has a constant of its own is off where the row is "
     "small, most in the first layers, and writes slightly worse text rather than garbage.",
     "read eps from the file's metadata", other_eps},
    {"norm-weight-missing", "the norm's weight is not applied",
     "The row is divided by its root mean square, and the learned factor of each component is left out.",
     "multiply the normalised row by the norm's weight", without_weight},
    {"norm-weight-twice", "the norm's weight is applied twice",
     "The weight was folded into the next matrix, or the kernel and its caller both multiply by it.",
     "apply the norm's weight once", weight_twice},
    {"norm-weight-plus-one", "1 is added to the norm's weight",
     "Gemma's checkpoints store weight - 1 and GGUF files have the 1 added already; here it is added again.",
     "use the file's weight as it is", weight_plus_one},
    {"norm-weight-minus-one", "1 is taken from the norm's weight",
     "The weight is converted as if it were stored with 1 added, which this file's is not.",
     "use the file's weight as it is", weight_minus_one},
    {"norm-mean-subtracted", "the norm subtracts the mean",
     "That is LayerNorm. RMS norm divides by the root mean square and subtracts nothing.",
     "divide by the root mean square of the row; subtract no mean", mean_subtracted},
    {"norm-sum-for-mean", "the norm divides by the root of the sum of squares",
     "The division by the number of components is missing, so the result is too small by its root.",
     "divide the sum of squares by the row's length before the root", sum_for_mean},
    {"norm-eps-outside", "eps is added to the root instead of under it",
     "1 / (rms + eps) in place of 1 / sqrt(mean square + eps): larger by far than it should be for small rows.",
     "add eps to the mean square, under the root", eps_outside},
    {"norm-not-rooted", "the norm divides by the mean square", "The square root is missing.",
     "take the square root of the mean square", not_rooted},
    {"norm-not-normalized", "the row is multiplied by the weight and not normalised",
     "The division by the root mean square is missing.", "divide the row by its root mean square", not_normalized},
    {"norm-skipped", "the norm is not applied at all", "The output is the input.", "apply the norm", skipped},
    {"norm-part-of-row", "the norm averages a part of the row",
     "The reduction ends early: a thread group covers fewer components than the row has, or a remainder is left out.",
     "sum the squares of all components; check the reduction's bounds", part_of_row},
    {"norm-other-statistic", "the norm divides by something else than the root mean square",
     "The standard deviation, the mean of absolutes and the largest belong to other norms.",
     "divide by the root of the mean square", other_statistic},
    {"norm-by-parts", "parts of the row are normalised by themselves",
     "Each group of threads, or each head, has a mean square of its own, where the row has one.",
     "sum over all groups of threads before the root", by_parts},
    {"norm-weight-before", "the norm's weight is applied before the mean square is taken",
     "The factor is then that of the weighted row.", "normalise, and then multiply by the weight", weight_before},
    {"norm-other-factor", "the row is divided by another row's root mean square",
     "The sum's place in shared memory is indexed by something else than the row, or is read before it is written.",
     "give each row and head a sum of its own", other_factor},
    {"norm-whole-row", "a norm of heads is taken over all heads at once",
     "The q and k norms normalise each head by itself.", "normalise over head_dim components", whole_row},
    {"norm-over-tokens", "one mean square is used for all tokens",
     "The reduction runs over the rows of the step too: right for one token, wrong for a prompt.",
     "reduce each row by itself", over_rows},
    {"norm-other-weight", "another norm's weight is used", "Two norm tensors are exchanged, or the layer index is off.",
     "bind the norm's weight by its name", other_weight},
    {"norm-other-input", "the norm reads another value",
     "The residual stream has several values a layer: before attention, after it, and after the feed-forward.",
     "give the norm the residual stream as it is there", other_input},
};

}  // namespace
}  // namespace in_norm

std::span<const Hypothesis> norm() { return in_norm::table; }

}  // namespace plumb::diagnose::families
