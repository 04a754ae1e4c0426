#include "backends/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace plumb::backends {

namespace {

// YaRN's share of extrapolation for a pair of dimensions: 1 where it turns often enough within the trained context, 0
// where it must be interpolated, a ramp between (https://arxiv.org/abs/2309.00071, section 3.2).
double extrapolated_share(const plan::Rope& rope, const plan::Yarn& yarn, std::uint32_t pair) {
  const auto pair_turning = [&](double turns) {
    return rope.n_rot * std::log(yarn.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(double{rope.theta}));
  };
  const double low = std::max(0.0, std::floor(pair_turning(yarn.beta_fast)));
  const double high = std::min(rope.n_rot - 1.0, std::ceil(pair_turning(yarn.beta_slow)));
  const double ramp = std::clamp((pair - low) / std::max(0.001, high - low), 0.0, 1.0);
  return (1 - ramp) * yarn.extrapolation_mix;
}

}  // namespace

Angles angles_for(const plan::Rope& rope, const std::vector<float>* factors) {
  Angles angles;
  angles.n_rot = rope.n_rot;
  angles.magnitude = rope.yarn ? rope.yarn->attention_factor : 1.0f;
  for (std::uint32_t i = 0; i < rope.n_rot / 2; ++i) {
    double frequency = std::pow(double{rope.theta}, -2.0 * i / rope.n_rot);
    if (factors != nullptr) frequency /= double{(*factors)[i]};
    const double share = rope.yarn ? extrapolated_share(rope, *rope.yarn, i) : 0.0;
    angles.frequency.push_back(frequency * rope.position_scale * (1 - share) + frequency * share);
  }
  return angles;
}

}  // namespace plumb::backends
