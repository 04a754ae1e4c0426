// Any bytes as a trace. The result is either a message or a Trace whose values can all be read.
#include <cstdint>
#include <cstdlib>

#include "trace/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto trace = plumb::trace::Trace::parse(std::as_bytes(std::span(data, size)));
  if (!trace) return 0;
  for (const auto& value : trace->values()) {
    if (value.floats().size() != value.rows * value.width) std::abort();
    if (value.step >= trace->n_steps()) std::abort();
  }
  return 0;
}
