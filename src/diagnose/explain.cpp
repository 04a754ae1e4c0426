#include "diagnose/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace plumb::diagnose {

namespace {

// A hypothesis fits where its error is within the allowance and at most this share of the right op's error, …
constexpr double most_residual = 0.5;
// … or where it explains all but this share, whatever the allowance.
constexpr double clear_residual = 0.02;
// … or where it gives this share of the wrong elements, and no fewer than so many, to within rounding: mistakes differ in
// what they do at the ends of rows and buffers. An element is wrong beyond most_single standard deviations.
constexpr double most_elements_share = 0.8, rounding_sigmas = 4;
constexpr std::size_t least_elements = 32;
// Another fits as well as the best if its residual is no larger than this many times the best's.
constexpr double as_well = 4;
// Rows on which a hypothesis is tried first, and those on which it must hold.
constexpr std::size_t few_rows = 2, some_rows = 8;
// Outputs of a product with many on which a hypothesis is tried before all others.
constexpr std::size_t some_columns = 512;
// Ops of a region that are each tried by themselves.
constexpr std::size_t most_region = 40;

double rms_difference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = double{a[i]} - b[i];
    if (std::isnan(d) && (std::isnan(a[i]) != std::isnan(b[i]))) return infinity;
    if (std::isinf(d)) return infinity;
    if (!std::isnan(d)) sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(1, a.size())));
}

double rms(std::span<const float> a) {
  double sum = 0;
  for (const float v : a) sum += std::isfinite(v) ? double{v} * v : 0;
  return std::sqrt(sum / static_cast<double>(std::max<std::size_t>(1, a.size())));
}

std::vector<float> rows_of_matrix(const std::vector<float>& data, std::size_t width, std::span<const std::uint32_t> rows) {
  std::vector<float> out(rows.size() * width);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(rows[i] * width), width,
                out.begin() + static_cast<std::ptrdiff_t>(i * width));
  }
  return out;
}

// Up to n of a list, evenly spread, the last among them.
std::vector<std::uint32_t> sample(const std::vector<std::uint32_t>& all, std::size_t n) {
  if (all.size() <= n) return all;
  std::vector<std::uint32_t> result;
  for (std::size_t i = 0; i < n; ++i) result.push_back(all[(i + 1) * all.size() / n - 1]);
  return result;
}

// An op at fault with all that a hypothesis is measured by; matrices are of all rows of the run.
struct Fault {
  Place place;
  std::size_t width = 0;
  double factor = 1;  // of the allowance
  std::vector<float> expected, found, variance;
  std::vector<std::uint32_t> healthy;  // other rows of the steps at fault

  [[nodiscard]] std::vector<float> part(const std::vector<float>& of, std::span<const std::uint32_t> rows) const {
    return rows_of_matrix(of, width, rows);
  }
};

struct Match {
  Cause cause;
  std::size_t op = 0;            // where the mistake is made
  std::vector<std::size_t> ops;  // all of them, where it is made in several of a region
  std::size_t hypothesis = 0, candidate = 0;
  bool explains_healthy = true;  // the rows that are not at fault follow from it too
  Mistake mistake;
};

