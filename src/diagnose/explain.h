// Finds named causes for ops that do not follow from their inputs, and proves them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/hypothesis.h"
#include "diagnose/isolation.h"

namespace plumb::diagnose {

enum class Confidence : std::uint8_t { low, medium, high };
std::string_view name(Confidence confidence);

// An op at fault, in all steps in which it is.
struct Place {
  std::size_t op = 0;
  std::string value;  // the op's output: "blk.3.attn_q_rope"
  std::optional<std::uint32_t> layer;
  std::vector<std::uint32_t> steps;
  std::vector<std::uint32_t> rows;  // at fault
  std::vector<std::string> region;  // outputs of the ops that may be at fault; only one where all inner values are known
  std::vector<std::size_t> checks;  // indices in Isolation::checks
  std::string detail;               // the hypothesis' variant for this op
  double residual = 1;              // error left by the hypothesis / error of the right op
  double left = 0;                  // error left by the hypothesis / allowance
};

struct Cause {
  const Hypothesis* hypothesis = nullptr;
  std::string detail;
  std::string op;                  // the op's output; differs from the place's value inside a region
  double residual = 1;             // error left / error of the right op, as root mean squares
  double ratio = 0;                // error left / allowance
  double relative = 0;             // error left / size of the suspect's values
  bool explains_elements = false;  // it explains nearly all wrong elements
};

// The result of a reference run that makes the named mistakes from the first token on.
struct Proof {
  enum class Outcome : std::uint8_t { reproduced, too_small_to_tell, not_reproduced };
  Outcome outcome = Outcome::not_reproduced;
  bool borrows = false;                                 // it uses the suspect's own values where a cause is not known
  std::string value;                                    // the last value compared: logits where known
  double error_with = 0;                                // relative error of the suspect against the run with the mistakes
  double error_without = 0;                             // the same against a run without them
  std::size_t n_tokens = 0;                             // steps whose most likely token could be compared
  std::size_t n_tokens_with = 0, n_tokens_without = 0;  // how many of them equal the suspect's
};

struct Finding {
  std::optional<Cause> cause;       // none: unknown
  std::vector<Cause> alternatives;  // others that fit as well
  Confidence confidence = Confidence::low;
  std::vector<Place> places;       // in the order of execution
  std::vector<std::string> known;  // without a cause, what is known: rows, columns, fits

  // Whether the cause leaves, at every place, no more of the error than the allowance, or little more. A larger rest would
  // have another cause.
  [[nodiscard]] bool is_whole() const;
  // Whether the trace has all values around the op at some place. Where it lacks values, mistakes in different ops can have
  // the same effect.
  [[nodiscard]] bool stands_alone() const;
};

struct Explanation {
  std::vector<Finding> findings;  // by first place
  std::optional<Proof> proof;
};

struct SearchLimits {
  double seconds = 40;  // for trying hypotheses; the report says what was left untested
};

// Finds the causes of checks at fault (search.h), proves them (proof.h), and describes faults without a known cause. Also
// marks checks as at fault that passed only in a coarse arithmetic, if a mistake fits far better than the right op.
Explanation explain(CheckedRun& run, const SearchLimits& limits);

}  // namespace plumb::diagnose
