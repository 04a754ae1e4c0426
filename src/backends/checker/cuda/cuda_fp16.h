// CUDA's half precision, for the stand-in in cuda_runtime_api.h.
#pragma once

#include <cuda_runtime_api.h>

using __half = plumb::backends::checker::Half;
using half = __half;
struct alignas(4) __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }

namespace plumb::backends::cuda {

// The checker's version of the CUDA backend's mma.h.
inline void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  checker::multiply_add_of(d, a, b0, b1, __LINE__);
}
inline void load_matrices(unsigned (&to)[4], const unsigned short* row) {
  const unsigned lane = threadIdx.x & 31;
  const void* rows[32];
  checker::addresses_of(row, rows, __LINE__);
  for (unsigned m = 0; m < 4; ++m) {
    const unsigned short* from = static_cast<const unsigned short*>(rows[8 * m + lane / 4]) + 2 * (lane % 4);
    to[m] = from[0] | static_cast<unsigned>(from[1]) << 16;
  }
}
inline void load_matrices_transposed(unsigned (&to)[4], const unsigned short* row) {
  const unsigned lane = threadIdx.x & 31;
  const void* rows[32];
  checker::addresses_of(row, rows, __LINE__);
  for (unsigned m = 0; m < 4; ++m) {
    const auto* first = rows + 8 * m + 2 * (lane % 4);
    const unsigned low = static_cast<const unsigned short*>(first[0])[lane / 4];
    const unsigned high = static_cast<const unsigned short*>(first[1])[lane / 4];
    to[m] = low | high << 16;
  }
}

}  // namespace plumb::backends::cuda
