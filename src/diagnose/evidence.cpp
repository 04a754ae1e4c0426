#include "diagnose/evidence.h"

#include <numeric>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

std::vector<float> Evidence::part(const std::vector<float>& of, std::span<const std::uint32_t> rows) const {
  return gather(of, width, rows);
}

double Evidence::ratio(std::span<const std::uint32_t> rows, std::span<const float> y) const {
  return misfit({part(found, rows), y, part(variance, rows), width}, factor);
}

std::string value_of(const plan::Plan& plan, std::size_t op) {
  const auto out = plan::output(plan.ops[op]);
  return out ? plan.value(*out).name : std::string(plan::name(plan.ops[op]));
}

std::vector<std::uint32_t> rows_of(const Check& check) {
  std::vector<std::uint32_t> rows(check.n_rows);
  std::iota(rows.begin(), rows.end(), check.first_row);
  return rows;
}

Evidence evidence_of(CheckedRun& run, std::size_t op, const std::vector<std::size_t>& checks, std::size_t arithmetic) {
  const plan::Plan& plan = run.replay.plan();
  const plan::ValueId out = *plan::output(plan.ops[op]);
  Evidence evidence;
  evidence.width = plan.value(out).width;
  Place& place = evidence.place;
  place.op = op;
  place.value = plan.value(out).name;
  place.layer = layer_of(place.value);
  place.checks = checks;
  for (const std::size_t check : checks) place.steps.push_back(run.isolation.checks[check].step);
  const std::vector<std::size_t> region = run.replay.region(op, place.steps);
  for (const std::size_t r : region) place.region.push_back(value_of(plan, r));
  evidence.factor = run.allowance.factor * region_factor(run.replay, region);

  ProductSums sums;
  const Arithmetic& a = arithmetics()[arithmetic];
  std::vector<float> y =
      std::holds_alternative<plan::Linear>(plan.ops[op]) ? run.replay.product(op, a, sums) : run.replay.compute(op);
  std::vector<float> variance = run.replay.variance(op, y, sums, a);
  add_rounding(variance, y, run.suspect.dtype(out));
  const std::vector<std::uint32_t> rows = run.replay.rows_of(op);
  evidence.expected = scatter(std::move(y), evidence.width, rows, run.suspect.n_rows());
  evidence.variance = scatter(std::move(variance), evidence.width, rows, run.suspect.n_rows());
  evidence.found = run.suspect.observe(out)->data;

  for (const std::size_t c : checks) {
    Check& check = run.isolation.checks[c];
    const std::vector<std::uint32_t> all = rows_of(check);
    // A check that is not at fault, only examined more closely, keeps its description.
    if (check.at_fault) {
      describe(check, {evidence.part(evidence.found, all), evidence.part(evidence.expected, all),
                       evidence.part(evidence.variance, all), evidence.width});
      check.allowed_rms *= evidence.factor;
    }
    for (const std::uint32_t row : all) {
      const std::uint32_t one[] = {row};
      const double ratio = evidence.ratio(one, evidence.part(evidence.expected, one));
      (ratio > 1 ? place.rows : evidence.healthy).push_back(row);
    }
  }
  if (place.rows.empty()) std::swap(place.rows, evidence.healthy);
  return evidence;
}

}  // namespace plumb::diagnose
