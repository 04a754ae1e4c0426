// The memory of steps on a device: values, the slots and positions of rows, and attention's partial results. Values share
// two arenas: those that are not needed at the same time share memory. (On a device that isolates values, each has its own
// memory.) The memory only grows.
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
  // For the steps that `batch` will describe. guards: every value stands between two zones to which nothing may be written.
  StepMemory(Device& device, const plan::Plan& plan, const Batch& batch, bool guards);

  // Makes room for the batch. Returns true if memory has moved, so that earlier launches are no longer valid.
  Result<bool> reserve(std::uint64_t partial_bytes);
  // Called before launches run: uploads tokens, slots and positions of the rows, and forgets or poisons old values.
  Result<void> begin(bool poisons);
  // Called after launches have run. Error: a zone was written to.
  Result<void> check_guards();

  [[nodiscard]] View tokens() const { return row_view(0); }
  [[nodiscard]] RowPlaces row_places() const {
    return {.slots = row_view(1), .positions = row_view(2), .lasts = has_lasts_ ? row_view(3) : View{}};
  }
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
  bool has_lasts_;                            // an op of the plan is not causal
  Layout layout_;                             // by ValueId
  std::uint32_t n_rows_ = 0, n_outputs_ = 0;  // there is room for this many
  Views rows_;                                // tokens, slots, positions and, where ops need them, the last positions
  std::unique_ptr<Memory> token_arena_, output_arena_, partials_;
  std::vector<std::unique_ptr<Memory>> isolated_;  // by ValueId, where isolates()
};

}  // namespace plumb::backends::gpu
