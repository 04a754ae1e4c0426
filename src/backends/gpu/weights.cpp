#include "backends/gpu/weights.h"

#include <algorithm>
#include <numbers>
#include <numeric>

#include "backends/gpu/launch.h"

namespace plumb::backends::gpu {

namespace {

// Frequencies in whole turns per position; each is the sum of two floats.
std::vector<dialect::float4> turns_of(std::span<const double> frequencies, float magnitude) {
  std::vector<dialect::float4> turns;
  for (const double frequency : frequencies) {
    const double turn = frequency / (2 * std::numbers::pi);
    const auto high = static_cast<float>(turn);
    turns.push_back({high, static_cast<float>(turn - double{high}), magnitude, 0});
  }
  return turns;
}

}  // namespace

Weights::Weights(const plan::Plan& plan)
    : plan_(plan), vectors_(decode_vectors(plan)), rotations_(rotations_of(plan, vectors_)) {}

std::span<const std::byte> Weights::source(std::size_t i) const {
  const gguf::Tensor& tensor = plan_.weights[i].tensor;
  if (!vectors_[i].empty()) return std::as_bytes(std::span(vectors_[i]));
  return tensor.data.first(quants::info(tensor.format).row_bytes(tensor.dims[0]) * tensor.n_rows());
}

Result<void> Weights::upload(Device& device, const LoadProgress& progress) {
  std::vector<std::uint64_t> sizes;
  for (std::size_t i = 0; i < plan_.weights.size(); ++i) sizes.push_back(source(i).size());
  for (const Angles& angles : rotations_.angles) {
    sizes.push_back(angles.frequency.size() * sizeof(dialect::float4));
    sizes.push_back(angles.long_frequency.size() * sizeof(dialect::float4));
  }
  PLUMB_TRY(memory_, allocate_views(device, sizes, "the weights"));
  const auto total = std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
    if (progress && !progress(done, total)) return fail("the loading was stopped");
    done += sizes[i];
    const gguf::Tensor& tensor = plan_.weights[i].tensor;
    views_.push_back({.view = memory_.views[i],
                      .format = vectors_[i].empty() ? tensor.format : quants::Format::f32,
                      .n_in = static_cast<std::uint32_t>(tensor.dims[0]),
                      .n_out = static_cast<std::uint32_t>(tensor.dims[1]),
                      .n_experts = static_cast<std::uint32_t>(tensor.dims[2])});
    PLUMB_CHECK(device.upload(memory_.views[i], source(i)));
  }
  for (std::size_t i = 0; i < rotations_.angles.size(); ++i) {
    const Angles& angles = rotations_.angles[i];
    for (const bool is_long : {false, true}) {
      const std::vector<dialect::float4> turns =
          turns_of(is_long ? angles.long_frequency : angles.frequency, angles.magnitude);
      if (turns.empty()) continue;
      PLUMB_CHECK(device.upload(turns_view(i, is_long), std::as_bytes(std::span(turns))));
    }
  }
  return {};
}

View Weights::turns(std::size_t op, std::uint32_t capacity) const {
  const std::uint32_t angles = rotations_.of_op[op];
  return turns_view(angles, rotations_.angles[angles].is_long(capacity));
}

Result<std::vector<std::string>> Weights::changed(Device& device) const {
  std::vector<std::string> changed;
  std::vector<std::byte> there;
  for (std::size_t i = 0; i < views_.size(); ++i) {
    const std::span<const std::byte> right = source(i);
    there.resize(right.size());
    PLUMB_CHECK(device.download(views_[i].view, there));
    if (!std::equal(right.begin(), right.end(), there.begin())) changed.emplace_back(plan_.weights[i].tensor.name);
  }
  return changed;
}

}  // namespace plumb::backends::gpu
