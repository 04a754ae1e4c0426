#include "diagnose/search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

namespace {

// A hypothesis fits if its error is within the allowance and at most this share of the right op's error, …
constexpr double most_residual = 0.5;
// … or if it explains all but this share, whatever the allowance, …
constexpr double clear_residual = 0.02;
// … or if it gives this share of the wrong elements, and at least least_elements, to within rounding_sigmas standard
// deviations: mistakes differ at the ends of rows and buffers. An element is wrong if it is off by more than most_single
// standard deviations.
constexpr double most_elements_share = 0.8, rounding_sigmas = 4;
constexpr std::size_t least_elements = 32;
// A hypothesis fits as well as the best one if its residual is at most this many times the best's.
constexpr double as_well = 4;
// The number of rows on which a hypothesis is tried first, and the number on which it must hold.
constexpr std::size_t few_rows = 2, some_rows = 8;
// The number of outputs of a large product on which a hypothesis is tried first.
constexpr std::size_t some_columns = 512;
// The most ops of a region that are tried one by one.
constexpr std::size_t most_region = 40;

// How well y explains the suspect's rows.
Cause measure(const Evidence& evidence, std::span<const std::uint32_t> rows, std::span<const float> y) {
  Cause cause;
  const std::vector<float> found = evidence.part(evidence.found, rows), expected = evidence.part(evidence.expected, rows);
  std::vector<float> variance = evidence.part(evidence.variance, rows);
  const double right = rms_difference(found, expected), wrong = rms_difference(found, y);
  cause.residual = right == 0          ? 1
                   : std::isinf(right) ? (std::isinf(wrong) ? 1 : wrong / std::max(rms(y), 1e-30))
                                       : wrong / right;
  if (!std::isfinite(cause.residual)) cause.residual = infinity;
  cause.relative = wrong / std::max(rms(found), 1e-30);
  // A mistake that makes results larger makes their rounding errors larger.
  const double growth = rms(y) / std::max(rms(expected), 1e-30);
  if (growth > 1) {
    for (float& v : variance) v *= static_cast<float>(growth * growth);
  }
  cause.ratio = misfit({found, y, variance, evidence.width}, evidence.factor);
  std::size_t n_wrong = 0, n_explained = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double sigma = std::sqrt(double{variance[i]}) * evidence.factor;
    if (!(std::abs(double{found[i]} - expected[i]) > most_single * sigma)) continue;
    ++n_wrong;
    n_explained += std::abs(double{found[i]} - y[i]) <= rounding_sigmas * sigma ? 1 : 0;
  }
  cause.explains_elements =
      n_wrong >= least_elements && static_cast<double>(n_explained) >= most_elements_share * static_cast<double>(n_wrong);
  return cause;
}

bool fits(const Cause& cause) {
  return (cause.ratio <= 1 && cause.residual <= most_residual) || cause.residual <= clear_residual ||
         (cause.explains_elements && cause.residual < 1);
}

// Sorts matches, the best first, and drops those that are much worse.
std::vector<Match> sorted(std::vector<Match> matches) {
  std::stable_sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
    if (a.explains_healthy != b.explains_healthy) return a.explains_healthy;
    // Equally good matches stay in the catalogue's order, from specific to general.
    return a.cause.residual * as_well < b.cause.residual && b.cause.residual > 1e-3;
  });
  if (matches.empty()) return matches;
  const double best = std::min_element(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
                        return a.cause.residual < b.cause.residual;
                      })->cause.residual;
  // If the suspect's values are nearly zero, the error of any nearly zero output is small.
  const bool is_near = std::any_of(matches.begin(), matches.end(), [](const Match& m) { return m.cause.relative < 0.01; });
  std::erase_if(matches, [&](const Match& m) {
    return m.cause.residual > std::max(best * as_well, 1e-4) || (is_near && m.cause.relative > 0.3);
  });
  return matches;
}

// Whether the suspect's rows at fault are all zero.
bool is_all_zero(const Evidence& evidence) {
  const std::vector<std::uint32_t>& rows = evidence.place.rows;
  return !rows.empty() && std::all_of(rows.begin(), rows.end(), [&](std::uint32_t row) {
    const auto found = std::span(evidence.found).subspan(row * evidence.width, evidence.width);
    return std::all_of(found.begin(), found.end(), [](float v) { return v == 0; });
  });
}

}  // namespace

bool is_clear(const Match& match) { return match.cause.residual <= clear_residual; }

Search::Search(CheckedRun& run, const SearchLimits& limits)
    : run_(run),
      plan_(run.replay.plan()),
      end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int>(limits.seconds * 1000))) {}

void Search::remember(const Hypothesis& hypothesis) {
  if (std::find(known_.begin(), known_.end(), &hypothesis) == known_.end()) known_.push_back(&hypothesis);
}

std::vector<Match> Search::matches(const Evidence& evidence) {
  std::vector<Match> matches;
  for (const Hypothesis* const hypothesis : known_) {
    for (Match& match : these(evidence, *hypothesis)) matches.push_back(std::move(match));
  }
  matches = sorted(std::move(matches));
  if (matches.empty() || !is_clear(matches.front())) matches = all(evidence);
  if (!matches.empty()) remember(*matches.front().cause.hypothesis);
  return matches;
}

std::vector<Match> Search::these(const Evidence& evidence, const Hypothesis& hypothesis) {
  std::vector<Match> matches;
  for (const Candidate& variant : candidates(evidence, evidence.place.op, hypothesis)) {
    attempt(evidence, {{evidence.place.op, variant.mistake}}, variant, hypothesis, matches);
  }
  return matches;
}

