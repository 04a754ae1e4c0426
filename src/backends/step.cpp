#include "backends/step.h"

#include <fmt/format.h>

#include <utility>

namespace plumb::backends {

std::string probs_name(std::uint32_t layer) { return fmt::format("blk.{}.attn_probs", layer); }
bool is_probs_name(std::string_view name) { return name.ends_with(".attn_probs"); }

Result<std::unique_ptr<KvCache>> Executor::new_cache(std::uint32_t capacity, KvType type) {
  PLUMB_TRY(auto caches, new_caches(1, capacity, type));
  return std::move(caches.front());
}

PlanExecutor::PlanExecutor(std::shared_ptr<const plan::Plan> plan, std::uint32_t max_batch)
    : plan_(std::move(plan)),
      cache_shape_(std::make_shared<const plan::CacheShape>(plan_->cache)),
      max_batch_(max_batch == 0 ? default_batch : max_batch) {}

Result<std::vector<std::unique_ptr<KvCache>>> PlanExecutor::new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                       KvType type) {
  return make_caches({.shape = cache_shape_, .n_caches = n, .capacity = capacity, .type = type});
}

Result<std::span<const float>> PlanExecutor::run(std::span<const Step> steps) {
  for (const Step& step : steps) {
    if (step.cache == nullptr || step.cache->pool().shape != cache_shape_) {
      return fail("the step's KV cache belongs to another executor");
    }
  }
  PLUMB_TRY(batch_, make_batch(*plan_, steps, max_batch_));
  PLUMB_TRY(const std::span<const float> logits, run_batch());
  for (const Step& step : steps) step.cache->extend(static_cast<std::uint32_t>(step.tokens.size()));
  return logits;
}

void PlanExecutor::show(plan::ValueId id, std::span<const float> data) const {
  observer_(plan_->value(id).name, n_rows(id), plan_->value(id).width, data);
}

void PlanExecutor::show_probs(const plan::Attention& op, std::span<const float> data) const {
  observer_(probs_name(op.layer), std::uint64_t{op.n_heads} * batch_.n_rows(), batch_.longest, data);
}

Result<void> check_tensors(const plan::Plan& plan) {
  for (const auto& [tensor] : plan.weights) {
    const std::uint64_t bytes = quants::info(tensor.format).row_bytes(tensor.dims[0]) * tensor.n_rows();
    if (tensor.data.size() < bytes) {
      return fail("tensor '{}' has {} bytes; its shape needs {}", tensor.name, tensor.data.size(), bytes);
    }
  }
  return {};
}

Vectors decode_vectors(const plan::Plan& plan) {
  Vectors vectors(plan.weights.size());
  for (const plan::Op& op : plan.ops) {
    for (const plan::VectorId id : plan::vectors(op)) {
      const gguf::Tensor& tensor = plan.weight(id).tensor;
      const quants::FormatInfo& format = quants::info(tensor.format);
      vectors[id.index].resize(tensor.n_elements());
      format.decode(tensor.data.data(), vectors[id.index].data(), tensor.n_elements() / format.block_size);
    }
  }
  return vectors;
}

}  // namespace plumb::backends
