// The data that the stages of a step read and write: the plan and its schedule, the rows of the step, and the memory of its
// values. The executor fills it in; stages.h runs stages on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "backends/cpu/cache.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/schedule.h"
#include "backends/step.h"

namespace plumb::backends::cpu {

// Memory that only grows. Growing loses the content.
class Memory {
 public:
  Result<void> reserve(std::size_t size, std::string_view what);
  void poison();
  [[nodiscard]] std::byte* get() const { return bytes_.get(); }

 private:
  AlignedBytes bytes_;
  std::size_t size_ = 0;
};

struct Workspace {
  const plan::Plan& plan;
  const Batch& batch;
  const KernelTable& kernels;
  int planes;  // of rounded activations
  std::uint32_t n_threads;
  Vectors vectors;
  Schedule schedule;

  Memory tokens, outputs;       // the layout's arenas
  std::vector<Memory> angles;   // cos_sin(), by index of Rotations::angles
  Memory partials;              // of attention over parts of a cache
  std::vector<Memory> scratch;  // by thread

  Workspace(const plan::Plan& plan, const Batch& batch, const KernelTable& kernels, int planes, std::uint32_t n_threads);

  // Allocates memory for the rows of the batch.
  Result<void> reserve(bool poisons);

  [[nodiscard]] std::uint32_t n_rows(plan::ValueId id) const { return batch.n_rows(plan.value(id).rows); }
  [[nodiscard]] std::uint64_t width(plan::ValueId id) const { return plan.value(id).width; }
  [[nodiscard]] float* value(plan::ValueId id) const { return reinterpret_cast<float*>(at(id.index)); }
  [[nodiscard]] float* row(plan::ValueId id, std::uint32_t row) const { return value(id) + row * width(id); }
  // Rounded activations.
  [[nodiscard]] std::byte* buffer(std::uint32_t index) const { return at(plan.values.size() + index); }
  // n_rot / 2 cosines, then as many sines.
  [[nodiscard]] float* cos_sin(std::uint32_t index, std::uint32_t row) const {
    return reinterpret_cast<float*>(angles[index].get()) + std::size_t{row} * schedule.rotations.angles[index].n_rot;
  }
  [[nodiscard]] const std::vector<float>& vector(plan::WeightId id) const { return vectors[id.index]; }
  [[nodiscard]] Cache& cache(std::uint32_t row) const { return static_cast<Cache&>(batch.cache(row)); }
  template <class Op>
  [[nodiscard]] const Op& op(std::uint32_t index) const {
    return std::get<Op>(plan.ops[index]);
  }

 private:
  [[nodiscard]] std::byte* at(std::size_t index) const {
    const Place& place = schedule.layout.places[index];
    return (place.arena == plan::Rows::tokens ? tokens : outputs).get() + place.offset * batch.n_rows(place.arena);
  }
};

}  // namespace plumb::backends::cpu
