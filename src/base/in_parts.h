// Work on several threads, cut into equal parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace plumb {

// Calls part(begin, end) for parts of [0, n), on n_threads threads, this one among them.
template <class Part>
void in_parts(std::uint64_t n, std::uint32_t n_threads, const Part& part) {
  const std::uint64_t n_parts = std::clamp<std::uint64_t>(n_threads, 1, std::max<std::uint64_t>(n, 1));
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 1; i < n_parts; ++i) {
    threads.emplace_back([&part, n, n_parts, i] { part(n * i / n_parts, n * (i + 1) / n_parts); });
  }
  part(0, n / n_parts);
}

}  // namespace plumb
