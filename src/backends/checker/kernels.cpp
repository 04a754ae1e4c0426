// The Metal text (without its [[attributes]]), compiled as C++ and instrumented (CMakeLists.txt), and a table of ways to
// call it.
#include "kernels.stripped.metal"
// The text's own words end here.
#include "backends/checker/entries.h"
#include "backends/gpu/kernels/signatures.h"

namespace plumb::backends::checker {

namespace {

PLUMB_KERNEL_LIST(PLUMB_CALL)

}  // namespace

__attribute__((no_sanitize("thread"))) std::span<const KernelEntry> kernel_entries() {
  static constexpr KernelEntry entries[] = {PLUMB_KERNEL_LIST(PLUMB_ENTRY)};
  return entries;
}

}  // namespace plumb::backends::checker
