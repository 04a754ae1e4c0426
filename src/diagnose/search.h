// The search for causes: hypotheses of the catalogue tried on an op at fault.
#pragma once

#include <chrono>
#include <utility>
#include <vector>

#include "diagnose/evidence.h"
#include "diagnose/hypothesis.h"

namespace plumb::diagnose {

// A hypothesis that explains what was found.
struct Match {
  Cause cause;
  std::vector<std::pair<std::size_t, Mistake>> mistakes;  // by op: one, or the same in all layers of a region
  bool explains_healthy = true;                           // the rows that are not at fault follow from it too
};

// Whether it leaves so little of the error that no other cause need be looked for.
bool is_clear(const Match& match);

class Search {
 public:
  // `run` outlives this. The time begins now.
  Search(CheckedRun& run, const SearchLimits& limits);

  // What explains an op at fault, the best first. What explained an op before is tried first, and all others where none of
  // that is clear.
  std::vector<Match> matches(const Evidence& evidence);
  // All hypotheses on the op and, where inner values are missing, on the ops of its region.
  std::vector<Match> all(const Evidence& evidence);
  // One hypothesis on the op itself, in the order of its variants.
  std::vector<Match> these(const Evidence& evidence, const Hypothesis& hypothesis);
  // Has a hypothesis tried first from now on.
  void remember(const Hypothesis& hypothesis);

  [[nodiscard]] bool is_out_of_time() const { return std::chrono::steady_clock::now() > end_; }
  // Whether time ended before all was tried.
  [[nodiscard]] bool is_incomplete() const { return is_incomplete_; }

 private:
  using Mistakes = std::vector<std::pair<std::size_t, Mistake>>;
  [[nodiscard]] std::vector<Candidate> candidates(const Evidence& evidence, std::size_t op, const Hypothesis& hypothesis);
  [[nodiscard]] std::vector<float> output(const Evidence& evidence, const Mistakes& mistakes,
                                          const std::vector<std::uint32_t>& rows, std::uint32_t column_stride = 1);
  [[nodiscard]] bool is_promising(const Evidence& evidence, const Mistakes& mistakes);
  void attempt(const Evidence& evidence, Mistakes mistakes, const Candidate& variant, const Hypothesis& hypothesis,
               std::vector<Match>& matches);

  CheckedRun& run_;
  const plan::Plan& plan_;
  std::chrono::steady_clock::time_point end_;
  std::vector<const Hypothesis*> known_;  // that explained something
  bool is_incomplete_ = false;
};

}  // namespace plumb::diagnose
