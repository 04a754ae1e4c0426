// A step, for the code that emits its launches: the plan, the rows, and the Views of all that ops read and write.
#pragma once

#include <cstdint>

#include "backends/batch.h"
#include "backends/gpu/cache.h"
#include "backends/gpu/device.h"
#include "backends/gpu/memory.h"
#include "backends/gpu/weights.h"
#include "plan/plan.h"

namespace plumb::backends::gpu {

class StepContext {
 public:
  StepContext(const plan::Plan& plan, const Batch& batch, const Weights& weights, const StepMemory& memory)
      : plan_(plan), batch_(batch), weights_(weights), memory_(memory) {}

  [[nodiscard]] const plan::Plan& plan() const { return plan_; }
  [[nodiscard]] const Batch& batch() const { return batch_; }
  [[nodiscard]] std::uint32_t n_tokens() const { return batch_.n_rows(); }
  [[nodiscard]] std::uint32_t n_rows(plan::ValueId id) const { return batch_.n_rows(plan_.value(id).rows); }
  [[nodiscard]] std::uint32_t width(plan::ValueId id) const { return static_cast<std::uint32_t>(plan_.value(id).width); }

  [[nodiscard]] View tokens() const { return memory_.tokens(); }  // int, [T]
  [[nodiscard]] RowPlaces row_places() const { return memory_.row_places(); }
  [[nodiscard]] View value(plan::ValueId id) const { return memory_.value(id); }
  [[nodiscard]] View partials() const { return memory_.partials(); }  // of attention over parts of a cache
  [[nodiscard]] const WeightView& weight(plan::WeightId id) const { return weights_.view(id); }
  // Of a Rope.
  [[nodiscard]] View turns(std::size_t op) const { return weights_.turns(op, pool_of(batch_).capacity); }
  [[nodiscard]] CacheView cache(std::uint32_t layer) const { return pool_of(batch_).layer(layer); }

 private:
  const plan::Plan& plan_;
  const Batch& batch_;
  const Weights& weights_;
  const StepMemory& memory_;
};

}  // namespace plumb::backends::gpu
