// SplitMix64 (Steele, Lea, Flood 2014) with a counter: draw number n is a function of the seed and n alone, the same on
// every platform.
#pragma once

#include <cstdint>

namespace plumb {

// Draw number `index` (from 0) of SplitMix64 seeded with `seed`.
constexpr std::uint64_t splitmix64(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The same draw as a number in [0, 1): its upper 53 bits, which a double holds exactly.
constexpr double uniform(std::uint64_t seed, std::uint64_t index) {
  return static_cast<double>(splitmix64(seed, index) >> 11) * 0x1p-53;
}

}  // namespace plumb
