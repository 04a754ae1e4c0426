// The search for causes: tries the catalogue's hypotheses on an op at fault.
#pragma once

#include <chrono>
#include <utility>
#include <vector>

#include "diagnose/evidence.h"
#include "diagnose/hypothesis.h"

namespace plumb::diagnose {

// A hypothesis that explains the suspect's output.
struct Match {
  Cause cause;
  std::vector<std::pair<std::size_t, Mistake>> mistakes;  // one op's, or the same mistake in all layers of a region
  bool explains_healthy = true;                           // the rows that are not at fault follow from it too
};

// Whether a match leaves so little of the error that no other cause is searched for.
bool is_clear(const Match& match);

class Search {
 public:
  // `run` must outlive this. The time limit starts now.
  Search(CheckedRun& run, const SearchLimits& limits);

  // The explanations of an op at fault, the best first. Hypotheses that explained earlier ops are tried first, and all
  // others if none of those is clear.
  std::vector<Match> matches(const Evidence& evidence);
  // All hypotheses on the op and, where inner values are missing, on the ops of its region.
  std::vector<Match> all(const Evidence& evidence);
  // One hypothesis on the op itself, in the order of its variants.
  std::vector<Match> these(const Evidence& evidence, const Hypothesis& hypothesis);
  // From now on, tries this hypothesis first.
  void remember(const Hypothesis& hypothesis);

  [[nodiscard]] bool is_out_of_time() const { return std::chrono::steady_clock::now() > end_; }
  // Whether the time ended before all hypotheses were tried.
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
  std::vector<const Hypothesis*> known_;  // hypotheses that have explained an op
  bool is_incomplete_ = false;
};

// Marks checks as at fault whose ops follow only in a coarse arithmetic, and that a mistake explains far better
// (hidden.cpp).
void mark_hidden_faults(CheckedRun& run, Search& search);

}  // namespace plumb::diagnose
