// Checks whether each op of a suspect's run follows from its own inputs. An error from an earlier op cancels out, so one
// run shows every op at fault, and a correct op after a faulty one is not blamed.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "diagnose/arithmetic.h"
#include "diagnose/numbers.h"
#include "diagnose/replay.h"
#include "diagnose/suspect.h"

namespace plumb::diagnose {

// The largest allowed error of one element, in standard deviations.
inline constexpr double most_single = 12;
// The factor by which a region's allowance grows for each of its layers.
inline constexpr double of_regions = 2;
// The factor by which a region's allowance grows. Errors inside it are not independent: the rounding of earlier ops affects
// all elements of an op, and more so with more layers in between.
double region_factor(const Replay& replay, std::span<const std::size_t> region);

// The finest arithmetic that allows this share of the ops. Ops that no arithmetic allows do not count.
std::size_t usual_arithmetic(std::vector<std::size_t> of_ops, double share = 0.75);

struct Allowance {
  double factor = 1;    // multiplies both limits
  bool strict = false;  // float32 throughout
};

// One element of an op's output.
struct Element {
  std::uint32_t row = 0;
  std::uint32_t column = 0;
  float expected = 0, found = 0;
};

// Counts of |error| / standard deviation: below 2^-8, then by powers of 2; the last count has all larger ones.
using Histogram = std::array<std::uint32_t, 17>;

// How a check's errors look in one arithmetic.
struct Details {
  Element worst;           // the element with the largest error in standard deviations
  double allowed_rms = 0;  // allowed root mean square of the error, absolute
  Histogram histogram{};
  std::vector<float> row_ratio;  // by row of the step, root mean square of error / standard deviation
};

// The check of an op in one step. Its details are those in the arithmetic by which it is judged.
struct Check : Details {
  std::size_t op = 0;
  std::uint32_t step = 0;
  std::uint32_t first_row = 0, n_rows = 0;  // rows of the step that the trace has
  std::size_t group = 0;                    // index in Isolation::groups
  double rms_expected = 0;
  double rms_error = 0, largest_error = 0;
  std::uint64_t n_not_finite = 0;  // elements that are NaN or infinite and should not be
  std::vector<double> misfits;     // in each arithmetic tried; infinite if not admissible
  std::size_t stored_as = 0;       // the coarsest arithmetic that stores such numbers, if most of the run's are
  std::size_t arithmetic = 0;      // the first that allows the error; misfits.size() if none does
  double misfit = 0;               // see misfit(), in the arithmetic by which the check is judged
  bool tells = true;               // an error of a third of the value's size would be more than rounding
  bool at_fault = false;

  // The root mean square of the error over its allowance. Judged is misfit, which looks at each element by itself.
  [[nodiscard]] double ratio() const { return rms_error == 0 ? 0 : rms_error / allowed_rms; }
};

// A group of checks whose ops an engine computes in the same way: ops of one kind, with weights of one format, in the
// prompt's pass or after it.
struct Group {
  std::string kind;
  std::string format;  // of the weight; empty: none
  std::string region;  // roles of the ops that a check spans; empty: a single op
  bool prompt = false;
  std::size_t own = 0;         // the arithmetic that the group's checks show
  std::size_t arithmetic = 0;  // the one by which they are judged: no finer than most of the engine's
  std::size_t n_checks = 0;
};

struct Isolation {
  std::vector<Check> checks;  // in the order of ops, then steps
  std::vector<Group> groups;
};

// The found and the expected rows of an op's output, [n_rows, width], and the variance of the expected ones.
struct Compared {
  std::span<const float> found, expected, variance;
  std::size_t width = 0;
};

// Fills in a check's details for the report, from its rows: the worst element, the histogram, the allowance.
void describe(Check& check, const Compared& rows);

// The errors over what they may be, element by element: the larger of their root mean square in standard deviations over
// most_rms, and of the largest over most_single. 1 is the most that is allowed. An element that should be finite and is not
// makes it infinite. Where the variance is infinite, anything is allowed.
double misfit(const Compared& rows, double allowance_factor = 1);

// Adds the variance of rounding y to a trace's dtype.
void add_rounding(std::vector<float>& variance, std::span<const float> y, trace::Dtype dtype);

// Receives how far a part of the diagnosis is: "checking ops", 3 of 40.
using OnProgress = std::function<void(std::string_view what, std::uint64_t done, std::uint64_t total)>;

// A suspect's run with its ops recomputed and checked.
struct CheckedRun {
  // `model`, and the plan and trace of the suspect, must outlive this.
  CheckedRun(const model::Model& of_model, Suspect of_suspect, const Allowance& allowed, std::uint32_t n_threads,
             OnProgress on_progress = {});
  CheckedRun(const CheckedRun&) = delete;
  CheckedRun& operator=(const CheckedRun&) = delete;

  // New runs in which mistakes may be made: one from the suspect's values, and one without a suspect.
  [[nodiscard]] Replay trial() const { return replay_of(&suspect); }
  [[nodiscard]] Replay without_suspect() const { return replay_of(nullptr); }

  const model::Model& model;
  Allowance allowance;
  OnProgress progress;  // may be empty
  Suspect suspect;
  Replay replay;  // of the suspect's run
  Isolation isolation;

 private:
  [[nodiscard]] Replay replay_of(const Suspect* shown) const;
};

}  // namespace plumb::diagnose
