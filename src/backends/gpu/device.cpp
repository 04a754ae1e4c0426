#include "backends/gpu/device.h"

namespace plumb::backends::gpu {

std::span<const KernelInfo> kernel_infos() {
  static constexpr KernelInfo infos[] = {
#define PLUMB_KERNEL_INFO(signature, name, n) {#name, n},
      PLUMB_KERNEL_LIST(PLUMB_KERNEL_INFO)
#undef PLUMB_KERNEL_INFO
  };
  return infos;
}

}  // namespace plumb::backends::gpu
