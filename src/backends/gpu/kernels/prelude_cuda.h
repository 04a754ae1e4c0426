// The dialect's words in CUDA C++. A SIMD-group is a warp.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;

#define DEVICE
#define SHARED
#define THREAD
#define CONSTANT_TABLE static __device__ const
#define CONSTANT_POINTER(T) const T*
#define CONSTANT_PARAMS(T) const T&
#define INLINE static __device__ __forceinline__
#define INLINE_MEMBER __device__ __forceinline__
#define INLINE_SPECIALIZATION __device__ __forceinline__

#define PLUMB_CUDA_IN(i, T, name) const T* __restrict__ name,
#define PLUMB_CUDA_OUT(i, T, name) T* __restrict__ name,
#define PLUMB_CUDA_INOUT(i, T, name) T *name,
#define PLUMB_CUDA_PARAMS(i, T) const __grid_constant__ T p
#define PLUMB_CUDA_BODY_PARAMS(i, T) const T& p
#define PLUMB_CUDA_BODY_SHARED(T, name) T *name,
#define PLUMB_CUDA_DECLARE_SHARED(T, name) \
  __shared__ T plumb_shared;               \
  T* name = &plumb_shared;
#define PLUMB_CUDA_PASS(i, T, name) name,
#define PLUMB_CUDA_PASS_SHARED(T, name) name,
#define PLUMB_CUDA_PASS_PARAMS(i, T) p

// The body is a separate function, since shared memory is an argument in the dialect but a declaration in CUDA.
#define KERNEL(signature, name, n)                                                                                     \
  static __device__ __forceinline__ void name##_body(SIGNATURE_##signature(                                            \
      PLUMB_CUDA_IN, PLUMB_CUDA_OUT, PLUMB_CUDA_INOUT, PLUMB_CUDA_BODY_SHARED, PLUMB_CUDA_BODY_PARAMS));               \
  extern "C" __global__ void __launch_bounds__(n)                                                                      \
      name(SIGNATURE_##signature(PLUMB_CUDA_IN, PLUMB_CUDA_OUT, PLUMB_CUDA_INOUT, PLUMB_NOTHING, PLUMB_CUDA_PARAMS)) { \
    SIGNATURE_##signature(PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_CUDA_DECLARE_SHARED, PLUMB_NOTHING)       \
        name##_body(SIGNATURE_##signature(PLUMB_CUDA_PASS, PLUMB_CUDA_PASS, PLUMB_CUDA_PASS, PLUMB_CUDA_PASS_SHARED,   \
                                          PLUMB_CUDA_PASS_PARAMS));                                                    \
  }                                                                                                                    \
  static __device__ __forceinline__ void name##_body(SIGNATURE_##signature(                                            \
      PLUMB_CUDA_IN, PLUMB_CUDA_OUT, PLUMB_CUDA_INOUT, PLUMB_CUDA_BODY_SHARED, PLUMB_CUDA_BODY_PARAMS))

#define GROUP_X blockIdx.x
#define GROUP_Y blockIdx.y
#define GROUP_Z blockIdx.z
#define THREAD_INDEX threadIdx.x
#define LANE (threadIdx.x & 31u)
#define SIMD_INDEX (threadIdx.x >> 5u)

// n words at a multiple of 2 bytes, by loads of 4 bytes. Where the address is no multiple of 4, a word is combined from the
// halves of two neighbours. May read up to 2 bytes on either side; the upload of weights leaves room for them.
template <uint n>
INLINE void load_words_at_2(const uchar* p, uint* words) {
  const uint odd = static_cast<uint>(reinterpret_cast<ulong>(p)) & 2u;
  const uint* aligned = reinterpret_cast<const uint*>(p - odd);
  uint previous = aligned[0];
#pragma unroll
  for (uint k = 0; k + 1 < n; ++k) {
    const uint next = aligned[k + 1];
    words[k] = __funnelshift_r(previous, next, 8 * odd);
    previous = next;
  }
  words[n - 1] = __funnelshift_r(previous, odd != 0 ? aligned[n] : 0u, 8 * odd);
}
#define LOAD_WORDS_AT_2(p, n, words) load_words_at_2<n>(p, words)

#define BARRIER() __syncthreads()
#define SIMD_BARRIER() __syncwarp()

INLINE float simd_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}
INLINE float simd_max(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
  return x;
}
template <class T>
INLINE T simd_shuffle(T x, ushort lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
template <class T>
INLINE T simd_shuffle_xor(T x, ushort mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}

template <class To, class From>
INLINE To as_type(From x) {
  static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
