// Launching kernels in a form that a C++ compiler reads too: nvcc makes of it a launch on the GPU, the checker
// (src/backends/checker/cuda) fibers on the CPU. Each argument is converted to the kernel's own parameter type.
#pragma once

#include <cuda_runtime_api.h>

namespace plumb::backends::cuda {

#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
                   Arguments... arguments) {
  kernel<<<grid, threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}
#endif

}  // namespace plumb::backends::cuda
