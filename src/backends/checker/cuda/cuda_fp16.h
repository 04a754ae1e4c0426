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
inline float plumb_half_of(unsigned word, unsigned i) {
  return checker::half_to_float(static_cast<std::uint16_t>(word >> 16 * i));
}
inline void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned lane = threadIdx.x & 31;
  // The sum runs over 16 elements in 8 pairs. Pair p is in lane p % 4 of each quad, in the first or second word.
  for (unsigned p = 0; p < 8; ++p) {
    unsigned rows[2], columns[2];
    for (unsigned r = 0; r < 2; ++r) rows[r] = __shfl_sync(0xffffffffu, a[r + 2 * (p / 4)], (lane & 28) + p % 4);
    for (unsigned c = 0; c < 2; ++c)
      columns[c] = __shfl_sync(0xffffffffu, p < 4 ? b0 : b1, 4 * (2 * (lane % 4) + c) + p % 4);
    for (unsigned j = 0; j < 4; ++j) {
      for (unsigned i = 0; i < 2; ++i) d[j] += plumb_half_of(rows[j / 2], i) * plumb_half_of(columns[j % 2], i);
    }
  }
}
inline const unsigned short* plumb_row_of(const unsigned short* row, unsigned lane) {
  const auto bits = reinterpret_cast<std::uintptr_t>(row);
  const std::uint64_t low = __shfl_sync(0xffffffffu, static_cast<unsigned>(bits), lane);
  const std::uint64_t high = __shfl_sync(0xffffffffu, static_cast<unsigned>(bits >> 32), lane);
  return reinterpret_cast<const unsigned short*>(high << 32 | low);
}
inline void load_matrices(unsigned (&to)[4], const unsigned short* row) {
  const unsigned lane = threadIdx.x & 31;
  for (unsigned m = 0; m < 4; ++m) {
    const unsigned short* from = plumb_row_of(row, 8 * m + lane / 4) + 2 * (lane % 4);
    to[m] = from[0] | static_cast<unsigned>(from[1]) << 16;
  }
}
inline void load_matrices_transposed(unsigned (&to)[4], const unsigned short* row) {
  const unsigned lane = threadIdx.x & 31;
  for (unsigned m = 0; m < 4; ++m) {
    const unsigned low = plumb_row_of(row, 8 * m + 2 * (lane % 4))[lane / 4];
    const unsigned high = plumb_row_of(row, 8 * m + 2 * (lane % 4) + 1)[lane / 4];
    to[m] = low | high << 16;
  }
}

}  // namespace plumb::backends::cuda
