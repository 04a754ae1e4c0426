// A stand-in for CUDA, as much as Plumb's tuned kernels use. With this header a C++ compiler compiles the unchanged
// kernels, and the checker runs them on the CPU. It follows the CUDA C++ Programming Guide; inexact device functions are
// the host's.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <tuple>

#include "backends/checker/words.h"

namespace plumb::backends::checker {
struct Place {
  unsigned x, y, z;
};
Place thread_place();
Place group_place();
Place grid_size();
unsigned atomic_max_at(unsigned* at, unsigned value);
// Runs a grid; false if a fault was found. `host` is memory that the kernel may read: its parameters.
bool run_grid(Place grid, unsigned threads, void (*run_thread)(void*), void* closure, const void* host,
              std::size_t host_bytes);
// A copy to shared memory that a thread has queued. A thread's copies are in groups. take_copy() gives the next copy, in
// order, that is not in the last `groups_left` groups; false if there is none.
struct QueuedCopy {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes;  // 4 or 16
};
void queue_copy(QueuedCopy copy);
void end_copy_group();
bool take_copy(unsigned groups_left, QueuedCopy& copy);
// cudaMemsetAsync.
void set_device_memory(void* to, int value, std::size_t n);
}  // namespace plumb::backends::checker

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// Shared memory is uninitialized statics, which cuda_grid.cpp recognizes. One set suffices, since threadgroups run one
// after another.
#define __shared__ static

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorUnknown };
using cudaStream_t = struct CUstream_st*;
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid value";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "a fault";
  }
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#include "host_api.h"

template <class T>
struct alignas(8) PlumbTwo {
  T x, y;
};
using float2 = PlumbTwo<float>;
using uint2 = PlumbTwo<unsigned>;
inline float4 make_float4(float x, float y, float z, float w) {
  float4 v;
  v.native = float4::Native{x, y, z, w};
  return v;
}

#define threadIdx (plumb::backends::checker::thread_place())
#define blockIdx (plumb::backends::checker::group_place())
#define gridDim (plumb::backends::checker::grid_size())
#define __syncthreads() plumb::backends::checker::threadgroup_barrier_at(__LINE__)
#define __syncwarp() plumb::backends::checker::simdgroup_barrier_at(__LINE__)
#define __shfl_xor_sync(mask, x, lane) plumb::backends::checker::shuffled(x, lane, true, __LINE__)
#define __shfl_sync(mask, x, lane) plumb::backends::checker::shuffled(x, lane, false, __LINE__)

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline int __float2int_rn(float x) { return static_cast<int>(lrintf(x)); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<std::uint64_t>(high) << 32) | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
  return c;
}
inline unsigned atomicMax(unsigned* at, unsigned value) { return plumb::backends::checker::atomic_max_at(at, value); }

using plumb::backends::checker::max;
using plumb::backends::checker::min;

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t n, cudaStream_t) {
  plumb::backends::checker::set_device_memory(to, value, n);
  return cudaSuccess;
}

namespace plumb::backends::cuda {

// The checker's version of the CUDA backend's grid.h.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t, Arguments... arguments) {
  struct Closure {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } closure{kernel, {static_cast<Parameters>(arguments)...}};
  const auto run_thread = [](void* p) {
    auto* c = static_cast<Closure*>(p);
    std::apply(c->kernel, c->parameters);
  };
  const bool well = checker::run_grid({grid.x, grid.y, grid.z}, threads, run_thread, &closure, &closure, sizeof closure);
  return well ? cudaSuccess : cudaErrorUnknown;
}

template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
                               Arguments... arguments) {
  return launch(kernel, grid, threads, stream, arguments...);
}
template <class... Parameters, class... Arguments>
cudaError_t launch_with_shared(void (*kernel)(Parameters...), dim3 grid, unsigned threads, unsigned, cudaStream_t stream,
                               Arguments... arguments) {
  return launch(kernel, grid, threads, stream, arguments...);
}
#define PLUMB_SHARED_BYTES(name, n_bytes) alignas(16) static unsigned char name[n_bytes]
template <class... T>
inline void wait_for_previous(T*&...) {}
// Copies are made as late as possible, in wait_for_copies(). If a wait is missing or counts wrongly, the old content
// remains.
template <unsigned bytes>
inline void copy_later(unsigned char* to, const unsigned char* from) {
  checker::queue_copy({to, from, bytes});
}
inline void end_of_copies() { checker::end_copy_group(); }
template <int n>
inline void wait_for_copies() {
  checker::QueuedCopy copy;
  while (checker::take_copy(n, copy)) {
    if (copy.bytes == 16) {
      *reinterpret_cast<uint4*>(copy.to) = *reinterpret_cast<const uint4*>(copy.from);
    } else {
      *reinterpret_cast<unsigned*>(copy.to) = *reinterpret_cast<const unsigned*>(copy.from);
    }
  }
}

}  // namespace plumb::backends::cuda
