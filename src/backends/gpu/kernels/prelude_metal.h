// The dialect's words in Metal Shading Language. A C++ preprocessor expands this header when Plumb is built. The result is
// plain Metal text, which Apple's driver compiles and the checker executes. (The preprocessor does not have Metal's own
// headers, so their includes are prepended to the text afterwards.)
#pragma once

#define DEVICE device
#define SHARED threadgroup
#define THREAD thread
// `constant` is the address space; `const` makes the type const in every compiler, so that a pointer and the array it
// points into have the same type.
#define CONSTANT_TABLE constant const
#define CONSTANT_POINTER(T) constant const T*
#define CONSTANT_PARAMS(T) constant const T&
#define INLINE static inline
#define INLINE_MEMBER inline
#define INLINE_SPECIALIZATION inline

#define PLUMB_METAL_IN(i, T, name) device const T *name [[buffer(i)]],
#define PLUMB_METAL_OUT(i, T, name) device T *name [[buffer(i)]],
#define PLUMB_METAL_SHARED(T, name) threadgroup T *name [[threadgroup(0)]],
#define PLUMB_METAL_PARAMS(i, T) constant const T &p [[buffer(i)]],

#define KERNEL(signature, name, n)                                                                                    \
  [[max_total_threads_per_threadgroup(n)]] kernel void name(                                                          \
      SIGNATURE_##signature(PLUMB_METAL_IN, PLUMB_METAL_OUT, PLUMB_METAL_OUT, PLUMB_METAL_SHARED, PLUMB_METAL_PARAMS) \
          uint3 plumb_group [[threadgroup_position_in_grid]],                                                         \
      uint plumb_thread [[thread_index_in_threadgroup]], uint plumb_lane [[thread_index_in_simdgroup]],               \
      uint plumb_simd [[simdgroup_index_in_threadgroup]])

#define GROUP_X plumb_group.x
#define GROUP_Y plumb_group.y
#define GROUP_Z plumb_group.z
#define THREAD_INDEX plumb_thread
#define LANE plumb_lane
#define SIMD_INDEX plumb_simd

// n words at a multiple of 2 bytes.
#define LOAD_WORDS_AT_2(p, n, words) \
  for (uint plumb_k = 0; plumb_k < n; ++plumb_k) (words)[plumb_k] = load_u32_at_2((p) + 4 * plumb_k)

#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define SIMD_BARRIER() simdgroup_barrier(mem_flags::mem_threadgroup)
