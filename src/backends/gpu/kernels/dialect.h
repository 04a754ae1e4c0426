// The kernel dialect: a subset of C++ in which every GPU kernel of this folder is written once. prelude_metal.h turns it
// into Metal Shading Language, prelude_cuda.h into CUDA C++; the checker (src/backends/checker) runs the Metal text.
// Kernels have no #ifdef by target: words that differ between targets are defined in the preludes.
//
// clang-format off
// Address spaces stand before the pointee, as in Metal:
//   DEVICE                         a buffer
//   SHARED                         memory of the threadgroup
//   THREAD                         memory of one thread
//   CONSTANT_TABLE                 a constant array at namespace scope
//   CONSTANT_POINTER(T)            a pointer into one
//   CONSTANT_PARAMS(T)             a reference to a kernel's parameters
// Functions:
//   KERNEL(signature, name, n) {}  a kernel of n threads a threadgroup; its arguments are SIGNATURE_<signature> of
//                                  interface.h, and `p` is its parameter struct
//   INLINE                         before a function that kernels call
//   INLINE_MEMBER                  before a member function
//   INLINE_SPECIALIZATION          before a template's specialization
// In a kernel's body only:
//   GROUP_X, GROUP_Y, GROUP_Z      the threadgroup's place in the grid
//   THREAD_INDEX                   the thread's place in its threadgroup
//   LANE, SIMD_INDEX               its place in its SIMD-group (warp) of 32, and the SIMD-group's place in the threadgroup
// Anywhere:
//   BARRIER()                      all threads of the threadgroup; orders shared memory
//   SIMD_BARRIER()                 all lanes of the SIMD-group; orders shared memory
//   simd_sum(x), simd_max(x), simd_shuffle(x, lane), simd_shuffle_xor(x, mask)
//                                  all lanes of the SIMD-group take part
//   LOAD_WORDS_AT_2(p, n, words)   n words of 4 bytes from an address that is a multiple of 2
// Types: bool, float, half, int, uint, uchar, ushort, ulong, float4, uint4 (fields x y z w; a load or store through a
// pointer to one needs 16-byte alignment), structs of those. No double, no pointers to pointers, no virtual, no recursion,
// no lambdas, no exceptions, no constructors of vectors.
// Mathematics: fma, exp, log, sin, cos, sqrt, floor, abs, min, max of float (min, max also of int and uint);
// as_type<T>(x) reinterprets bits; float(h), half(x) convert.
//
// Every thread of a threadgroup must reach every BARRIER, and every lane of a SIMD-group every SIMD operation. The checker
// verifies this.
// clang-format on
#pragma once

#if defined(PLUMB_TARGET_METAL)
#include "backends/gpu/kernels/prelude_metal.h"
#elif defined(PLUMB_TARGET_CUDA)
#include "backends/gpu/kernels/prelude_cuda.h"
#else
#error "a kernel is compiled for a target: define PLUMB_TARGET_METAL or PLUMB_TARGET_CUDA"
#endif
