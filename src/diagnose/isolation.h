// Whether each op of a suspect's run follows from its own inputs. An error carried in from upstream cancels out, so that
// every op at fault shows in one run and a faithful op behind a fault is not blamed.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "diagnose/arithmetic.h"
#include "diagnose/replay.h"
#include "diagnose/suspect.h"

namespace plumb::diagnose {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Largest error, in standard deviations: as a root mean square over many rows, and of one element. All outputs of a row
// share what the rounding of its inputs does to them, so that few rows average little: their errors may be larger.
inline constexpr double most_rms = 2, most_single = 12;
double most_rms_of(std::size_t n_rows);
// Errors within a region of several ops are not independent: what one op rounds, all elements of the next ones share, the
// more so the more layers it passes. By how much an allowance grows for each layer that has part in a region.
inline constexpr double of_regions = 2;
double region_factor(Replay& replay, std::span<const std::size_t> region);

// The finest arithmetic that allows a share of some ops, of those that any allows.
std::size_t usual_arithmetic(std::vector<std::size_t> of_ops, double share = 0.75);

struct Allowance {
  double factor = 1;    // multiplies both
  bool strict = false;  // float32 throughout
};

// One element of an op's output.
struct Element {
  std::uint32_t row = 0;
  std::uint32_t column = 0;
  float expected = 0, found = 0;
};

// Counts of |error| / standard deviation, by powers of 2 from 2^-8: below, then 16 of them, the last being all above.
using Histogram = std::array<std::uint32_t, 17>;

// An op in one step.
struct Check {
  std::size_t op = 0;
  std::uint32_t step = 0;
  std::uint32_t first_row = 0, n_rows = 0;  // rows of the step that the trace has
  double rms_expected = 0;
  double rms_error = 0, largest_error = 0;
  Element worst;                   // where the error is largest by its standard deviation
  std::uint64_t n_not_finite = 0;  // elements that are NaN or infinite and should not be
  std::vector<double> ratios;      // error / allowance by arithmetic, as far as they were tried; infinite if not admissible
  std::size_t arithmetic = 0;      // the first that allows the error; ratios.size() if none does
  double allowed_rms = 0;          // of the arithmetic that it is judged by, as an absolute error
  double ratio = 0;                // error / allowance in the arithmetic that it is judged by
  bool tells = true;  // an error of a third of the value's size would be seen; where rounding may be larger, none is
  bool at_fault = false;
  Histogram histogram{};         // in the arithmetic that it is judged by
  std::vector<float> row_ratio;  // by row of the step, root mean square of error / standard deviation
};

// Ops that an engine computes in one way: of one kind, with weights of one format, in the prompt's pass or after it.
struct Group {
  std::string kind;
  std::string format;  // of the weight; empty: none
  std::string region;  // roles of the values between it and what the trace knows; empty: it stands alone
  bool prompt = false;
  std::size_t own = 0;         // arithmetic that the group's checks show
  std::size_t arithmetic = 0;  // that they are held to: no finer than most of the engine's
  std::size_t n_checks = 0;
};

struct Isolation {
  std::vector<Check> checks;  // in the order of ops, then steps
  std::vector<Group> groups;
  std::vector<std::size_t> group_of;  // by check
};

// Fills in what a report shows of a check: the worst element, the histogram, what is allowed. The spans are of its rows.
void describe(Check& check, std::span<const float> found, std::span<const float> expected, std::span<const float> variance,
              std::size_t width);

Isolation isolate(Replay& replay, const Suspect& suspect, const Allowance& allowance);

// error / allowance of found against expected, [n_rows, width], 1 being the most allowed; elements that are not finite
// where they should be make it infinite. Where the variance is infinite, anything is allowed.
struct Misfit {
  double ratio = 0;
  double rms_error = 0;
};
Misfit misfit(std::span<const float> found, std::span<const float> expected, std::span<const float> variance,
              std::size_t width, double allowance_factor = 1);

}  // namespace plumb::diagnose
