// A plan's weights on a device, in the file's format (vectors as float), and the rotations of its Ropes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "backends/gpu/device.h"
#include "backends/rotary.h"
#include "backends/step.h"

namespace plumb::backends::gpu {

class Weights {
 public:
  explicit Weights(const plan::Plan& plan);
  Result<void> upload(Device& device, const LoadProgress& progress);

  [[nodiscard]] const WeightView& view(plan::WeightId id) const { return views_[id.index]; }
  // The rotation of each pair of a Rope, in the form that kernels/rotation.h reads, for caches of `capacity` positions.
  [[nodiscard]] View turns(std::size_t op, std::uint32_t capacity) const;
  // The names of weights whose bytes, read back, differ from the uploaded ones.
  Result<std::vector<std::string>> changed(Device& device) const;

 private:
  // The bytes of a weight that are uploaded.
  [[nodiscard]] std::span<const std::byte> source(std::size_t i) const;
  [[nodiscard]] View turns_view(std::size_t angles, bool is_long) const {
    return memory_.views[views_.size() + 2 * angles + (is_long ? 1 : 0)];
  }

  const plan::Plan& plan_;
  Vectors vectors_;
  Rotations rotations_;
  std::vector<WeightView> views_;  // by WeightId
  Views memory_;                   // the weights, then of each rotation the usual turns and LongRoPE's long ones
};

}  // namespace plumb::backends::gpu
