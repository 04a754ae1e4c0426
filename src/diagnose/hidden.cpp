// Faults hidden by a coarse arithmetic: ops that follow only in this arithmetic, and that a mistake explains far better.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "diagnose/search.h"

namespace plumb::diagnose {

namespace {

// A mistake hidden by a coarse arithmetic must explain all but this share of the error …
constexpr double most_hidden = 0.2;
// … and be in a region of at most this many ops: with more ops, more mistakes fit the rest of an error by chance.
constexpr std::size_t most_hidden_in = 4;

std::string role_of(const CheckedRun& run, const Check& check) {
  return std::string(role(value_of(run.replay.plan(), check.op)));
}

// The checks to examine more closely: for each group and role, the op that is furthest from float32.
std::map<std::pair<std::size_t, std::string>, std::size_t> suspicious(const CheckedRun& run) {
  const std::vector<Check>& checks = run.isolation.checks;
  std::vector<std::size_t> used;
  used.reserve(checks.size());
  for (const Check& check : checks) used.push_back(check.arithmetic);
  const std::size_t usual = usual_arithmetic(std::move(used));
  std::map<std::pair<std::size_t, std::string>, std::size_t> worst;
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const Check& check = checks[i];
    if (check.at_fault || check.arithmetic == 0 || check.misfits.empty()) continue;
    // A region contains products; it is not suspicious for being as coarse as most ops.
    const std::size_t n_ops = run.replay.region(check.op, std::span(&check.step, 1)).size();
    if (n_ops > most_hidden_in || (n_ops > 1 && check.arithmetic <= usual)) continue;
    const auto [at, is_new] = worst.try_emplace({check.group, role_of(run, check)}, i);
    if (!is_new && check.misfits[0] > checks[at->second].misfits[0]) at->second = i;
  }
  return worst;
}

// Whether an error is more than rounding. Rounding errors are random: their mean over rows, and their correlation with the
// value itself, are near zero. Only products are tested; for other ops a search costs little.
bool is_systematic(const CheckedRun& run, const Evidence& evidence) {
  const std::vector<std::uint32_t>& rows = evidence.place.rows;
  if (rows.empty()) return false;
  double of_rows = 0;
  std::vector<double> error(evidence.width, 0), variance(evidence.width, 0);
  for (const std::uint32_t row : rows) {
    double ey = 0, yy = 0;
    for (std::size_t c = 0; c < evidence.width; ++c) {
      const std::size_t i = row * evidence.width + c;
      const double y = evidence.expected[i], e = evidence.found[i] - y, v = std::max(double{evidence.variance[i]}, 1e-60);
      if (!std::isfinite(e)) continue;
      ey += e * y / v;
      yy += y * y / v;
      error[c] += e;
      variance[c] += v;
    }
    if (yy > 0) of_rows += ey * ey / yy;
  }
  of_rows /= static_cast<double>(rows.size());
  double of_columns = 0;
  for (std::size_t c = 0; c < evidence.width; ++c) of_columns += error[c] * error[c] / variance[c];
  of_columns /= static_cast<double>(evidence.width);
  const bool is_product = std::holds_alternative<plan::Linear>(run.replay.plan().ops[evidence.place.op]);
  return !is_product || of_rows > 6 || (rows.size() >= 4 && of_columns > 2);
}

// The mistake that explains a check better than rounding does, if there is one.
const Hypothesis* hidden_mistake(CheckedRun& run, Search& search, std::size_t index) {
  const Check& check = run.isolation.checks[index];
  std::vector<Match> matches = search.all(evidence_of(run, check.op, {index}, 0));
  // Another value of the run may be computed from the same inputs, with the same rounding. That it equals this one bit for
  // bit is then no evidence.
  std::erase_if(matches,
                [](const Match& m) { return m.cause.residual > most_hidden || m.cause.hypothesis->kind == Kind::buffer; });
  // Truncated operands make a product smaller by at most this much.
  const bool may_be_cut = check.rms_error <= 0x1p-9 * check.rms_expected;
  const bool is_arithmetic = std::any_of(matches.begin(), matches.end(), [&](const Match& m) {
    const Meaning meaning = m.cause.hypothesis->meaning;
    return meaning == Meaning::rounding || (meaning == Meaning::cutting_off && may_be_cut);
  });
  return matches.empty() || is_arithmetic ? nullptr : matches.front().cause.hypothesis;
}

}  // namespace

void mark_hidden_faults(CheckedRun& run, Search& search) {
  if (run.allowance.strict) return;
  for (const auto& [key, index] : suspicious(run)) {
    if (search.is_out_of_time()) return;
    const auto& [group, role] = key;
    const std::size_t op = run.isolation.checks[index].op;
    if (!is_systematic(run, evidence_of(run, op, {index}, run.isolation.groups[group].arithmetic))) continue;
    const Hypothesis* const mistake = hidden_mistake(run, search, index);
    if (mistake == nullptr) continue;
    // Tries the same mistake in the group's other ops of this role.
    for (std::size_t i = 0; i < run.isolation.checks.size(); ++i) {
      Check& other = run.isolation.checks[i];
      if (other.group != group || role_of(run, other) != role || other.at_fault || other.arithmetic == 0) continue;
      if (i != index) {
        const std::vector<Match> here = search.these(evidence_of(run, other.op, {i}, 0), *mistake);
        if (std::none_of(here.begin(), here.end(), [](const Match& m) { return m.cause.residual <= most_hidden; }))
          continue;
      }
      other.at_fault = true;
      other.misfit = other.misfits[0];
    }
    search.remember(*mistake);
  }
}

}  // namespace plumb::diagnose
