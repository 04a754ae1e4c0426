// Recomputes a run with the reference's ops, all steps at once: row r is the token at position r. Values come from the
// suspect's trace where it has them, so that every op is computed from the suspect's own inputs. Missing values are
// computed from the nearest ones that the trace has. Without a suspect this is the right run.
//
// A mistake can be committed: another function of the same inputs in place of an op.
//
// Four classes describe computations. A reference::Scene is the data that an op may read, no matter who keeps it. A Replay
// is a whole run. A Site is one op of a run at some rows. A Question (hypothesis.h) is an op at fault with the suspect's
// output.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backends/reference/ops.h"
#include "diagnose/arithmetic.h"
#include "diagnose/suspect.h"
#include "model/model.h"
#include "plan/plan.h"

namespace plumb::diagnose {

using backends::reference::RowSource;
using backends::reference::Scene;

using Values = std::shared_ptr<const std::vector<float>>;

class Replay;

// The rows of one step: [begin, end).
struct StepRows {
  std::uint32_t begin = 0, end = 0;
};

// For each row of a run, another row; there may be none of that number.
using OtherRow = std::function<std::int64_t(std::uint32_t row)>;

// An op of a run at some rows: the data from which the op, or a mistake in its place, is computed.
class Site {
 public:
  // rows: of the run, in any order. `in` must outlive this.
  Site(Replay& in, std::size_t of_op, std::vector<std::uint32_t> of_rows);
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  Replay& replay;  // for other values of the run
  const std::size_t op_index;
  const plan::Op& op;
  const std::vector<std::uint32_t> rows;  // indices of rows of the run
  Scene scene;                            // the op's data for these rows
  std::uint32_t column_stride = 1;        // a Linear computes only every column_stride-th output; the others are NaN

  // The right op's output, [rows, width].
  [[nodiscard]] std::vector<float> compute() const { return compute(op, scene); }
  // The output of another op with the same output value.
  [[nodiscard]] std::vector<float> compute(const plan::Op& other) const { return compute(other, scene); }
  [[nodiscard]] std::vector<float> compute(const plan::Op& other, const Scene& from) const;
  // The op's output, and any value of the run, on other rows than the site's; zero where the run has no such row.
  [[nodiscard]] std::vector<float> compute_on(const OtherRow& other) const;
  [[nodiscard]] std::vector<float> value_on(plan::ValueId id, const OtherRow& other) const;
  // Any value of the run on the site's rows, or on those `shift` rows earlier.
  [[nodiscard]] std::vector<float> value(plan::ValueId id, std::int64_t shift = 0) const {
    return value_on(id, [shift](std::uint32_t row) { return std::int64_t{row} - shift; });
  }
  // The step of the i-th row.
  [[nodiscard]] StepRows step(std::size_t i) const;

 private:
  std::vector<backends::Row> rows_of_run_;
  std::map<std::uint32_t, Values> held_;  // by ValueId
  Values keys_, values_;                  // those of the layer's cache, for attention
};

// The op's output on the site's rows, [rows, width].
using Mistake = std::function<std::vector<float>(const Site&)>;

// An op, the rows in which a mistake is made, and the mistake.
struct Commit {
  std::size_t op = 0;
  std::vector<bool> rows;  // empty: all
  Mistake mistake;
};

class Replay {
 public:
  // All must outlive this. suspect: null for a run without a suspect. logit_rows: the rows whose logits are wanted.
  // capacity: the positions of the run's cache; 0: as many as there are rows.
  Replay(const model::Model& model, std::span<const backends::Row> rows, const Suspect* suspect,
         std::vector<std::uint32_t> logit_rows, std::uint32_t n_threads, std::uint32_t capacity = 0);

  [[nodiscard]] const plan::Plan& plan() const { return plan_; }
  [[nodiscard]] const model::HyperParameters& parameters() const { return model_.parameters(); }
  [[nodiscard]] std::span<const backends::Row> rows() const { return rows_; }
  [[nodiscard]] const Suspect* suspect() const { return suspect_; }
  [[nodiscard]] std::uint32_t n_threads() const { return n_threads_; }
  [[nodiscard]] std::uint32_t capacity() const { return capacity_; }
  [[nodiscard]] StepRows step_of(std::uint32_t row) const {
    return {cached_[row] - step_rows_[rows_[row].sequence], cached_[row]};
  }
  [[nodiscard]] std::vector<std::uint32_t> all_rows() const;
  [[nodiscard]] std::uint32_t n_prompt() const { return step_of(0).end; }

