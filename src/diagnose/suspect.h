// A suspect's run: the values of a trace, bound to the file's Plan. Each value is one matrix with the rows of all steps, in
// the order of positions: row r is the token at position r.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/batch.h"
#include "base/result.h"
#include "plan/plan.h"
#include "trace/trace.h"

namespace plumb::diagnose {

// The part of a value that a trace has.
struct Observed {
  std::vector<float> data;        // [n_rows, width]; NaN where not known
  std::vector<std::uint8_t> has;  // by row
  trace::Dtype dtype = trace::Dtype::f32;
};

class Suspect {
 public:
  // `trace` and `plan` must outlive this. Errors: no value of the Plan; a value with another shape than the Plan's; tokens
  // that do not fit the steps; positions that do not count up from 0. n_prompt: the number of the prompt's tokens; if not
  // given, it follows from the trace.
  static Result<Suspect> bind(const plan::Plan& plan, const trace::Trace& trace,
                              std::optional<std::uint32_t> n_prompt = {});
  // Other lengths that the prompt may have, the most likely first. The trace's rows of step 0 may be the whole prompt, or
  // only its last rows.
  [[nodiscard]] std::vector<std::uint32_t> other_lengths() const;

  [[nodiscard]] const trace::Info& info() const { return trace_->info(); }
  // The positions of the run's cache, as the engine states them; else as many as there are tokens.
  [[nodiscard]] std::uint32_t capacity() const { return trace_->info().context > 0 ? trace_->info().context : n_rows(); }
  [[nodiscard]] const plan::Plan& plan() const { return *plan_; }
  // Token, step (as `sequence`) and position of every row.
  [[nodiscard]] const std::vector<backends::Row>& rows() const { return rows_; }
  [[nodiscard]] std::uint32_t n_rows() const { return static_cast<std::uint32_t>(rows_.size()); }
  [[nodiscard]] std::uint32_t n_steps() const { return n_steps_; }
  [[nodiscard]] std::uint32_t step_of(std::uint64_t row) const { return rows_[row].sequence; }
  // Rows of a step: [begin, end).
  [[nodiscard]] std::uint32_t begin(std::uint32_t step) const { return step == 0 ? 0 : n_prompt_ + step - 1; }
  [[nodiscard]] std::uint32_t end(std::uint32_t step) const { return n_prompt_ + step; }

  [[nodiscard]] bool knows(plan::ValueId id) const { return !parts_[id.index].empty(); }
  [[nodiscard]] bool knows_all(plan::ValueId id) const { return knows_all_[id.index]; }
  // The number of a step's last rows that are known.
  [[nodiscard]] std::uint32_t known_rows(plan::ValueId id, std::uint32_t step) const;
  // The coarsest dtype in which the trace has rows of a value.
  [[nodiscard]] trace::Dtype dtype(plan::ValueId id) const { return dtypes_[id.index]; }
  [[nodiscard]] std::optional<Observed> observe(plan::ValueId id) const;
  // The rows whose logits the trace has; if it has none, the last row of each step.
  [[nodiscard]] std::vector<std::uint32_t> logit_rows() const;
  // Names in the trace that the Plan does not have.
  [[nodiscard]] const std::vector<std::string>& unknown_names() const { return unknown_names_; }
  [[nodiscard]] std::size_t n_values() const { return n_values_; }

 private:
  const plan::Plan* plan_ = nullptr;
  const trace::Trace* trace_ = nullptr;
  std::vector<backends::Row> rows_;
  std::uint32_t n_prompt_ = 0, n_steps_ = 0;
  std::uint32_t most_rows_ = 0;                          // the most rows of any value in step 0
  std::vector<std::vector<const trace::Value*>> parts_;  // by ValueId: what the trace has of it, by step
  std::vector<bool> knows_all_;                          // by ValueId
  std::vector<trace::Dtype> dtypes_;                     // by ValueId
  std::vector<std::string> unknown_names_;
  std::size_t n_values_ = 0;
};

}  // namespace plumb::diagnose
