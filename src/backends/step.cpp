#include "backends/step.h"

#include <fmt/format.h>

#include <utility>

namespace plumb::backends {

std::string_view name(KvType type) { return type == KvType::f16 ? "f16" : "f32"; }

Result<KvType> kv_type(std::string_view wanted) {
  for (const KvType type : {KvType::f16, KvType::f32}) {
    if (name(type) == wanted) return type;
  }
  return fail("'{}' is no type of KV cache; there are f16 and f32", wanted);
}

quants::Format format_of(KvType type) { return type == KvType::f16 ? quants::Format::f16 : quants::Format::f32; }

std::uint64_t position_bytes(const plan::CacheShape& shape, KvType type) {
  return std::uint64_t{2} * shape.n_layers * shape.n_kv_heads * quants::info(format_of(type)).row_bytes(shape.head_dim);
}

Result<Activations> activations(std::string_view name) {
  if (name == "int16") return Activations::int16;
  if (name == "int8") return Activations::int8;
  return fail("'{}' is no rounding of activations; there are int16 and int8", name);
}

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

namespace {

// All heads of a cache, in the order of Executor::read_cache().
std::vector<CachedHead> heads_of(const plan::CacheShape& shape) {
  std::vector<CachedHead> heads;
  for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    for (const bool values : {false, true}) {
      for (std::uint32_t head = 0; head < shape.n_kv_heads; ++head) heads.push_back({layer, head, values});
    }
  }
  return heads;
}

}  // namespace

Result<void> PlanExecutor::check_owner(const KvCache& cache) const {
  if (cache.pool().shape != cache_shape_) return fail("the KV cache belongs to another executor");
  return {};
}

std::size_t PlanExecutor::head_bytes(const KvCache& cache, std::uint32_t length) const {
  return std::size_t{length} * quants::info(format_of(cache.pool().type)).row_bytes(cache_shape_->head_dim);
}

Result<std::vector<std::byte>> PlanExecutor::read_cache(const KvCache& cache) {
  PLUMB_CHECK(check_owner(cache));
  const std::size_t n = head_bytes(cache, cache.length());
  const std::vector<CachedHead> heads = heads_of(*cache_shape_);
  std::vector<std::byte> bytes(n * heads.size());
  for (std::size_t i = 0; n > 0 && i < heads.size(); ++i) {
    PLUMB_CHECK(read_head(cache, heads[i], std::span(bytes).subspan(i * n, n)));
  }
  return bytes;
}

Result<void> PlanExecutor::fill_cache(KvCache& cache, std::uint32_t length, std::span<const std::byte> bytes) {
  PLUMB_CHECK(check_owner(cache));
  const std::size_t n = head_bytes(cache, length);
  const std::vector<CachedHead> heads = heads_of(*cache_shape_);
  if (length > cache.capacity() || bytes.size() != n * heads.size()) {
    return fail("a KV cache of {} positions cannot be filled with {} positions of {} bytes in all", cache.capacity(),
                length, bytes.size());
  }
  cache.truncate(0);
  for (std::size_t i = 0; n > 0 && i < heads.size(); ++i) {
    PLUMB_CHECK(fill_head(cache, heads[i], bytes.subspan(i * n, n)));
  }
  cache.extend(length);
  return {};
}

Result<std::span<const float>> PlanExecutor::run(std::span<const Step> steps) {
  for (const Step& step : steps) {
    if (step.cache == nullptr) return fail("a step has no KV cache");
    PLUMB_CHECK(check_owner(*step.cache));
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
