// Keys and values of one sequence, in blocks of kv_block positions that are allocated as the sequence grows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/kernels.h"
#include "backends/step.h"

namespace plumb::backends::cpu {

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

// Uninitialized memory that begins on a cache line; null if there is no memory.
inline AlignedBytes allocate_aligned(std::size_t n) {
  return AlignedBytes(static_cast<std::byte*>(::operator new[](n, std::align_val_t{64}, std::nothrow)));
}

// Elements from one head row to the next: head_dim, padded to head_multiple.
inline std::size_t head_stride(std::size_t head_dim) {
  return (head_dim + head_multiple - 1) / head_multiple * head_multiple;
}

class Cache final : public KvCache {
 public:
  Cache(std::shared_ptr<CachePool> pool, std::uint32_t slot) : KvCache(std::move(pool), slot) {
    for (std::size_t layer = 0; layer < shape().n_layers(); ++layer) {
      begins_.push_back(block_bytes_);
      block_bytes_ += 2 * shape().layers[layer].n_kv_heads * plane_bytes(layer);
    }
  }

  [[nodiscard]] bool f16() const { return pool().type == KvType::f16; }

  // Makes room for positions up to `length`. poisons: see Executor::poison_memory.
  Result<void> reserve(std::uint32_t length, bool poisons) {
    while (blocks_.size() * kv_block < length) {
      AlignedBytes block = allocate_aligned(block_bytes_);
      if (!block) {
        return fail("no memory for {} more bytes of KV cache at position {}; ask for a shorter context", block_bytes_,
                    blocks_.size() * kv_block);
      }
      if (poisons) std::fill_n(block.get(), block_bytes_, Executor::poison);
      blocks_.push_back(std::move(block));
    }
    return {};
  }

  // Keys or values of one layer and head, [kv_block][head_stride].
  [[nodiscard]] std::byte* keys(std::size_t block, std::size_t layer, std::size_t head) const {
    return blocks_[block].get() + begins_[layer] + head * plane_bytes(layer);
  }
  [[nodiscard]] std::byte* values(std::size_t block, std::size_t layer, std::size_t head) const {
    return keys(block, layer, shape().layers[layer].n_kv_heads + head);
  }
  // A head's row of keys or values at a position.
  [[nodiscard]] std::byte* row(const CachedHead& head, std::size_t position) const {
    const std::size_t block = position / kv_block;
    std::byte* const rows = head.values ? values(block, head.layer, head.head) : keys(block, head.layer, head.head);
    return rows + position % kv_block * row_bytes(head.layer);
  }
  [[nodiscard]] std::size_t row_bytes(std::size_t layer) const {
    return head_stride(shape().layers[layer].head_dim) * (f16() ? 2 : 4);
  }

 private:
  [[nodiscard]] const plan::CacheShape& shape() const { return *pool().shape; }
  [[nodiscard]] std::size_t plane_bytes(std::size_t layer) const { return kv_block * row_bytes(layer); }

  std::vector<std::size_t> begins_;  // of each layer's keys in a block; its values follow them
  std::size_t block_bytes_ = 0;
  std::vector<AlignedBytes> blocks_;
};

}  // namespace plumb::backends::cpu