  // A weight's numbers in the order of its buffer. The last requested weight is kept.
  [[nodiscard]] Values flat(const gguf::Tensor& tensor);

  // Commits a mistake. The values of its op and of those after it are computed anew.
  void commit(Commit mistake);
  // A value, [n_rows, width]: the suspect's rows where it has them; the others are computed.
  [[nodiscard]] Values value(plan::ValueId id);
  // The op's output from its inputs, committed mistakes included, for the rows of rows_of().
  [[nodiscard]] std::vector<float> compute(std::size_t op);
  [[nodiscard]] std::vector<std::uint32_t> rows_of(std::size_t op) const;
  // The op that makes a value.
  [[nodiscard]] std::size_t producer(plan::ValueId id) const { return producers_[id.index]; }
  // The op that writes a layer's cache. An attention reads a cache that is written.
  [[nodiscard]] const plan::KvWrite& kv_write(std::uint32_t layer) const { return *kv_writes_[layer]; }
  // Whether a layer keeps keys and values of its own.
  [[nodiscard]] bool has_cache(std::uint32_t layer) const { return kv_writes_[layer] != nullptr; }
  // The values that an op reads; for attention also the keys and values of its layer.
  [[nodiscard]] std::vector<plan::ValueId> reads(const plan::Op& op) const;
  // The ops that compute an op's output in some steps, back to the values that the suspect knows. The op itself is the
  // last. Attention also needs the keys and values of all earlier steps.
  [[nodiscard]] std::vector<std::size_t> region(std::size_t op, std::span<const std::uint32_t> steps) const;

  // The error that a value may have, in an arithmetic, when an op reads it.
  [[nodiscard]] InputError error(plan::ValueId id, const Arithmetic& arithmetic);
  // compute() of a Linear without mistakes, and its sums, which include those of its input's error.
  [[nodiscard]] std::vector<float> product(std::size_t op, const Arithmetic& arithmetic, ProductSums& sums);
  // The variance of y, the result of compute(op) or product(). `sums`: for a Linear.
  [[nodiscard]] std::vector<float> variance(std::size_t op, std::span<const float> y, const ProductSums& sums,
                                            const Arithmetic& arithmetic);

 private:
  friend class Site;
  [[nodiscard]] bool is_computed(plan::ValueId id) const { return computed_[id.index] != nullptr; }
  [[nodiscard]] bool is_shown(plan::ValueId id) const { return suspect_ != nullptr && suspect_->knows_all(id); }
  // The ops, in their order, that make a value and all values that it depends on, as far back as those that `has` accepts.
  [[nodiscard]] std::set<std::size_t> makers(plan::ValueId id, const std::function<bool(plan::ValueId)>& has) const;
  void require(plan::ValueId id);
  Values merged(plan::ValueId id, std::vector<float> computed) const;
  const std::vector<float>& variance_of(plan::ValueId id, const Arithmetic& arithmetic);

  const model::Model& model_;
  const plan::Plan& plan_;
  std::span<const backends::Row> rows_;
  const Suspect* suspect_;
  std::vector<std::uint32_t> logit_rows_;
  std::uint32_t n_threads_;
  std::uint32_t capacity_;
  std::vector<std::size_t> producers_;           // by ValueId: the op that makes it
  std::vector<const plan::KvWrite*> kv_writes_;  // by layer; null: it keeps nothing
  std::vector<std::uint32_t> cached_;            // by row: positions that its step can see
  std::vector<std::uint32_t> step_rows_;         // by step: how many rows it has
  std::vector<Values> computed_;                 // by ValueId; null: not computed
  std::map<std::uint32_t, Values> seen_;         // the suspect's recently read values, by ValueId
  std::uint64_t seen_bytes_ = 0;
  Values flat_;
  const std::byte* flat_of_ = nullptr;
  std::map<std::pair<std::uint32_t, const Arithmetic*>, std::vector<float>> variances_;  // of values not completely known
  std::vector<Commit> commits_;
  std::vector<bool> busy_;  // by op: whether its mistake is being computed
  std::vector<std::uint32_t> made_while_busy_;
};

}  // namespace plumb::diagnose
