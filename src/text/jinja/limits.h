// The limits of an untrusted template.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plumb::text {

struct TemplateLimits {
  std::uint64_t max_steps = 10'000'000;       // evaluated nodes, and each 256 bytes of text read or made
  std::uint32_t max_depth = 200;              // nesting of expressions, blocks and calls, in parsing and in running
  std::size_t max_output_bytes = 64u << 20;   // rendered text
  std::size_t max_memory_bytes = 256u << 20;  // strings and containers that are alive at one time
  std::size_t max_source_bytes = 1u << 20;
};

}  // namespace plumb::text
