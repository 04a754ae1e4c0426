// The rows of a step's values, with the sequence and position of each. All executors use this order.
//
// Rows whose logits are wanted come last, so a Rows::outputs value has the last n_outputs rows of a Rows::tokens value.
// Otherwise rows are in the order of the Steps, and of the tokens in each. The rows of a step of one sequence are thus in
// the order of its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"

namespace plumb::backends {

struct Row {
  TokenId token = 0;
  std::uint32_t sequence = 0;  // index of its Step
  std::uint32_t position = 0;
};

// Rows [begin, end) of one sequence at consecutive positions.
struct Run {
  std::uint32_t begin = 0, end = 0;
  [[nodiscard]] std::uint32_t n() const { return end - begin; }
};

struct Batch {
  std::vector<Row> rows;
  std::vector<KvCache*> caches;        // by sequence
  std::vector<std::uint32_t> lengths;  // by sequence: its positions after the step
  std::uint32_t n_outputs = 0;
  std::uint32_t longest = 0;  // positions of the longest sequence after the step
  std::vector<Run> runs;      // all rows, in runs as long as possible

  [[nodiscard]] std::uint32_t n_rows() const { return static_cast<std::uint32_t>(rows.size()); }
  [[nodiscard]] std::uint32_t n_rows(plan::Rows kind) const { return kind == plan::Rows::tokens ? n_rows() : n_outputs; }
  [[nodiscard]] std::uint32_t position(std::uint64_t row) const { return rows[row].position; }
  // The positions of the row's sequence after the step.
  [[nodiscard]] std::uint32_t length(std::uint64_t row) const { return lengths[rows[row].sequence]; }
  [[nodiscard]] KvCache& cache(std::uint64_t row) const { return *caches[rows[row].sequence]; }
};

// Whether an attention of the plan is not causal.
bool sees_later_tokens(const plan::Plan& plan);

// Errors: those of Executor::run, except for caches of another executor.
Result<Batch> make_batch(const plan::Plan& plan, std::span<const Step> steps, std::uint32_t max_rows);

}  // namespace plumb::backends
