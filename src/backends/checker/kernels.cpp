// The Metal text (without its [[attributes]]), compiled as C++ and instrumented (CMakeLists.txt), and a table of ways to
// call it.
#include "kernels.stripped.metal"
// The text's own words end here.
#include "backends/checker/entries.h"
#include "backends/gpu/kernels/list.h"

// The text has the parameter structs; these are to bring the signatures.
namespace plumb::backends::checker::of_the_host {
#include "backends/gpu/kernels/interface.h"
}  // namespace plumb::backends::checker::of_the_host

namespace plumb::backends::checker {

namespace {

#define PLUMB_KERNEL PLUMB_CALL
PLUMB_KERNEL_LIST
#undef PLUMB_KERNEL

}  // namespace

__attribute__((no_sanitize("thread"))) std::span<const KernelEntry> kernel_entries() {
#define PLUMB_KERNEL PLUMB_ENTRY
  static constexpr KernelEntry entries[] = {PLUMB_KERNEL_LIST};
  return entries;
}

}  // namespace plumb::backends::checker
