// An op at fault with all that hypotheses are measured by.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "diagnose/explain.h"
#include "diagnose/isolation.h"

namespace plumb::diagnose {

// Matrices are of all rows of the run.
struct Evidence {
  Place place;
  std::size_t width = 0;
  double factor = 1;  // of the allowance
  std::vector<float> expected, found, variance;
  std::vector<std::uint32_t> healthy;  // other rows of the steps at fault

  [[nodiscard]] std::vector<float> part(const std::vector<float>& of, std::span<const std::uint32_t> rows) const;
  // error / allowance of y, [rows, width], in place of what is expected in these rows.
  [[nodiscard]] double ratio(std::span<const std::uint32_t> rows, std::span<const float> y) const;
};

// Of an op in the steps of some checks, held to an arithmetic. Fills in what a report shows of checks that are at fault.
Evidence evidence_of(CheckedRun& run, std::size_t op, const std::vector<std::size_t>& checks, std::size_t arithmetic);

// The name of the op's output; of an op that has none, its own.
std::string value_of(const plan::Plan& plan, std::size_t op);

// The rows of a check.
std::vector<std::uint32_t> rows_of(const Check& check);

}  // namespace plumb::diagnose
