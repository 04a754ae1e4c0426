// Makes KernelEntries from the Metal text. It is included after the text, and undefines the words of metal/metal_stdlib
// that are ordinary names in C++.
//   PLUMB_CALL(signature, name, n)    defines call_name, a Body
//   PLUMB_ENTRY(signature, name, n)   the initializer of its KernelEntry, and a comma
#pragma once

#undef device
#undef thread
#undef threadgroup
#undef constant
#undef kernel
#undef simd_sum
#undef simd_max
#undef simd_shuffle
#undef simd_shuffle_xor
#undef threadgroup_barrier
#undef simdgroup_barrier

#include "backends/checker/runtime.h"

#define PLUMB_CALL_IN(i, T, name) static_cast<const T*>(arguments[i]),
#define PLUMB_CALL_OUT(i, T, name) static_cast<T*>(arguments[i]),
#define PLUMB_CALL_SHARED(T, name) static_cast<T*>(shared),
#define PLUMB_CALL_PARAMS(i, T) *static_cast<const T*>(arguments[i]),
#define PLUMB_CALL(signature, name, n)                                                                                \
  __attribute__((no_sanitize("thread"))) void call_##name(void* const* arguments, [[maybe_unused]] void* shared,      \
                                                          std::array<std::uint32_t, 3> group, std::uint32_t index) {  \
    ::name(SIGNATURE_##signature(PLUMB_CALL_IN, PLUMB_CALL_OUT, PLUMB_CALL_OUT, PLUMB_CALL_SHARED, PLUMB_CALL_PARAMS) \
               uint3{group[0], group[1], group[2]},                                                                   \
           index, index % 32, index / 32);                                                                            \
  }

#define PLUMB_SHARED_SIZE(T, name) +sizeof(T)
// Shared memory is checked in elements of at most 4 bytes, since lanes may write neighbouring words of a struct of floats,
// or neighbouring halves.
#define PLUMB_SHARED_ALIGNMENT(T, name) +(alignof(T) < 4 ? alignof(T) : 4)
#define PLUMB_ENTRY(signature, name, n)                                                                                 \
  {call_##name, 0 SIGNATURE_##signature(PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_SHARED_SIZE, PLUMB_NOTHING), \
   0 SIGNATURE_##signature(PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_SHARED_ALIGNMENT, PLUMB_NOTHING)},
