// The memory of steps on a device: the values, which share two arenas by lifetime (or have memory of their own each), what
// kernels know of the rows, and attention's partial results. It only ever grows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backends/batch.h"
#include "backends/gpu/device.h"
#include "backends/layout.h"

namespace plumb::backends::gpu {

// Fills device memory with Executor::poison.
Result<void> fill_with_poison(Device& device, const View& view);

class StepMemory {
 public:
  // Of the steps that `batch` will hold. guards: every value lies between zones of its own that nobody may write to.
  StepMemory(Device& device, const plan::Plan& plan, const Batch& batch, bool guards);

  // Room for the batch. True: memory has moved, so launches emitted before are of no use.
  Result<bool> reserve(std::uint64_t partial_bytes);
  // Before launches run: uploads what kernels know of the rows, and forgets or poisons what an earlier step left.
  Result<void> begin(bool poisons);
  // After they have run. Errors: a zone has been written to.
  Result<void> check_guards();

  [[nodiscard]] View tokens() const { return row_view(0); }
  [[nodiscard]] RowPlaces row_places() const { return {.slots = row_view(1), .positions = row_view(2)}; }
  [[nodiscard]] View value(plan::ValueId id) const;
  [[nodiscard]] View partials() const { return partials_ ? View{partials_.get(), 0, partials_->size()} : View{}; }

 private:
  [[nodiscard]] bool isolates() const { return guards_ || device_.isolates_values(); }
  [[nodiscard]] View row_view(std::size_t i) const {
    return {rows_.views[i].memory, rows_.views[i].offset, batch_.n_rows() * sizeof(std::uint32_t)};
  }
  Result<void> reserve_values(std::uint32_t n_rows, std::uint32_t n_outputs);

  Device& device_;
  const plan::Plan& plan_;
  const Batch& batch_;
  bool guards_;
  Layout layout_;                             // by ValueId
  std::uint32_t n_rows_ = 0, n_outputs_ = 0;  // that there is room for
  Views rows_;                                // a token, a slot and a position each
  std::unique_ptr<Memory> token_arena_, output_arena_, partials_;
  std::vector<std::unique_ptr<Memory>> isolated_;  // by ValueId, where isolates()
};

}  // namespace plumb::backends::gpu
