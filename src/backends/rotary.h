// The rotary angles of a plan's Ropes: what fast backends compute sines and cosines from. The reference computes its own,
// position by position (reference/ops.h), and tests/backends/rotary_test.cpp holds both against numbers from elsewhere.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/step.h"
#include "plan/plan.h"

namespace plumb::backends {

struct Angles {
  std::uint32_t n_rot = 0;
  std::vector<double> frequency;  // radians a position, [n_rot / 2]
  float magnitude = 1.0f;         // multiplies sine and cosine
  friend bool operator==(const Angles&, const Angles&) = default;
};

struct Rotations {
  std::vector<Angles> angles;        // each once, in the order of the Ropes that have them first
  std::vector<std::uint32_t> of_op;  // by op: the index of a Rope's angles
};
Rotations rotations_of(const plan::Plan& plan, const Vectors& vectors);

}  // namespace plumb::backends
