// A run recomputed by the reference's ops, of all steps at once: row r is the token at position r. What a suspect's trace
// knows of a value stands in for the computation, so that every op can be recomputed from the suspect's own inputs; what it
// lacks is computed from the nearest values that it has. Without a suspect it is the run as it should be.
//
// Mistakes can be committed: in place of an op another function of the same inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/reference/ops.h"
#include "diagnose/arithmetic.h"
#include "diagnose/suspect.h"
#include "model/model.h"
#include "plan/plan.h"

namespace plumb::diagnose {

using Values = std::shared_ptr<const std::vector<float>>;

class Replay;

// Where an op is computed: for which rows, and from what.
struct Site {
  const plan::Op* op = nullptr;
  std::size_t op_index = 0;
  const backends::reference::Scene* scene = nullptr;  // of the rows below
  std::span<const std::uint32_t> rows;                // which rows of the run
  const model::HyperParameters* parameters = nullptr;
  Replay* replay = nullptr;  // other values of the run

  // The op as it should be, or a changed one of the same output.
  [[nodiscard]] std::vector<float> compute(const plan::Op& changed) const {
    return backends::reference::compute(changed, *scene);
  }
  // Rows of any value of the run; `shift` rows before.
  [[nodiscard]] std::vector<float> value(plan::ValueId id, std::int64_t shift = 0) const;
};

// The op's output on the site's rows, [rows, width].
using Mistake = std::function<std::vector<float>(const Site&)>;

// An op, the rows in which a mistake is made, and the mistake.
struct Commit {
  std::size_t op = 0;
  std::vector<bool> rows;  // empty: all
  Mistake mistake;
};

// Some rows of a run as a Scene.
class View {
 public:
  View(Replay& replay, std::vector<std::uint32_t> rows);
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  [[nodiscard]] const backends::reference::Scene& scene() const { return scene_; }
  void take_columns(std::uint32_t stride) { scene_.column_stride = stride; }
  [[nodiscard]] std::span<const std::uint32_t> rows() const { return ids_; }
  // Fetches the keys and values that an op reads of the cache; before it is computed.
  void prepare(const plan::Op& op);

 private:
  Replay& replay_;
  std::vector<std::uint32_t> ids_;
  std::vector<backends::Row> rows_;
  bool is_whole_ = true;                                   // they are the run's, in its order
  std::map<std::uint32_t, Values> held_;                   // by ValueId
  std::map<std::uint32_t, std::pair<Values, Values>> kv_;  // by layer
  backends::reference::Scene scene_;
};

class Replay {
 public:
  // All outlive this. suspect: null for a run of its own. logit_rows: the rows whose logits are wanted.
  Replay(const model::Model& model, std::span<const backends::Row> rows, const Suspect* suspect,
         std::vector<std::uint32_t> logit_rows, std::uint32_t n_threads);

  [[nodiscard]] const plan::Plan& plan() const { return plan_; }
  [[nodiscard]] const model::HyperParameters& parameters() const { return model_.parameters(); }
  [[nodiscard]] std::span<const backends::Row> rows() const { return rows_; }
  [[nodiscard]] const Suspect* suspect() const { return suspect_; }
  [[nodiscard]] std::uint32_t n_threads() const { return n_threads_; }

  // A weight's numbers in the order of its buffer; the last one that was asked for is kept.
  [[nodiscard]] Values flat(const gguf::Tensor& tensor);

  void commit(Commit mistake) { commits_.push_back(std::move(mistake)); }
  // Forgets what was computed; what the suspect knows stays.
  void forget();

  // A value, [n_rows, width]: the suspect's rows where it has them, the others computed.
  [[nodiscard]] Values value(plan::ValueId id);
  // What the op makes of its inputs, mistakes included, for all rows that `rows_of` gives.
  [[nodiscard]] std::vector<float> compute(std::size_t op);
  [[nodiscard]] std::vector<std::uint32_t> rows_of(std::size_t op) const;
  // The op that makes a value.
  [[nodiscard]] std::size_t producer(plan::ValueId id) const { return producers_[id.index]; }
  // The op that writes a layer's cache.
  [[nodiscard]] const plan::KvWrite& kv_write(std::uint32_t layer) const;
  // The values an op reads; for attention the keys and values of its layer too.
  [[nodiscard]] std::vector<plan::ValueId> reads(const plan::Op& op) const;
  // The ops between an op's output in some steps and the values that the suspect knows, the op itself last: all that has
  // part in it. Attention has part in the keys and values of all steps before.
  [[nodiscard]] std::vector<std::size_t> region(std::size_t op, std::span<const std::uint32_t> steps) const;

  // The error that a value may carry when an op reads it, in an arithmetic.
  [[nodiscard]] InputError error(plan::ValueId id, const Arithmetic& arithmetic);
  // The same of a Linear without mistakes, with its sums; with those of its input's error where an arithmetic is given.
  [[nodiscard]] std::vector<float> product(std::size_t op, const Arithmetic* arithmetic, ProductSums& sums);
  // Variance of what compute(op) gave. `sums`: of Linear.
  [[nodiscard]] std::vector<float> variance(std::size_t op, std::span<const float> y, const ProductSums& sums,
                                            const Arithmetic& arithmetic);

 private:
  friend class View;
  [[nodiscard]] bool is_computed(plan::ValueId id) const { return computed_[id.index] != nullptr; }
  void require(plan::ValueId id);
  Values merged(plan::ValueId id, std::vector<float> computed) const;
  const std::vector<float>& variance_of(plan::ValueId id, const Arithmetic& arithmetic);

  const model::Model& model_;
  const plan::Plan& plan_;
  std::span<const backends::Row> rows_;
  const Suspect* suspect_;
  std::vector<std::uint32_t> logit_rows_;
  std::uint32_t n_threads_;
  std::vector<std::size_t> producers_;    // by ValueId
  std::vector<std::size_t> kv_writes_;    // by layer
  std::vector<std::uint32_t> cached_;     // by row: positions its step can see
  std::vector<std::uint32_t> step_rows_;  // by step: how many rows it has
  std::vector<Values> computed_;          // by ValueId: those that were
  std::map<std::uint32_t, Values> seen_;  // what was read of the suspect's lately
  std::uint64_t seen_bytes_ = 0;
  Values flat_;
  const std::byte* flat_of_ = nullptr;
  std::map<std::pair<std::uint32_t, const Arithmetic*>, std::vector<float>> variances_;  // of values not wholly known
  std::vector<Commit> commits_;
  std::vector<bool> busy_;  // by op: whether a mistake in it is being made
  std::vector<std::uint32_t> made_while_busy_;
};

}  // namespace plumb::diagnose
