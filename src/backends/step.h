// What all executors have in common, written once: whose the caches are, which steps may run and in which order of rows,
// how long caches are afterwards, what a plan's vectors are as float, and what an observer is shown. A backend derives from
// PlanExecutor and adds how caches are laid out and how the ops of a step are run.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/batch.h"
#include "base/result.h"
#include "plan/plan.h"

namespace plumb::backends {

// A Cache for each slot of the pool.
template <class Cache, class Pool>
std::vector<std::unique_ptr<KvCache>> caches_of(const std::shared_ptr<Pool>& pool) {
  std::vector<std::unique_ptr<KvCache>> caches(pool->n_caches);
  for (std::uint32_t slot = 0; slot < pool->n_caches; ++slot) caches[slot] = std::make_unique<Cache>(pool, slot);
  return caches;
}

class PlanExecutor : public Executor {
 public:
  [[nodiscard]] const plan::Plan& plan() const final { return *plan_; }
  [[nodiscard]] std::uint32_t max_batch() const final { return max_batch_; }
  [[nodiscard]] Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                         KvType type) final;
  using Executor::run;
  Result<std::span<const float>> run(std::span<const Step> steps) final;

 protected:
  PlanExecutor(std::shared_ptr<const plan::Plan> plan, std::uint32_t max_batch);

  virtual Result<std::vector<std::unique_ptr<KvCache>>> make_caches(const CachePool& pool) = 0;
  // Runs every op for the rows of batch() and returns the logits. The caches are of make_caches(), of one pool, and have
  // capacity for the step; their lengths are still those before it.
  virtual Result<std::span<const float>> run_batch() = 0;

  [[nodiscard]] const Batch& batch() const { return batch_; }
  [[nodiscard]] std::uint32_t n_rows(plan::ValueId id) const { return batch_.n_rows(plan_->value(id).rows); }

  [[nodiscard]] bool wants(plan::ValueId id) const { return Executor::wants(plan_->value(id).name); }
  [[nodiscard]] bool wants_probs(const plan::Attention& op) const { return Executor::wants(probs_name(op.layer)); }
  // To the observer, who wants them: a value of the step, and an attention's weights, [n_heads, T, S].
  void show(plan::ValueId id, std::span<const float> data) const;
  void show_probs(const plan::Attention& op, std::span<const float> data) const;

 private:
  std::shared_ptr<const plan::Plan> plan_;
  std::shared_ptr<const plan::CacheShape> cache_shape_;
  std::uint32_t max_batch_;
  Batch batch_;  // of the step that runs
};

// Errors: a tensor with fewer bytes than its shape needs.
Result<void> check_tensors(const plan::Plan& plan);

// The weights that ops read as float (norms, biases, rotary factors, sinks) by WeightId; empty for the others. The tensors
// are checked.
using Vectors = std::vector<std::vector<float>>;
Vectors decode_vectors(const plan::Plan& plan);

}  // namespace plumb::backends
