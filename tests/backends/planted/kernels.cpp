// The planted kernels, compiled like src/backends/checker/kernels.cpp: against the stand-in for Metal's library, and
// instrumented (tests/CMakeLists.txt). They are not expanded to a file first; a C++ compiler reads over Metal's
// [[attributes]] but for the one that has a word of the stand-in in it.
#include <metal_stdlib>
using namespace metal;
#define PLUMB_TARGET_METAL
#include "backends/gpu/kernels/dialect.h"
#undef PLUMB_METAL_SHARED
#define PLUMB_METAL_SHARED(T, name) threadgroup T *name,
#include "backends/planted/kernels.h"
// The dialect's words end here.
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
