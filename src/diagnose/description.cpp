#include "diagnose/evidence.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

namespace {

class Description {
 public:
  Description(CheckedRun& run, const Evidence& evidence)
      : run_(run),
        evidence_(evidence),
        found_(evidence.part(evidence.found, evidence.place.rows)),
        expected_(evidence.part(evidence.expected, evidence.place.rows)) {}

  std::vector<std::string> sentences() {
    arithmetic();
    rows();
    columns();
    affine_fit();
    permutation();
    correlation();
    return std::move(known_);
  }

 private:
  void arithmetic() {
    std::size_t coarsest = 0;
    for (const std::size_t check : evidence_.place.checks)
      coarsest = std::max(coarsest, run_.isolation.checks[check].arithmetic);
    if (coarsest >= arithmetics().size()) return;
    known_.push_back(fmt::format("it follows in another arithmetic than {}: {}",
                                 run_.allowance.strict ? "--strict allows" : "other ops of its kind",
                                 arithmetics()[coarsest].name));
  }

  void rows() {
    const std::vector<std::uint32_t>& rows = evidence_.place.rows;
    const std::size_t n = rows.size() + evidence_.healthy.size();
    known_.push_back(rows.size() == n
                         ? fmt::format("all {} rows differ", n)
                         : fmt::format("{} of {} rows differ, the first at position {}", rows.size(), n, rows.front()));
  }

  // The columns with errors, and their heads.
  void columns() {
    const std::size_t width = evidence_.width;
    std::vector<double> error(width, 0);
    std::size_t n_not_finite = 0;
    double total = 0;
    for (std::size_t i = 0; i < found_.size(); ++i) {
      if (!std::isfinite(found_[i])) {
        ++n_not_finite;
        continue;
      }
      const double e = double{found_[i]} - expected_[i];
      error[i % width] += e * e;
      total += e * e;
    }
    if (n_not_finite > 0) known_.push_back(fmt::format("{} of {} elements are not finite", n_not_finite, found_.size()));
    std::vector<std::size_t> bad;
    for (std::size_t c = 0; c < width; ++c) {
      if (error[c] > 1e-3 * total / static_cast<double>(width)) bad.push_back(c);
    }
    if (bad.empty() || bad.size() == width) return;
    const bool is_run = bad.back() - bad.front() + 1 == bad.size();
    known_.push_back(
        is_run ? fmt::format("columns {} to {} of {} differ", bad.front(), bad.back(), width)
               : fmt::format("{} of {} columns differ, between {} and {}", bad.size(), width, bad.front(), bad.back()));
    const std::size_t d = run_.replay.parameters().head_dim;
    std::set<std::size_t> heads;
    for (const std::size_t c : bad) heads.insert(c / d);
    const bool has_heads = evidence_.place.value.find(".attn_") != std::string::npos && width % d == 0;
    if (has_heads && heads.size() < width / d)
      known_.push_back(fmt::format("in heads {} of {}", fmt::join(heads, ", "), width / d));
  }

  void affine_fit() {
    double ff = 0, yy = 0, fy = 0, f = 0, y = 0;
    for (std::size_t i = 0; i < found_.size(); ++i) {
      if (!std::isfinite(found_[i])) continue;
      ff += double{found_[i]} * found_[i];
      yy += double{expected_[i]} * expected_[i];
      fy += double{found_[i]} * expected_[i];
      f += found_[i];
      y += expected_[i];
    }
    const double n = static_cast<double>(found_.size());
    const double covariance = fy - f * y / n, variance = yy - y * y / n, spread = ff - f * f / n;
    if (!(variance > 0 && spread > 0)) return;
    const double slope = covariance / variance, r = covariance / std::sqrt(variance * spread);
    known_.push_back(fmt::format("best affine fit: {:.4g} x the right value {:+.4g}, correlation {:.4f}", slope,
                                 (f - slope * y) / n, r));
  }

  // Whether a row holds the right numbers in another order.
  void permutation() {
    const auto first_row = [&](const std::vector<float>& of) {
      return std::vector<float>(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(evidence_.width));
    };
    std::vector<float> a = first_row(found_), b = first_row(expected_);
    const double in_place = rms_difference(a, b);
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    const double sorted = rms_difference(a, b), distance = sorted / std::max(rms(b), 1e-30);
    known_.push_back(distance < 1e-2 && sorted < 0.1 * in_place
                         ? "the rows hold the right numbers in another order"
                         : fmt::format("no permutation of the right row (sorted, they differ by {:.2g})", distance));
  }

  // Another value of the trace with which the output correlates.
  void correlation() {
    const plan::Plan& plan = run_.replay.plan();
    const std::vector<std::uint32_t> rows = sample(evidence_.place.rows, 2);
    const std::vector<float> found = evidence_.part(evidence_.found, rows);
    std::optional<std::string> best;
    double largest = 0.98;
    for (std::uint32_t i = 0; i < plan.values.size(); ++i) {
      const plan::Value& value = plan.values[i];
      if (value.width != evidence_.width || !run_.suspect.knows_all({i}) || value.name == evidence_.place.value) continue;
      const std::vector<float> other = gather(*run_.replay.value({i}), evidence_.width, rows);
      if (!std::all_of(found.begin(), found.end(), [](float v) { return std::isfinite(v); })) return;
      const double r = std::abs(dot(found, other)) / std::sqrt(std::max(squares(found) * squares(other), 1e-60));
      if (r <= largest) continue;
      largest = r;
      best = fmt::format("it goes with {} (correlation {:.4f})", value.name, r);
    }
    if (best) known_.push_back(*best);
  }

  CheckedRun& run_;
  const Evidence& evidence_;
  std::vector<float> found_, expected_;  // the faulty rows
  std::vector<std::string> known_;
};

}  // namespace

std::vector<std::string> description(CheckedRun& run, const Evidence& evidence) {
  return Description(run, evidence).sentences();
}

}  // namespace plumb::diagnose
