// The rotary angles of a set of parameters: what fast backends compute sines and cosines from.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/plan.h"

namespace plumb::backends {

struct Angles {
  std::uint32_t n_rot = 0;
  std::vector<double> frequency;  // radians a position, [n_rot / 2]
  float magnitude = 1.0f;         // multiplies sine and cosine
};

// `factors` are rope.factors' values, at least n_rot / 2 of them, or null.
Angles angles_for(const plan::Rope& rope, const std::vector<float>* factors);

}  // namespace plumb::backends
