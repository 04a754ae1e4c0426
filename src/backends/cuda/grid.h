// Launches of kernels in a form that a C++ compiler can read too. With nvcc they run on the GPU; with the checker's version
// of this header (src/backends/checker/cuda) they run on fibers. Each argument is converted to the kernel's parameter type.
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

// Programmatic dependent launch, from compute capability 9.0 on: a kernel launched by launch_overlapping() may begin before
// the previous kernel has ended. Each of its threads must call wait_for_previous() before it reads the result of a kernel,
// and before it returns. Before that call it may read weights only.
inline bool can_overlap() {
  static const bool can = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return can;
}
// For a kernel that declares PLUMB_SHARED_BYTES, as is needed for more than 48 KiB of shared memory.
template <class... Parameters, class... Arguments>
cudaError_t launch_with_shared(void (*kernel)(Parameters...), dim3 grid, unsigned threads, unsigned shared_bytes,
                               cudaStream_t stream, Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = can_overlap() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
                               Arguments... arguments) {
  return launch_with_shared(kernel, grid, threads, 0, stream, arguments...);
}
#define PLUMB_SHARED_BYTES(name, n_bytes)     \
  extern __shared__ uint4 name##_of_launch[]; \
  auto* const name = reinterpret_cast<unsigned char*>(name##_of_launch)
// The pointers pass through the assembler statements, so that the compiler moves no load from them before the wait.
template <class... T>
__device__ __forceinline__ void wait_for_previous(T*&... pointers) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  (void(([&] { asm volatile("" : "+l"(pointers)::"memory"); }())), ...);
}

// Starts a copy to shared memory, which continues while the thread computes. `to` and `from` are multiples of `bytes`, 4 or
// 16.
template <unsigned bytes>
__device__ __forceinline__ void copy_later(unsigned char* to, const unsigned char* from) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  } else {
    static_assert(bytes == 4, "4 or 16 bytes");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from) : "memory");
  }
}
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most n of this thread's groups of copies are unfinished.
template <int n>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
#endif

}  // namespace plumb::backends::cuda
