// Keys and values of one sequence, in blocks of kv_block positions that are allocated as the sequence grows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace plumb::backends::cpu {

// What a cache of an executor holds. Its address names the executor: a cache keeps it alive.
struct CacheShape {
  plan::CacheShape plan;
  std::size_t head_stride = 0;  // head_dim, padded to head_multiple
};

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

// Uninitialized memory on a cache line of its own; null when there is none.
inline AlignedBytes allocate_aligned(std::size_t n) {
  return AlignedBytes(static_cast<std::byte*>(::operator new[](n, std::align_val_t{64}, std::nothrow)));
}

class Cache final : public KvCache {
 public:
  Cache(std::shared_ptr<const CacheShape> shape, std::uint64_t pool, std::uint32_t capacity, KvType type)
      : KvCache(pool, capacity), shape_(std::move(shape)), type_(type) {}

  [[nodiscard]] bool belongs_to(const CacheShape* shape) const { return shape_.get() == shape; }
  [[nodiscard]] bool f16() const { return type_ == KvType::f16; }

  // Makes room for positions up to `length`. poisons: see Executor::poison_memory.
  Result<void> reserve(std::uint32_t length, bool poisons) {
    const std::size_t bytes = 2 * shape_->plan.n_layers * shape_->plan.n_kv_heads * plane_bytes();
    while (blocks_.size() * kv_block < length) {
      AlignedBytes block = allocate_aligned(bytes);
      if (!block) {
        return fail("no memory for {} more bytes of KV cache at position {}; ask for a shorter context", bytes,
                    blocks_.size() * kv_block);
      }
      if (poisons) std::fill_n(block.get(), bytes, Executor::poison);
      blocks_.push_back(std::move(block));
    }
    return {};
  }

  void filled(std::uint32_t n) { extend(n); }

  // Keys or values of one layer and head, [kv_block][head_stride].
  [[nodiscard]] std::byte* keys(std::size_t block, std::size_t layer, std::size_t head) const {
    return blocks_[block].get() + (2 * layer * shape_->plan.n_kv_heads + head) * plane_bytes();
  }
  [[nodiscard]] std::byte* values(std::size_t block, std::size_t layer, std::size_t head) const {
    return blocks_[block].get() + ((2 * layer + 1) * shape_->plan.n_kv_heads + head) * plane_bytes();
  }
  [[nodiscard]] std::size_t row_bytes() const { return shape_->head_stride * (f16() ? 2 : 4); }

 private:
  [[nodiscard]] std::size_t plane_bytes() const { return kv_block * row_bytes(); }

  std::shared_ptr<const CacheShape> shape_;
  KvType type_;
  std::vector<AlignedBytes> blocks_;
};

}  // namespace plumb::backends::cpu
