// The rotary frequencies of a plan's Ropes, from which fast backends compute sines and cosines. The reference computes its
// own (reference/ops.h). tests/backends/rotary_test.cpp compares both with numbers from transformers.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/step.h"
#include "plan/plan.h"

namespace plumb::backends {

struct Angles {
  std::uint32_t n_rot = 0;
  std::vector<double> frequency;  // radians per position, [n_rot / 2]
  float magnitude = 1.0f;         // multiplies sine and cosine
  // LongRoPE: the frequencies for caches of more than original_context positions; empty: the same.
  std::vector<double> long_frequency;
  std::uint32_t original_context = 0;

  [[nodiscard]] bool is_long(std::uint32_t capacity) const {
    return !long_frequency.empty() && capacity > original_context;
  }
  friend bool operator==(const Angles&, const Angles&) = default;
};

struct Rotations {
  std::vector<Angles> angles;        // without duplicates, in the order in which the Ropes first use them
  std::vector<std::uint32_t> of_op;  // by op: the index of a Rope's angles
};
Rotations rotations_of(const plan::Plan& plan, const Vectors& vectors);

}  // namespace plumb::backends
