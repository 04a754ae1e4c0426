// Half precision as CUDA has it; see cuda_runtime_api.h beside this.
#pragma once

#include <cuda_runtime_api.h>

struct __half {
  std::uint16_t bits;
  __half() = default;
  explicit __half(float x) : bits(plumb::backends::checker::float_to_half(x)) {}
  operator float() const { return plumb::backends::checker::half_to_float(bits); }
};
using half = __half;
struct alignas(4) __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }
