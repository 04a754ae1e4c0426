// The shared kernels, compiled by nvcc, and their addresses by KernelId.
#include "backends/cuda/kernels.h"
#include "backends/gpu/kernels/all.h"

namespace plumb::backends::cuda {

const void* shared_kernel(unsigned id) {
#define PLUMB_KERNEL(signature, name, n) reinterpret_cast<const void*>(&::name),
  static const void* const addresses[] = {PLUMB_KERNEL_LIST};
#undef PLUMB_KERNEL
  return addresses[id];
}

}  // namespace plumb::backends::cuda
