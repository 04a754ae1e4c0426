// The common part of all executors. It checks steps and the owners of caches, orders the rows, keeps the lengths of caches,
// decodes a plan's vectors to float, and shows values to the observer. A backend derives from PlanExecutor, and adds the
// layout of caches and the running of ops.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/batch.h"
#include "base/result.h"
#include "plan/plan.h"

namespace plumb::backends {

// Makes a Cache for each slot of the pool.
template <class Cache, class Pool>
std::vector<std::unique_ptr<KvCache>> caches_of(const std::shared_ptr<Pool>& pool) {
  std::vector<std::unique_ptr<KvCache>> caches(pool->n_caches);
  for (std::uint32_t slot = 0; slot < pool->n_caches; ++slot) caches[slot] = std::make_unique<Cache>(pool, slot);
  return caches;
}

// One head's keys or values in a layer.
struct CachedHead {
  std::uint32_t layer = 0, head = 0;
  bool values = false;  // false: keys
};

class PlanExecutor : public Executor {
 public:
  [[nodiscard]] const plan::Plan& plan() const final { return *plan_; }
  [[nodiscard]] std::uint32_t max_batch() const final { return max_batch_; }
  [[nodiscard]] Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                         KvType type) final;
  using Executor::run;
  Result<std::span<const float>> run(std::span<const Step> steps) final;
  [[nodiscard]] Result<std::vector<std::byte>> read_cache(const KvCache& cache) final;
  Result<void> fill_cache(KvCache& cache, std::uint32_t length, std::span<const std::byte> bytes) final;

 protected:
  PlanExecutor(std::shared_ptr<const plan::Plan> plan, std::uint32_t max_batch);

  virtual Result<std::vector<std::unique_ptr<KvCache>>> make_caches(const CachePool& pool) = 0;
  // Runs every op for the rows of batch() and returns the logits. The caches come from make_caches(), are of one pool, and
  // have capacity for the step. Their lengths are still those before the step.
  virtual Result<std::span<const float>> run_batch() = 0;
  // Copy the first rows of a head's keys or values, [rows, head_dim] of the cache's type, out of a cache from make_caches()
  // and into one. `rows` is at most the capacity.
  virtual Result<void> read_head(const KvCache& cache, const CachedHead& head, std::span<std::byte> rows) = 0;
  virtual Result<void> fill_head(KvCache& cache, const CachedHead& head, std::span<const std::byte> rows) = 0;

  [[nodiscard]] const Batch& batch() const { return batch_; }
  [[nodiscard]] std::uint32_t n_rows(plan::ValueId id) const { return batch_.n_rows(plan_->value(id).rows); }

  [[nodiscard]] bool wants(plan::ValueId id) const { return Executor::wants(plan_->value(id).name); }
  [[nodiscard]] bool wants_probs(const plan::Attention& op) const { return Executor::wants(probs_name(*plan_, op)); }
  // Show the observer a value that it wants: a value of the step, or an attention's weights, [n_heads, T, S].
  void show(plan::ValueId id, std::span<const float> data) const;
  void show_probs(const plan::Attention& op, std::span<const float> data) const;

 private:
  [[nodiscard]] Result<void> check_owner(const KvCache& cache) const;

  std::shared_ptr<const plan::Plan> plan_;
  std::shared_ptr<const plan::CacheShape> cache_shape_;
  std::uint32_t max_batch_;
  Batch batch_;  // the running step's
};

// Errors: a tensor with fewer bytes than its shape needs.
Result<void> check_tensors(const plan::Plan& plan);

// The weights that ops read as float (norms, biases, rotary factors, sinks), by WeightId; empty for other weights. The
// tensors must have been checked.
using Vectors = std::vector<std::vector<float>>;
Vectors decode_vectors(const plan::Plan& plan);

}  // namespace plumb::backends