std::vector<Match> Search::all(const Evidence& evidence) {
  std::vector<Match> matches;
  std::vector<std::size_t> region = run_.replay.region(evidence.place.op, evidence.place.steps);
  std::reverse(region.begin(), region.end());
  std::map<std::string, std::vector<std::size_t>> by_role;
  for (const std::size_t op : region) {
    if (plan::output(plan_.ops[op])) by_role[std::string(role(value_of(plan_, op)))].push_back(op);
  }
  const bool each = region.size() <= most_region;
  for (const Hypothesis& hypothesis : catalogue()) {
    for (const auto& [name, ops] : by_role) {
      if (is_out_of_time()) {
        is_incomplete_ = true;
        break;
      }
      std::vector<std::vector<Candidate>> of_ops;
      for (const std::size_t op : ops) of_ops.push_back(candidates(evidence, op, hypothesis));
      if (ops.size() > 1) {
        // Tries the same mistake in all layers of the region.
        for (std::size_t c = 0; c < of_ops.front().size(); ++c) {
          Mistakes mistakes;
          for (std::size_t i = 0; i < ops.size(); ++i) {
            if (c < of_ops[i].size()) mistakes.emplace_back(ops[i], of_ops[i][c].mistake);
          }
          attempt(evidence, std::move(mistakes), of_ops.front()[c], hypothesis, matches);
        }
      }
      for (std::size_t i = 0; each && i < ops.size(); ++i) {
        for (const Candidate& variant : of_ops[i]) {
          attempt(evidence, {{ops[i], variant.mistake}}, variant, hypothesis, matches);
        }
      }
    }
  }
  return sorted(std::move(matches));
}

std::vector<Candidate> Search::candidates(const Evidence& evidence, std::size_t op, const Hypothesis& hypothesis) {
  if (hypothesis.candidates == nullptr) return {};
  std::vector<float> found, expected;
  if (op == evidence.place.op) {
    found = evidence.part(evidence.found, evidence.place.rows);
    expected = evidence.part(evidence.expected, evidence.place.rows);
  }
  return hypothesis.candidates({.op = plan_.ops[op],
                                .op_index = op,
                                .replay = run_.replay,
                                .rows = evidence.place.rows,
                                .found = found,
                                .expected = expected});
}

// The faulty op's output for some rows, with a candidate's mistakes.
std::vector<float> Search::output(const Evidence& evidence, const Mistakes& mistakes,
                                  const std::vector<std::uint32_t>& rows, std::uint32_t column_stride) {
  const std::size_t at = evidence.place.op;
  if (mistakes.size() == 1 && mistakes[0].first == at) {
    Site site(run_.replay, at, rows);
    site.column_stride = column_stride;
    return mistakes[0].second(site);
  }
  Replay trial = run_.trial();
  for (const auto& [op, mistake] : mistakes) trial.commit({.op = op, .rows = {}, .mistake = mistake});
  const std::vector<float> all =
      scatter(trial.compute(at), evidence.width, run_.replay.rows_of(at), run_.replay.rows().size());
  return gather(all, evidence.width, rows);
}

// Whether a mistake in a product with many outputs explains a sample of them.
bool Search::is_promising(const Evidence& evidence, const Mistakes& mistakes) {
  const auto stride = static_cast<std::uint32_t>(evidence.width / some_columns);
  const std::vector<std::uint32_t> rows = sample(evidence.place.rows, few_rows);
  const std::vector<float> y = output(evidence, mistakes, rows, stride), found = evidence.part(evidence.found, rows),
                           expected = evidence.part(evidence.expected, rows);
  double wrong = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (i % evidence.width % stride != 0 || !std::isfinite(found[i])) continue;
    wrong += std::pow(double{found[i]} - y[i], 2);
    right += std::pow(double{found[i]} - expected[i], 2);
  }
  // If the fault is in other columns than the sample's, the sample shows nothing.
  return !(right > 0) || wrong < 2 * most_residual * most_residual * right;
}

// Tries one mistake in the given ops, on few rows first and then on more.
void Search::attempt(const Evidence& evidence, Mistakes mistakes, const Candidate& variant, const Hypothesis& hypothesis,
                     std::vector<Match>& matches) {
  const bool is_at_fault = mistakes.front().first == evidence.place.op;
  // An output that was never written has only this mistake; any other that gives something small would fit too.
  if (is_at_fault && hypothesis.kind != Kind::buffer && is_all_zero(evidence)) return;
  const bool is_wide_product = variant.by_column && evidence.width > 2 * some_columns && mistakes.size() == 1 &&
                               is_at_fault && std::holds_alternative<plan::Linear>(plan_.ops[evidence.place.op]);
  if (is_wide_product && !is_promising(evidence, mistakes)) return;
  const std::vector<std::uint32_t> few = sample(evidence.place.rows, few_rows),
                                   some = sample(evidence.place.rows, some_rows);
  Cause cause = measure(evidence, few, output(evidence, mistakes, few));
  if (cause.residual > most_residual && !fits(cause)) return;
  if (some.size() > few.size()) cause = measure(evidence, some, output(evidence, mistakes, some));
  if (!fits(cause)) return;
  cause.hypothesis = &hypothesis;
  cause.detail = variant.detail;
  cause.op = value_of(plan_, mistakes.front().first);
  bool explains_healthy = true;
  if (!evidence.healthy.empty()) {
    const std::vector<std::uint32_t> rows = sample(evidence.healthy, few_rows);
    explains_healthy = evidence.ratio(rows, output(evidence, mistakes, rows)) <= 1.5;
  }
  matches.push_back({std::move(cause), std::move(mistakes), explains_healthy});
}

}  // namespace plumb::diagnose
