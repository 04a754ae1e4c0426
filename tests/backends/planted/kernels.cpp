// The planted kernels, compiled like src/backends/checker/kernels.cpp: instrumented (tests/CMakeLists.txt), with the
// stand-in for Metal's library. They are not expanded to a file first. A C++ compiler ignores Metal's [[attributes]],
// except for one that contains a word of the stand-in.
#include <metal_stdlib>
using namespace metal;
#define PLUMB_TARGET_METAL
#include "backends/gpu/kernels/dialect.h"
#undef PLUMB_METAL_SHARED
#define PLUMB_METAL_SHARED(T, name) threadgroup T *name,
#include "backends/planted/kernels.h"
// From here on, the dialect's words are ordinary C++ names again.
#include "backends/checker/entries.h"
#include "backends/planted/planted.h"

namespace plumb::backends::planted {

namespace {

using checker::KernelEntry;
PLANTED_KERNEL_LIST(PLUMB_CALL)

}  // namespace

__attribute__((no_sanitize("thread"))) KernelEntry entry(Id id) {
  static constexpr KernelEntry entries[] = {PLANTED_KERNEL_LIST(PLUMB_ENTRY)};
  return entries[static_cast<int>(id)];
}

}  // namespace plumb::backends::planted
