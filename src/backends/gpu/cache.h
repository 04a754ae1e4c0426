// Keys and values of sequences that may run together, one slot for each sequence, and the launches recorded for them.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/batch.h"
#include "backends/gpu/device.h"

namespace plumb::backends::gpu {

struct Pool : CachePool {
  explicit Pool(const CachePool& shared) : CachePool(shared) {}

  Result<void> allocate(Device& device) {
    std::vector<std::uint64_t> sizes;
    for (const plan::LayerCache& layer : shape->layers) {
      sizes.insert(sizes.end(), 2, n_caches * layer.width() * capacity * (type == KvType::f16 ? 2 : 4));
    }
    PLUMB_TRY(memory, allocate_views(device, sizes, "the KV cache"));
    return {};
  }
  [[nodiscard]] CacheView layer(std::uint32_t i) const {
    return {.keys = memory.views[2 * i], .values = memory.views[2 * i + 1], .type = type, .capacity = capacity};
  }

  Views memory;  // keys and values of each layer

  // The launches of a step with one token for each sequence.
  struct Recording {
    std::uint32_t n_rows = 0;
    std::uint32_t n_splits = 0;
    std::uint64_t layout = 0;  // the number of the executor's memory layout
    std::uint64_t tag = 0;
    Launches launches;
  };
  std::vector<Recording> recordings;
};

// The pool of a step's caches.
inline Pool& pool_of(const Batch& batch) { return static_cast<Pool&>(batch.caches.front()->pool()); }

}  // namespace plumb::backends::gpu
