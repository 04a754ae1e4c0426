// This machine: its processor, its memory, and how fast memory is read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plumb {

struct Machine {
  std::string processor;              // as the operating system names it; empty when it does not
  std::uint32_t n_cores = 0;          // that this process may use
  std::vector<std::string> features;  // instruction sets that kernels look for
  std::uint64_t memory_bytes = 0;     // total
  std::uint64_t available_bytes = 0;  // free or reclaimable now; 0 when not known
};

// Cores that this process may use; at least 1.
std::uint32_t usable_cores();

Machine this_machine();

// Bytes per second that n_threads threads together read from memory: the best of the passes of some seconds over a buffer
// larger than any cache.
double measure_read_bandwidth(std::uint32_t n_threads);

}  // namespace plumb
