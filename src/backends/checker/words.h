// What the stand-ins for Metal's library (metal/metal_stdlib) and for CUDA (cuda/cuda_runtime_api.h) share.
#pragma once

#include <cstdint>

namespace plumb::backends::checker {

// Defined in fibers.cpp. `line` is the line of the kernels' text.
float simd_sum_of(float x, int line);
float simd_max_of(float x, int line);
std::uint32_t simd_shuffle_of(std::uint32_t bits, std::uint32_t lane, bool is_mask, int line);
// d += a b, the matrix instruction of src/backends/cuda/mma.h: a and b are halves, spread over the SIMD-group as there.
void multiply_add_of(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, int line);
// The addresses that the lanes give, by lane.
void addresses_of(const void* own, const void* (&of_lanes)[32], int line);
void threadgroup_barrier_at(int line);
void simdgroup_barrier_at(int line);
float half_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float x);

template <class T>
inline T shuffled(T x, unsigned lane, bool is_mask, int line) {
  static_assert(sizeof(T) == 4, "shuffles move 4 bytes");
  return __builtin_bit_cast(T, simd_shuffle_of(__builtin_bit_cast(std::uint32_t, x), lane, is_mask, line));
}

// A vector is read and written by one access, so that its alignment can be checked.
template <class T>
struct Vector4 {
  using Native __attribute__((vector_size(16))) = T;
  union {
    Native native;
    struct {
      T x, y, z, w;
    };
  };
  Vector4() = default;
  Vector4(const Vector4& other) : native(other.native) {}
  Vector4& operator=(const Vector4& other) {
    native = other.native;
    return *this;
  }
};

struct Half {
  std::uint16_t bits;
  Half() = default;
  explicit Half(float x) : bits(float_to_half(x)) {}
  operator float() const { return half_to_float(bits); }
};

inline float min(float a, float b) { return b < a ? b : a; }
inline float max(float a, float b) { return a < b ? b : a; }
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }

}  // namespace plumb::backends::checker

using float4 = plumb::backends::checker::Vector4<float>;
using uint4 = plumb::backends::checker::Vector4<unsigned>;
