// A plan's weights on a device: as the file has them, in their quantized form, but for vectors, which are float. And the
// rotations of its Ropes.
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
  Result<void> upload(Device& device);

  [[nodiscard]] const WeightView& view(plan::WeightId id) const { return views_[id.index]; }
  // The rotation of each pair of a Rope, as kernels/rope.h wants it.
  [[nodiscard]] View turns(std::size_t op) const { return memory_.views[views_.size() + rotations_.of_op[op]]; }
  // Names of those whose bytes, read back, are not what was uploaded.
  Result<std::vector<std::string>> changed(Device& device) const;

 private:
  // What is uploaded of a weight.
  [[nodiscard]] std::span<const std::byte> source(std::size_t i) const;

  const plan::Plan& plan_;
  Vectors vectors_;
  Rotations rotations_;
  std::vector<WeightView> views_;  // by WeightId
  Views memory_;                   // the weights, then the rotations
};

}  // namespace plumb::backends::gpu
