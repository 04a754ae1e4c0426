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
  std::uint64_t bytes = 0;
  for (const plan::LayerCache& layer : shape.layers) {
    bytes += std::uint64_t{2} * layer.n_kv_heads * quants::info(format_of(type)).row_bytes(layer.head_dim);
  }
  return bytes;
}

Result<Activations> activations(std::string_view name) {
  if (name == "int16") return Activations::int16;
  if (name == "int8") return Activations::int8;
  return fail("'{}' is no rounding of activations; there are int16 and int8", name);
}

std::string probs_name(const plan::Plan& plan, const plan::Attention& op) {
  const std::string& context = plan.value(op.out).name;
  return context.substr(0, context.rfind('.') + 1) + "attn_probs";
}
bool is_probs_name(std::string_view name) { return name.ends_with("attn_probs"); }

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

std::uint64_t cached_bytes(const KvCache& cache, std::uint32_t length) {
  return length * position_bytes(*cache.pool().shape, cache.pool().type);
}
// The bytes of one head's keys or values of one position.
std::size_t row_bytes(const KvCache& cache, std::uint32_t layer) {
  return quants::info(format_of(cache.pool().type)).row_bytes(cache.pool().shape->layers[layer].head_dim);
}

// All heads of a cache, in the order of Executor::read_cache().
std::vector<CachedHead> heads_of(const plan::CacheShape& shape) {
  std::vector<CachedHead> heads;
  for (std::uint32_t layer = 0; layer < shape.n_layers(); ++layer) {
    for (const bool values : {false, true}) {
      for (std::uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head) heads.push_back({layer, head, values});
    }
  }
  return heads;
}

}  // namespace

Result<void> PlanExecutor::check_owner(const KvCache& cache) const {
  if (cache.pool().shape != cache_shape_) return fail("the KV cache belongs to another executor");
  return {};
}

Result<std::vector<std::byte>> PlanExecutor::read_cache(const KvCache& cache) {
  PLUMB_CHECK(check_owner(cache));
  std::vector<std::byte> bytes(cached_bytes(cache, cache.length()));
  std::span<std::byte> rest(bytes);
  for (const CachedHead& head : heads_of(*cache_shape_)) {
    const std::size_t n = cache.length() * row_bytes(cache, head.layer);
    if (n > 0) PLUMB_CHECK(read_head(cache, head, rest.first(n)));
    rest = rest.subspan(n);
  }
  return bytes;
}

Result<void> PlanExecutor::fill_cache(KvCache& cache, std::uint32_t length, std::span<const std::byte> bytes) {
  PLUMB_CHECK(check_owner(cache));
  if (length > cache.capacity() || bytes.size() != cached_bytes(cache, length)) {
    return fail("a KV cache of {} positions cannot be filled with {} positions of {} bytes in all", cache.capacity(),
                length, bytes.size());
  }
  cache.truncate(0);
  for (const CachedHead& head : heads_of(*cache_shape_)) {
    const std::size_t n = length * row_bytes(cache, head.layer);
    if (n > 0) PLUMB_CHECK(fill_head(cache, head, bytes.first(n)));
    bytes = bytes.subspan(n);
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
  observer_(probs_name(*plan_, op), std::uint64_t{op.n_heads} * batch_.n_rows(), batch_.longest, data);
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
