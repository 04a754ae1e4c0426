// An op at fault, with the data against which hypotheses are measured.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "diagnose/explain.h"
#include "diagnose/isolation.h"

namespace plumb::diagnose {

// Matrices have all rows of the run.
struct Evidence {
  Place place;
  std::size_t width = 0;
  double factor = 1;  // of the allowance
  std::vector<float> expected, found, variance;
  std::vector<std::uint32_t> healthy;  // other rows of the steps at fault

  [[nodiscard]] std::vector<float> part(const std::vector<float>& of, std::span<const std::uint32_t> rows) const;
  // error / allowance of the suspect's rows if y, [rows, width], were the expected output.
  [[nodiscard]] double ratio(std::span<const std::uint32_t> rows, std::span<const float> y) const;
};

// The evidence about an op in the steps of some checks, judged by an arithmetic. Also fills in the report's details of
// checks that are at fault.
Evidence evidence_of(CheckedRun& run, std::size_t op, const std::vector<std::size_t>& checks, std::size_t arithmetic);

// Describes an op at fault without a known cause, in sentences: its rows, columns and heads, a fit, another value that it
// resembles (description.cpp).
std::vector<std::string> description(CheckedRun& run, const Evidence& evidence);

// The name of the op's output; if it has none, the op's own name.
std::string value_of(const plan::Plan& plan, std::size_t op);

// The rows of a check.
std::vector<std::uint32_t> rows_of(const Check& check);

}  // namespace plumb::diagnose