class Explainer {
 public:
  Explainer(Replay& replay, const Suspect& suspect, const model::Model& model, Isolation& isolation,
            const Allowance& allowance, const SearchLimits& limits)
      : replay_(replay),
        suspect_(suspect),
        model_(model),
        plan_(replay.plan()),
        isolation_(isolation),
        allowance_(allowance),
        seconds_(limits.seconds),
        end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int>(limits.seconds * 1000))) {}

  Explanation run() {
    look_behind_coarse_arithmetic();
    for (const auto& [op, checks] : faulty_ops()) {
      const std::vector<std::size_t> left = left_by_earlier(op, checks);
      if (!left.empty()) explain(op, left);
    }
    merge();
    prove();
    try_alternatives();
    judge();
    for (Finding& finding : result_.findings) {
      if (incomplete_ && !finding.cause)
        finding.known.push_back(fmt::format(
            "not all causes were tried: the search stops after {:g} s; a trace with more values is searched faster",
            seconds_));
    }
    return std::move(result_);
  }

 private:
  // Where the run does not follow from the first cause, it may from another that fits the op as well.
  void try_alternatives() {
    constexpr std::size_t most_tried = 4;
    const auto refuted = [&] { return result_.proof && result_.proof->outcome == Proof::Outcome::not_reproduced; };
    if (!refuted() || result_.findings.size() != 1) return;
    std::vector<const Hypothesis*> others;
    for (const Cause& other : result_.findings.front().alternatives) {
      if (other.hypothesis != result_.findings.front().cause->hypothesis && others.size() < most_tried)
        others.push_back(other.hypothesis);
    }
    const std::optional<Proof> first_proof = result_.proof;
    const std::vector<Explained> as_ranked = explained_;
    const auto merge_again = [&] {
      result_.findings.clear();
      commits_.clear();
      merge();
    };
    for (const Hypothesis* const other : others) {
      explained_ = as_ranked;
      bool everywhere = true;
      for (Explained& e : explained_) {
        const auto found = std::find_if(e.matches.begin(), e.matches.end(),
                                        [&](const Match& match) { return match.cause.hypothesis == other; });
        everywhere = everywhere && found != e.matches.end();
        if (found != e.matches.end()) std::rotate(e.matches.begin(), found, found + 1);
      }
      if (!everywhere) continue;
      merge_again();
      prove();
      if (!refuted()) return;
    }
    if (others.empty()) return;
    explained_ = as_ranked;
    merge_again();
    result_.proof = first_proof;
  }

  struct Explained {
    Fault fault;
    std::vector<Match> matches;
  };

  [[nodiscard]] bool out_of_time() const { return std::chrono::steady_clock::now() > end_; }

  [[nodiscard]] std::map<std::size_t, std::vector<std::size_t>> faulty_ops() const {
    std::map<std::size_t, std::vector<std::size_t>> result;
    for (std::size_t i = 0; i < isolation_.checks.size(); ++i) {
      if (isolation_.checks[i].at_fault) result[isolation_.checks[i].op].push_back(i);
    }
    return result;
  }

  [[nodiscard]] std::vector<std::uint32_t> steps_of(const std::vector<std::size_t>& checks) const {
    std::vector<std::uint32_t> steps(checks.size());
    std::transform(checks.begin(), checks.end(), steps.begin(),
                   [&](std::size_t check) { return isolation_.checks[check].step; });
    return steps;
  }

  // The checks of an op that earlier faults do not account for. Where the trace lacks steps, attention reads keys and
  // values that the reference computed, without the mistakes that the suspect made in those steps.
  std::vector<std::size_t> left_by_earlier(std::size_t op, const std::vector<std::size_t>& checks) {
    const std::vector<std::size_t> region = replay_.region(op, steps_of(checks));
    std::vector<const Explained*> earlier;
    for (const Explained& e : explained_) {
      if (e.fault.place.op != op && std::binary_search(region.begin(), region.end(), e.fault.place.op))
        earlier.push_back(&e);
    }
    if (earlier.empty()) return checks;
    std::vector<std::size_t> left;
    if (std::none_of(earlier.begin(), earlier.end(), [](const Explained* e) { return e->matches.empty(); })) {
      Replay trial = this->trial();
      for (const Explained* e : earlier) {
        for (Commit& commit : commit_of(e->matches.front(), e->fault)) trial.commit(std::move(commit));
      }
      const Fault fault = fault_of(op, checks, isolation_.groups[isolation_.group_of[checks.front()]].arithmetic);
      const std::vector<float> y = trial.compute(op);
      const std::vector<std::uint32_t> rows = replay_.rows_of(op);
      for (const std::size_t c : checks) {
        Check& check = isolation_.checks[c];
        std::vector<std::uint32_t> of_run(check.n_rows), of_op;
        std::iota(of_run.begin(), of_run.end(), check.first_row);
        for (const std::uint32_t row : of_run)
          of_op.push_back(static_cast<std::uint32_t>(std::find(rows.begin(), rows.end(), row) - rows.begin()));
        check.ratio = misfit(fault.part(fault.found, of_run), rows_of_matrix(y, fault.width, of_op),
                             fault.part(fault.variance, of_run), fault.width, fault.factor)
                          .ratio;
        if (check.ratio > 1) left.push_back(c);
      }
    }
    // What follows from a fault whose cause is not known cannot be told from a fault of its own.
    for (const std::size_t c : checks) isolation_.checks[c].at_fault = std::count(left.begin(), left.end(), c) > 0;
    return left;
  }

  // A run of its own with what the suspect shows, to make mistakes in.
  [[nodiscard]] Replay trial() const {
    return {model_, replay_.rows(), &suspect_, replay_.rows_of(replay_.producer(plan_.logits)), replay_.n_threads()};
  }

  [[nodiscard]] std::string_view value_of(std::size_t op) const { return plan_.value(*plan::output(plan_.ops[op])).name; }

  Fault fault_of(std::size_t op, const std::vector<std::size_t>& checks, std::size_t arithmetic) {
    Fault fault;
    const plan::ValueId out = *plan::output(plan_.ops[op]);
    fault.width = plan_.value(out).width;
    fault.place.op = op;
    fault.place.value = plan_.value(out).name;
    fault.place.layer = layer_of(fault.place.value);
    fault.place.checks = checks;
    const std::vector<std::size_t> region = replay_.region(op, steps_of(checks));
    for (const std::size_t r : region) fault.place.region.emplace_back(value_of_any(r));
    fault.factor = allowance_.factor * region_factor(replay_, region);
    ProductSums sums;
    const Arithmetic& a = arithmetics()[arithmetic];
    std::vector<float> y =
        std::holds_alternative<plan::Linear>(plan_.ops[op]) ? replay_.product(op, &a, sums) : replay_.compute(op);
    std::vector<float> v = replay_.variance(op, y, sums, a);
    const trace::Dtype dtype = suspect_.dtype(out);
    for (std::size_t i = 0; i < v.size(); ++i) {
      const double bound = std::max(rounding_of(dtype) * std::abs(double{y[i]}), least_of(dtype));
      v[i] += static_cast<float>(bound * bound / 3);
    }
    // As matrices of all rows.
    const std::vector<std::uint32_t> rows = replay_.rows_of(op);
    const auto spread = [&](std::vector<float> part) {
      if (rows.size() == suspect_.n_rows()) return part;
      std::vector<float> all(suspect_.n_rows() * fault.width, std::numeric_limits<float>::quiet_NaN());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        std::copy_n(part.begin() + static_cast<std::ptrdiff_t>(i * fault.width), fault.width,
                    all.begin() + static_cast<std::ptrdiff_t>(rows[i] * fault.width));
      }
      return all;
    };
    fault.expected = spread(std::move(y));
    fault.variance = spread(std::move(v));
    fault.found = suspect_.observe(out)->data;
    for (const std::size_t c : checks) {
      Check& check = isolation_.checks[c];
      std::vector<std::uint32_t> all(check.n_rows);
      std::iota(all.begin(), all.end(), check.first_row);
      // What is only looked at more finely keeps its description.
      if (check.at_fault) {
        diagnose::describe(check, fault.part(fault.found, all), fault.part(fault.expected, all),
                           fault.part(fault.variance, all), fault.width);
        check.allowed_rms *= fault.factor;
      }
      fault.place.steps.push_back(check.step);
      for (std::uint32_t row = check.first_row; row < check.first_row + check.n_rows; ++row) {
        const std::uint32_t one[] = {row};
        const double ratio = misfit(fault.part(fault.found, one), fault.part(fault.expected, one),
                                    fault.part(fault.variance, one), fault.width, fault.factor)
                                 .ratio;
        (ratio > 1 ? fault.place.rows : fault.healthy).push_back(row);
      }
    }
    if (fault.place.rows.empty()) std::swap(fault.place.rows, fault.healthy);
    return fault;
  }

  [[nodiscard]] std::string value_of_any(std::size_t op) const {
    const auto out = plan::output(plan_.ops[op]);
    return out ? plan_.value(*out).name : std::string(plan::name(plan_.ops[op]));
  }

  // How well y explains the suspect's rows.
  [[nodiscard]] Cause measure(const Fault& fault, std::span<const std::uint32_t> rows, std::span<const float> y) const {
    Cause cause;
    const std::vector<float> found = fault.part(fault.found, rows), expected = fault.part(fault.expected, rows);
    std::vector<float> variance = fault.part(fault.variance, rows);
    const double right = rms_difference(found, expected), wrong = rms_difference(found, y);
    cause.residual = right == 0          ? 1
                     : std::isinf(right) ? (std::isinf(wrong) ? 1 : wrong / std::max(rms(y), 1e-30))
                                         : wrong / right;
    if (!std::isfinite(cause.residual)) cause.residual = infinity;
    cause.relative = wrong / std::max(rms(found), 1e-30);
    // A mistake that makes results larger makes their rounding larger.
    const double growth = rms(y) / std::max(rms(expected), 1e-30);
    if (growth > 1) {
      for (float& v : variance) v *= static_cast<float>(growth * growth);
    }
    cause.ratio = misfit(found, y, variance, fault.width, fault.factor).ratio;
    std::size_t n_wrong = 0, n_explained = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double sigma = std::sqrt(double{variance[i]}) * fault.factor;
      if (!(std::abs(double{found[i]} - expected[i]) > most_single * sigma)) continue;
      ++n_wrong;
      n_explained += std::abs(double{found[i]} - y[i]) <= rounding_sigmas * sigma ? 1 : 0;
    }
    cause.explains_elements =
        n_wrong >= least_elements && static_cast<double>(n_explained) >= most_elements_share * static_cast<double>(n_wrong);
    return cause;
  }
  [[nodiscard]] static bool fits(const Cause& cause) {
    return (cause.ratio <= 1 && cause.residual <= most_residual) || cause.residual <= clear_residual ||
           (cause.explains_elements && cause.residual < 1);
  }

  // A candidate's output at the fault's op for some rows, the mistake being made in the ops given.
  [[nodiscard]] std::vector<float> output(const Fault& fault, std::span<const std::pair<std::size_t, Mistake>> mistakes,
                                          const std::vector<std::uint32_t>& rows, std::uint32_t column_stride = 1) {
    if (mistakes.size() == 1 && mistakes[0].first == fault.place.op) {
      View view(replay_, rows);
      view.take_columns(column_stride);
      view.prepare(plan_.ops[fault.place.op]);
      const Site site{.op = &plan_.ops[fault.place.op],
                      .op_index = fault.place.op,
                      .scene = &view.scene(),
                      .rows = view.rows(),
                      .parameters = &replay_.parameters(),
                      .replay = &replay_};
      return mistakes[0].second(site);
    }
    Replay trial = this->trial();
    for (const auto& [op, mistake] : mistakes) trial.commit({.op = op, .rows = {}, .mistake = mistake});
    const std::vector<float> y = trial.compute(fault.place.op);
    const std::vector<std::uint32_t> of = replay_.rows_of(fault.place.op);
    std::vector<float> out;
    for (const std::uint32_t row : rows) {
      const auto at = static_cast<std::size_t>(std::find(of.begin(), of.end(), row) - of.begin());
      out.insert(out.end(), y.begin() + static_cast<std::ptrdiff_t>(at * fault.width),
                 y.begin() + static_cast<std::ptrdiff_t>((at + 1) * fault.width));
    }
    return out;
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Fault& fault, std::size_t op, const Hypothesis& hypothesis) {
    if (hypothesis.candidates == nullptr) return {};
    std::vector<float> found, expected;
    if (op == fault.place.op) {
      found = fault.part(fault.found, fault.place.rows);
      expected = fault.part(fault.expected, fault.place.rows);
    }
    const Question question{.op = plan_.ops[op],
                            .op_index = op,
                            .replay = replay_,
                            .rows = fault.place.rows,
                            .found = found,
                            .expected = expected};
    return hypothesis.candidates(question);
  }

  // Tries one mistake in the ops given, on few rows and then on more.
  void attempt(const Fault& fault, std::vector<std::pair<std::size_t, Mistake>> mistakes, const Candidate& variant,
               std::size_t hypothesis, std::size_t candidate, std::vector<Match>& matches) {
    const std::string& detail = variant.detail;
    // What was never written names no mistake but that: any that gives something small would fit.
    const bool all_zero =
        !fault.place.rows.empty() && mistakes.front().first == fault.place.op &&
        std::all_of(fault.place.rows.begin(), fault.place.rows.end(), [&](std::uint32_t row) {
          const auto begin = fault.found.begin() + static_cast<std::ptrdiff_t>(row * fault.width);
          return std::all_of(begin, begin + static_cast<std::ptrdiff_t>(fault.width), [](float v) { return v == 0; });
        });
    if (all_zero && !catalogue()[hypothesis].name.starts_with("buffer-")) return;
    if (variant.by_column && fault.width > 2 * some_columns && mistakes.size() == 1 &&
        mistakes[0].first == fault.place.op && std::holds_alternative<plan::Linear>(plan_.ops[fault.place.op])) {
      const auto stride = static_cast<std::uint32_t>(fault.width / some_columns);
      const std::vector<std::uint32_t> rows = sample(fault.place.rows, few_rows);
      const std::vector<float> y = output(fault, mistakes, rows, stride), found = fault.part(fault.found, rows),
                               expected = fault.part(fault.expected, rows);
      double wrong = 0, right = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (i % fault.width % stride != 0 || !std::isfinite(found[i])) continue;
        wrong += std::pow(double{found[i]} - y[i], 2);
        right += std::pow(double{found[i]} - expected[i], 2);
      }
      // A fault in other columns than the sample's leaves nothing to tell by.
      if (right > 0 && !(wrong < 2 * most_residual * most_residual * right)) return;
    }
    const std::vector<std::uint32_t> few = sample(fault.place.rows, few_rows), some = sample(fault.place.rows, some_rows);
    Cause cause = measure(fault, few, output(fault, mistakes, few));
    if (cause.residual > most_residual && !fits(cause)) return;
    if (some.size() > few.size()) cause = measure(fault, some, output(fault, mistakes, some));
    if (!fits(cause)) return;
    Match match;
    match.cause = cause;
    match.cause.hypothesis = &catalogue()[hypothesis];
    match.cause.detail = detail;
    match.cause.op = value_of_any(mistakes.front().first);
    match.op = mistakes.front().first;
    for (const auto& [op, mistake] : mistakes) match.ops.push_back(op);
    match.hypothesis = hypothesis;
    match.candidate = candidate;
    match.mistake = mistakes.front().second;
    if (!fault.healthy.empty()) {
      const auto rows = sample(fault.healthy, few_rows);
      const std::vector<float> y = output(fault, mistakes, rows);
      match.explains_healthy =
          misfit(fault.part(fault.found, rows), y, fault.part(fault.variance, rows), fault.width, fault.factor).ratio <=
          1.5;
    }
    matches.push_back(std::move(match));
  }

  // All hypotheses on the op at fault and, where inner values are missing, on the ops of its region.
  std::vector<Match> search(const Fault& fault) {
    std::vector<Match> matches;
    std::vector<std::size_t> region = replay_.region(fault.place.op, fault.place.steps);
    std::reverse(region.begin(), region.end());
    std::map<std::string, std::vector<std::size_t>> by_role;
    for (const std::size_t op : region) {
      if (plan::output(plan_.ops[op])) by_role[std::string(role(value_of_any(op)))].push_back(op);
    }
    const bool each = region.size() <= most_region;
    for (std::size_t h = 0; h < catalogue().size(); ++h) {
      for (const auto& [name, ops] : by_role) {
        if (out_of_time()) {
          incomplete_ = true;
          break;
        }
        std::vector<std::vector<Candidate>> of_ops;
        for (const std::size_t op : ops) of_ops.push_back(candidates(fault, op, catalogue()[h]));
        if (ops.size() > 1) {
          // The same mistake in all layers of the region.
          for (std::size_t c = 0; c < of_ops.front().size(); ++c) {
            std::vector<std::pair<std::size_t, Mistake>> mistakes;
            for (std::size_t i = 0; i < ops.size(); ++i) {
              if (c < of_ops[i].size()) mistakes.emplace_back(ops[i], of_ops[i][c].mistake);
            }
            attempt(fault, std::move(mistakes), of_ops.front()[c], h, c, matches);
          }
        }
        for (std::size_t i = 0; each && i < ops.size(); ++i) {
          for (std::size_t c = 0; c < of_ops[i].size(); ++c) {
            attempt(fault, {{ops[i], of_ops[i][c].mistake}}, of_ops[i][c], h, c, matches);
          }
        }
      }
    }
    return sorted(std::move(matches));
  }

  static std::vector<Match> sorted(std::vector<Match> matches) {
    std::stable_sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
      if (a.explains_healthy != b.explains_healthy) return a.explains_healthy;
      // Equally good ones stay in the catalogue's order, which goes from the specific to the general.
      return a.cause.residual * as_well < b.cause.residual && b.cause.residual > 1e-3;
    });
    if (matches.empty()) return matches;
    const double best = std::min_element(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
                          return a.cause.residual < b.cause.residual;
                        })->cause.residual;
    // Where what was found is next to nothing, so is the difference to anything that is.
    const bool is_near =
        std::any_of(matches.begin(), matches.end(), [](const Match& m) { return m.cause.relative < 0.01; });
    std::erase_if(matches, [&](const Match& m) {
      return m.cause.residual > std::max(best * as_well, 1e-4) || (is_near && m.cause.relative > 0.3);
    });
    return matches;
  }

  void explain(std::size_t op, const std::vector<std::size_t>& checks) {
    Explained explained{.fault = fault_of(op, checks, isolation_.groups[isolation_.group_of[checks.front()]].arithmetic),
                        .matches = {}};
    // What explained an earlier op is tried first.
    for (const std::size_t h : found_) {
      const std::vector<Candidate> variants = candidates(explained.fault, op, catalogue()[h]);
      for (std::size_t c = 0; c < variants.size(); ++c) {
        attempt(explained.fault, {{op, variants[c].mistake}}, variants[c], h, c, explained.matches);
      }
    }
    explained.matches = sorted(std::move(explained.matches));
    const bool clear = !explained.matches.empty() && explained.matches.front().cause.residual <= clear_residual;
    if (!clear) explained.matches = search(explained.fault);
    if (!explained.matches.empty() && !std::count(found_.begin(), found_.end(), explained.matches.front().hypothesis)) {
      found_.push_back(explained.matches.front().hypothesis);
    }
    explained_.push_back(std::move(explained));
  }

  // Ops that pass in a coarse arithmetic only: where a mistake fits far better than rounding, it is the cause.
  void look_behind_coarse_arithmetic() {
    if (allowance_.strict) return;
    std::vector<std::size_t> used;
    for (const Check& check : isolation_.checks) used.push_back(check.arithmetic);
    const std::size_t usual = usual_arithmetic(std::move(used));
    std::map<std::pair<std::size_t, std::string>, std::size_t> worst;  // by group and role: the check
    for (std::size_t i = 0; i < isolation_.checks.size(); ++i) {
      const Check& check = isolation_.checks[i];
      if (check.at_fault || check.arithmetic == 0 || check.ratios.empty()) continue;
      // A region has products in it; to be as coarse as most ops is no suspicion.
      const std::size_t n_ops = replay_.region(check.op, std::span(&check.step, 1)).size();
      if (n_ops > most_hidden_in || (n_ops > 1 && check.arithmetic <= usual)) continue;
      const auto key = std::pair(isolation_.group_of[i], std::string(role(value_of(check.op))));
      const auto [at, is_new] = worst.try_emplace(key, i);
      if (!is_new && check.ratios[0] > isolation_.checks[at->second].ratios[0]) at->second = i;
    }
    for (const auto& [key, index] : worst) {
      if (out_of_time()) return;
      const Check& check = isolation_.checks[index];
      const Fault fault = fault_of(check.op, {index}, isolation_.groups[key.first].arithmetic);
      if (!is_systematic(fault)) continue;
      const Fault exact = fault_of(check.op, {index}, 0);
      std::vector<Match> matches = search(exact);
      // A value of the run that stands in this one's place has this one's rounding where both are of the same inputs: that
      // they are equal to the last bit says nothing.
      std::erase_if(matches, [](const Match& m) {
        return m.cause.residual > most_hidden || m.cause.hypothesis->name.starts_with("buffer-");
      });
      // Operands that are cut off make a product smaller by as much as this, and no more.
      const bool is_cut = check.rms_error <= 0x1p-9 * check.rms_expected;
      const auto is_arithmetic = [&](const Match& m) {
        return is_rounding(m) && (is_cut || m.cause.hypothesis->name != "value-scaled");
      };
      if (matches.empty() || std::any_of(matches.begin(), matches.end(), is_arithmetic)) continue;
      // The same mistake in the group's other ops of this role.
      for (std::size_t i = 0; i < isolation_.checks.size(); ++i) {
        Check& other = isolation_.checks[i];
        if (isolation_.group_of[i] != key.first || role(value_of(other.op)) != key.second || other.at_fault ||
            other.arithmetic == 0)
          continue;
        if (i != index) {
          const Fault also = fault_of(other.op, {i}, 0);
          std::vector<Match> here;
          const std::vector<Candidate> variants = candidates(also, other.op, catalogue()[matches.front().hypothesis]);
          for (std::size_t c = 0; c < variants.size(); ++c) {
            attempt(also, {{other.op, variants[c].mistake}}, variants[c], matches.front().hypothesis, c, here);
          }
          std::erase_if(here, [](const Match& m) { return m.cause.residual > most_hidden; });
          if (here.empty()) continue;
        }
        other.at_fault = true;
        other.ratio = other.ratios[0];
      }
      if (!std::count(found_.begin(), found_.end(), matches.front().hypothesis))
        found_.push_back(matches.front().hypothesis);
    }
  }

  // Rounding that is coarser than float32 is an arithmetic, not a mistake.
  [[nodiscard]] static bool is_rounding(const Match& match) {
    const std::string_view name = match.cause.hypothesis->name;
    return name == "precision-rounded" || name == "precision-truncated" || name == "precision-overflow" ||
           name == "weight-converted" || name == "value-scaled" || name == "value-offset";
  }

  // Rounding errors have no system: their mean over rows, and their share of the value itself, are near zero.
  [[nodiscard]] bool is_systematic(const Fault& fault) const {
    const std::vector<std::uint32_t>& rows = fault.place.rows;
    if (rows.empty()) return false;
    double of_rows = 0;
    std::vector<double> error(fault.width, 0), variance(fault.width, 0);
    for (const std::uint32_t row : rows) {
      double ey = 0, yy = 0;
      for (std::size_t c = 0; c < fault.width; ++c) {
        const std::size_t i = row * fault.width + c;
        const double e = double{fault.found[i]} - fault.expected[i], v = std::max(double{fault.variance[i]}, 1e-60);
        if (!std::isfinite(e)) continue;
        ey += e * fault.expected[i] / v;
        yy += double{fault.expected[i]} * fault.expected[i] / v;
        error[c] += e;
        variance[c] += v;
      }
      if (yy > 0) of_rows += ey * ey / yy;
    }
    of_rows /= static_cast<double>(rows.size());
    double of_columns = 0;
    for (std::size_t c = 0; c < fault.width; ++c) of_columns += error[c] * error[c] / variance[c];
    of_columns /= static_cast<double>(fault.width);
    const bool cheap = !std::holds_alternative<plan::Linear>(plan_.ops[fault.place.op]);
    return cheap || of_rows > 6 || (rows.size() >= 4 && of_columns > 2);
  }

  // Ops with one cause are one finding.
  void merge() {
    std::map<std::string, std::size_t> by_cause;
    for (Explained& e : explained_) {
      const bool known = !e.matches.empty();
      const std::string key = known ? std::string(e.matches.front().cause.hypothesis->name)
                                    : "unknown at " + std::string(role(e.fault.place.value));
      const auto [at, is_new] = by_cause.try_emplace(key, result_.findings.size());
      if (is_new) result_.findings.emplace_back();
      Finding& finding = result_.findings[at->second];
      if (known) {
        const Match& best = e.matches.front();
        e.fault.place.detail = best.cause.detail;
        e.fault.place.residual = best.cause.residual;
        e.fault.place.left = best.cause.ratio;
        if (is_new) {
          finding.cause = best.cause;
          std::set<std::string_view> names{best.cause.hypothesis->name};
          for (const Match& other : e.matches) {
            if (other.cause.hypothesis == best.cause.hypothesis || names.insert(other.cause.hypothesis->name).second) {
              if (&other != &best) finding.alternatives.push_back(other.cause);
            }
          }
        } else {
          keep_common(finding, e.matches);
        }
        commits_.push_back(commit_of(best, e.fault));
      } else {
        if (is_new) finding.known = describe(e.fault);
        commits_.push_back(suspects_own(e.fault));
      }
      finding.places.push_back(e.fault.place);
    }
  }

  // An alternative that another place of the finding does not share is ruled out.
  static void keep_common(Finding& finding, const std::vector<Match>& matches) {
    if (matches.size() == 1 && matches.front().cause.residual <= clear_residual) return;  // others were not tried
    std::erase_if(finding.alternatives, [&](const Cause& cause) {
      return std::none_of(matches.begin(), matches.end(),
                          [&](const Match& m) { return m.cause.hypothesis == cause.hypothesis; });
    });
  }

  [[nodiscard]] std::vector<Commit> commit_of(const Match& match, const Fault& fault) {
    std::vector<Commit> commits;
    // In steps that the trace does not show the mistake was made too.
    const auto observed = suspect_.observe(*plan::output(plan_.ops[fault.place.op]));
    std::vector<bool> rows(suspect_.n_rows(), false);
    for (std::uint32_t row = 0; row < rows.size(); ++row) rows[row] = observed->has[row] == 0;
    for (const std::uint32_t row : fault.place.rows) rows[row] = true;
    if (match.explains_healthy) {
      for (const std::uint32_t row : fault.healthy) rows[row] = true;
    }
    if (match.ops.size() == 1) return {{.op = match.op, .rows = rows, .mistake = match.mistake}};
    for (const std::size_t op : match.ops) {
      const std::vector<Candidate> variants = candidates(fault, op, catalogue()[match.hypothesis]);
      if (match.candidate < variants.size())
        commits.push_back({.op = op, .rows = rows, .mistake = variants[match.candidate].mistake});
    }
    return commits;
  }

  // Where the cause is not known, the suspect's own output stands for it.
  [[nodiscard]] std::vector<Commit> suspects_own(const Fault& fault) const {
    std::vector<bool> rows(suspect_.n_rows(), false);
    for (const std::uint32_t row : fault.place.rows) rows[row] = true;
    return {{.op = fault.place.op, .rows = rows, .mistake = [found = fault.found, width = fault.width](const Site& site) {
               return rows_of_matrix(found, width, site.rows);
             }}};
  }

  void prove() {
    if (explained_.empty()) return;
    // The last value that the suspect shows, in the order of the ops.
    std::optional<plan::ValueId> last;
    for (const plan::Op& op : plan_.ops) {
      if (const auto out = plan::output(op); out && suspect_.knows(*out)) last = out;
    }
    if (!last) return;
    const std::vector<std::uint32_t> logit_rows = replay_.rows_of(replay_.producer(plan_.logits));
    const auto observed = suspect_.observe(*last);
    std::vector<std::uint32_t> rows;
    for (std::uint32_t r = 0; r < suspect_.n_rows(); ++r) {
      if (observed->has[r] != 0) rows.push_back(r);
    }
    const std::size_t width = plan_.value(*last).width;
    const std::vector<float> found = rows_of_matrix(observed->data, width, rows);
    const auto run = [&](bool with) {
      Replay replay(model_, replay_.rows(), nullptr, logit_rows, replay_.n_threads());
      for (const std::vector<Commit>& commits : commits_) {
        for (const Commit& commit : commits) {
          if (with) replay.commit(commit);
        }
      }
      return rows_of_matrix(*replay.value(*last), width, rows);
    };
    const std::vector<float> with = run(true), without = run(false);
    Proof proof;
    proof.borrows = std::any_of(explained_.begin(), explained_.end(), [](const Explained& e) { return e.matches.empty(); });
    proof.value = plan_.value(*last).name;
    // Where most are no numbers, any mistake that makes none would reproduce them.
    const auto n_finite = std::count_if(found.begin(), found.end(), [](float v) { return std::isfinite(v); });
    if (2 * static_cast<std::size_t>(n_finite) < found.size()) return;
    const double size = std::max(rms(found), 1e-30);
    proof.error_with = rms_difference(found, with) / size;
    proof.error_without = rms_difference(found, without) / size;
    if (*last == plan_.logits) {
      const auto largest = [&](const std::vector<float>& m, std::size_t r) {
        const auto begin = m.begin() + static_cast<std::ptrdiff_t>(r * width);
        return std::max_element(begin, begin + static_cast<std::ptrdiff_t>(width)) - begin;
      };
      proof.n_tokens = rows.size();
      for (std::size_t r = 0; r < rows.size(); ++r) {
        proof.n_tokens_with += largest(found, r) == largest(with, r) ? 1 : 0;
        proof.n_tokens_without += largest(found, r) == largest(without, r) ? 1 : 0;
      }
    }
    const bool tokens = proof.n_tokens_with >= proof.n_tokens_without;
    if (proof.error_with <= 0.25 * proof.error_without && proof.error_with <= most_apart && tokens) {
      proof.outcome = Proof::Outcome::reproduced;
    } else if (proof.error_without <= most_apart || (proof.error_with <= most_apart && tokens)) {
      proof.outcome = Proof::Outcome::too_small_to_tell;
    }
    result_.proof = proof;
  }

  void judge() {
    for (Finding& finding : result_.findings) {
      std::sort(finding.places.begin(), finding.places.end(), [](const Place& a, const Place& b) { return a.op < b.op; });
      if (!finding.cause) continue;
      std::set<std::string_view> names;
      for (const Cause& other : finding.alternatives) names.insert(other.hypothesis->name);
      names.erase(finding.cause->hypothesis->name);
      const bool proven = result_.proof && result_.proof->outcome != Proof::Outcome::not_reproduced;
      const bool near = finding.cause->residual <= 0.1;
      const bool explains = !finding.cause->hypothesis->only_describes;
      finding.confidence = names.empty() && proven && near && explains && finding.stands_alone() && finding.is_whole()
                               ? Confidence::high
                           : near && (proven || finding.is_whole()) ? Confidence::medium
                                                                    : Confidence::low;
    }
    std::sort(result_.findings.begin(), result_.findings.end(),
              [](const Finding& a, const Finding& b) { return a.places.front().op < b.places.front().op; });
  }

  // What is known of an op whose cause is not.
  [[nodiscard]] std::vector<std::string> describe(const Fault& fault) {
    std::vector<std::string> known;
    std::size_t arithmetic = 0;
    for (const std::size_t check : fault.place.checks)
      arithmetic = std::max(arithmetic, isolation_.checks[check].arithmetic);
    if (arithmetic < arithmetics().size()) {
      known.push_back(fmt::format("it follows in another arithmetic than {}: {}",
                                  allowance_.strict ? "--strict allows" : "other ops of its kind",
                                  arithmetics()[arithmetic].name));
    }
    const std::vector<std::uint32_t>& rows = fault.place.rows;
    const std::size_t n = rows.size() + fault.healthy.size();
    known.push_back(rows.size() == n
                        ? fmt::format("all {} rows differ", n)
                        : fmt::format("{} of {} rows differ, the first at position {}", rows.size(), n, rows.front()));
    const std::vector<float> found = fault.part(fault.found, rows), expected = fault.part(fault.expected, rows);
    // Columns.
    std::vector<double> error(fault.width, 0);
    std::size_t not_finite = 0;
    double ff = 0, yy = 0, fy = 0, f = 0, y = 0, total = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (!std::isfinite(found[i])) {
        ++not_finite;
        continue;
      }
      const double e = double{found[i]} - expected[i];
      error[i % fault.width] += e * e;
      total += e * e;
      ff += double{found[i]} * found[i];
      yy += double{expected[i]} * expected[i];
      fy += double{found[i]} * expected[i];
      f += found[i];
      y += expected[i];
    }
    if (not_finite > 0) known.push_back(fmt::format("{} of {} elements are not finite", not_finite, found.size()));
    std::vector<std::size_t> bad;
    for (std::size_t c = 0; c < fault.width; ++c) {
      if (error[c] > 1e-3 * total / static_cast<double>(fault.width)) bad.push_back(c);
    }
    if (!bad.empty() && bad.size() < fault.width) {
      const bool run = bad.back() - bad.front() + 1 == bad.size();
      known.push_back(run ? fmt::format("columns {} to {} of {} differ", bad.front(), bad.back(), fault.width)
                          : fmt::format("{} of {} columns differ, between {} and {}", bad.size(), fault.width, bad.front(),
                                        bad.back()));
      const std::size_t d = replay_.parameters().head_dim;
      std::set<std::size_t> heads;
      for (const std::size_t c : bad) heads.insert(c / d);
      if (fault.place.value.find(".attn_") != std::string::npos && fault.width % d == 0 && heads.size() < fault.width / d) {
        std::string list;
        for (const std::size_t h : heads) list += (list.empty() ? "" : ", ") + std::to_string(h);
        known.push_back(fmt::format("in heads {} of {}", list, fault.width / d));
      }
    }
    const double count = static_cast<double>(found.size());
    const double covariance = fy - f * y / count, variance = yy - y * y / count, spread = ff - f * f / count;
    if (variance > 0 && spread > 0) {
      const double slope = covariance / variance, r = covariance / std::sqrt(variance * spread);
      known.push_back(fmt::format("best affine fit: {:.4g} x the right value {:+.4g}, correlation {:.4f}", slope,
                                  (f - slope * y) / count, r));
    }
    known.push_back(permutation(found, expected, fault.width));
    if (const auto other = correlated(fault)) known.push_back(*other);
    return known;
  }

  // Whether a row holds the right numbers in another order.
  [[nodiscard]] static std::string permutation(const std::vector<float>& found, const std::vector<float>& expected,
                                               std::size_t width) {
    std::vector<float> a(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(width));
    std::vector<float> b(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(width));
    const double in_place = rms_difference(a, b);
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    const double sorted = rms_difference(a, b), distance = sorted / std::max(rms(b), 1e-30);
    return distance < 1e-2 && sorted < 0.1 * in_place
               ? "the rows hold the right numbers in another order"
               : fmt::format("no permutation of the right row (sorted, they differ by {:.2g})", distance);
  }

  // Another value of the trace that the output goes with.
  [[nodiscard]] std::optional<std::string> correlated(const Fault& fault) {
    std::optional<std::string> best;
    double largest = 0.98;
    const std::vector<std::uint32_t> rows = sample(fault.place.rows, few_rows);
    const std::vector<float> found = fault.part(fault.found, rows);
    for (std::uint32_t i = 0; i < plan_.values.size(); ++i) {
      const plan::ValueId id{i};
      if (plan_.value(id).width != fault.width || !suspect_.knows_all(id) || plan_.value(id).name == fault.place.value)
        continue;
      const std::vector<float> other = rows_of_matrix(*replay_.value(id), fault.width, rows);
      double xy = 0, xx = 0, yy = 0;
      for (std::size_t k = 0; k < other.size(); ++k) {
        if (!std::isfinite(found[k])) return std::nullopt;
        xy += double{found[k]} * other[k];
        xx += double{found[k]} * found[k];
        yy += double{other[k]} * other[k];
      }
      const double r = std::abs(xy) / std::sqrt(std::max(xx * yy, 1e-60));
      if (r <= largest) continue;
      largest = r;
      best = fmt::format("it goes with {} (correlation {:.4f})", plan_.value(id).name, r);
    }
    return best;
  }

  // How far logits of one model in two arithmetics may be apart, relative to their size.
  static constexpr double most_apart = 0.15;
  // A mistake behind a coarse arithmetic must explain all but this share of the error.
  static constexpr double most_hidden = 0.2;
  // … and lie in a region of no more ops than this: the more ops, the more mistakes fit what is left of an error.
  static constexpr std::size_t most_hidden_in = 4;

  Replay& replay_;
  const Suspect& suspect_;
  const model::Model& model_;
  const plan::Plan& plan_;
  Isolation& isolation_;
  const Allowance& allowance_;
  double seconds_;
  std::chrono::steady_clock::time_point end_;
  std::vector<std::size_t> found_;  // hypotheses that explained something, by place in the catalogue
  std::vector<Explained> explained_;
  std::vector<std::vector<Commit>> commits_;
  bool incomplete_ = false;
  Explanation result_;
};

}  // namespace

std::string_view name(Confidence confidence) {
  return confidence == Confidence::high ? "high" : confidence == Confidence::medium ? "medium" : "low";
}

bool Finding::is_whole() const {
  constexpr double most_left = 4;  // the allowance is that of the right op's numbers
  return std::all_of(places.begin(), places.end(), [](const Place& place) { return place.left <= most_left; });
}

bool Finding::stands_alone() const {
  return std::any_of(places.begin(), places.end(), [](const Place& place) { return place.region.size() == 1; });
}

Explanation explain(Replay& replay, const Suspect& suspect, const model::Model& model, Isolation& isolation,
                    const Allowance& allowance, const SearchLimits& limits) {
  return Explainer(replay, suspect, model, isolation, allowance, limits).run();
}

}  // namespace plumb::diagnose
