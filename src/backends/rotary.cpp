#include "backends/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <variant>

namespace plumb::backends {

namespace {

// YaRN's share of extrapolation for a pair of dimensions: 1 for a pair that turns often enough within the trained context,
// 0 for one that must be interpolated, and a ramp in between (https://arxiv.org/abs/2309.00071, section 3.2).
double extrapolated_share(const plan::Rope& rope, const plan::Yarn& yarn, std::uint32_t pair) {
  const auto pair_turning = [&](double turns) {
    return rope.n_rot * std::log(yarn.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(double{rope.theta}));
  };
  const double first = pair_turning(yarn.beta_fast), last = pair_turning(yarn.beta_slow);
  const double low = std::max(0.0, yarn.whole_limits ? std::floor(first) : first);
  const double high = std::min(rope.n_rot - 1.0, yarn.whole_limits ? std::ceil(last) : last);
  const double ramp = std::clamp((pair - low) / std::max(0.001, high - low), 0.0, 1.0);
  return (1 - ramp) * yarn.extrapolation_mix;
}

std::vector<double> frequencies(const plan::Rope& rope, const std::optional<plan::VectorId>& factors,
                                const Vectors& vectors) {
  std::vector<double> frequencies;
  for (std::uint32_t i = 0; i < rope.n_rot / 2; ++i) {
    double frequency = std::pow(double{rope.theta}, -2.0 * i / rope.n_rot);
    if (factors) frequency /= double{vectors[factors->index][i]};
    const double share = rope.yarn ? extrapolated_share(rope, *rope.yarn, i) : 0.0;
    frequencies.push_back(frequency * rope.position_scale * (1 - share) + frequency * share);
  }
  return frequencies;
}

Angles angles_for(const plan::Rope& rope, const Vectors& vectors) {
  Angles angles;
  angles.n_rot = rope.n_rot;
  angles.magnitude = rope.magnitude;
  angles.frequency = frequencies(rope, rope.factors, vectors);
  if (rope.long_factors) {
    angles.long_frequency = frequencies(rope, rope.long_factors, vectors);
    angles.original_context = rope.original_context;
  }
  return angles;
}

}  // namespace

Rotations rotations_of(const plan::Plan& plan, const Vectors& vectors) {
  Rotations rotations;
  rotations.of_op.resize(plan.ops.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const auto* rope = std::get_if<plan::Rope>(&plan.ops[i]);
    if (rope == nullptr) continue;
    const Angles angles = angles_for(*rope, vectors);
    const auto found = std::find(rotations.angles.begin(), rotations.angles.end(), angles);
    rotations.of_op[i] = static_cast<std::uint32_t>(found - rotations.angles.begin());
    if (found == rotations.angles.end()) rotations.angles.push_back(angles);
  }
  return rotations;
}

}  // namespace plumb::backends
