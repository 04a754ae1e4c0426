// The Metal text without its [[attributes]], compiled as instrumented C++ (CMakeLists.txt), and the table of its kernels.
#include "kernels.stripped.metal"
// From here on, Metal's words are ordinary C++ names again.
#include "backends/checker/entries.h"
#include "backends/gpu/kernels/list.h"

// The Metal text already defines the parameter structs. This second copy is included for its signatures.
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
