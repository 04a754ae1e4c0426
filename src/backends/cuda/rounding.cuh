// The parts of kernels that round activations to Rounded (kernels.h).
#pragma once

#include "backends/cuda/kernels.h"
#include "backends/gpu/kernels/dialect.h"

namespace plumb::backends::cuda {

namespace {

constexpr unsigned full = 0xffffffffu;  // all lanes of a warp

__device__ __forceinline__ int half_warp_sum(int x) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) x += __shfl_xor_sync(full, x, mask);
  return x;
}

__device__ __forceinline__ float step_of(float amax) { return amax / (127.0f * 128.0f); }

// A multiple of the step, and its two bytes.
struct Multiple {
  int q, high, low;
};
__device__ __forceinline__ Multiple multiple_of(float x, float step) {
  const int q = step > 0.0f ? __float2int_rn(x / step) : 0;
  const int high = (q + 64) >> 7;
  return {q, high, q - 128 * high};
}

__device__ __forceinline__ float4 scales_of(float step, int first_sum, int last_sum) {
  return make_float4(step, step * static_cast<float>(first_sum), step * static_cast<float>(last_sum), 0.0f);
}

// A warp rounds group `group` of n_groups, one element in each lane.
__device__ __forceinline__ void round_group(float x, unsigned group, unsigned n_groups, unsigned lane,
                                            const Rounded& rounded) {
  const float step = step_of(simd_max(fabsf(x)));
  const Multiple m = multiple_of(x, step);
  auto* bytes = reinterpret_cast<signed char*>(rounded.words);
  const unsigned half_group = lane >> 4;
  bytes[16 * (half_group * n_groups + group) + (lane & 15)] = static_cast<signed char>(m.high);
  bytes[16 * ((2 + half_group) * n_groups + group) + (lane & 15)] = static_cast<signed char>(m.low);
  const int sum = half_warp_sum(m.q);
  const int other = __shfl_xor_sync(full, sum, 16);
  if (lane == 0) rounded.scales[group] = scales_of(step, sum, other);
}

// The same with four elements in each lane: eight lanes hold a group, each from element 4 * (lane % 8) on.
__device__ __forceinline__ void round_four(float4 x, unsigned group, unsigned n_groups, unsigned lane, bool inside,
                                           const Rounded& rounded) {
  float amax = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
#pragma unroll
  for (int mask = 4; mask > 0; mask >>= 1) amax = fmaxf(amax, __shfl_xor_sync(full, amax, mask));
  const float step = step_of(amax);
  const float values[4] = {x.x, x.y, x.z, x.w};
  unsigned high_word = 0, low_word = 0;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Multiple m = multiple_of(values[i], step);
    sum += m.q;
    high_word |= (static_cast<unsigned>(m.high) & 255u) << (8 * i);
    low_word |= (static_cast<unsigned>(m.low) & 255u) << (8 * i);
  }
  sum += __shfl_xor_sync(full, sum, 1);
  sum += __shfl_xor_sync(full, sum, 2);
  const int other = __shfl_xor_sync(full, sum, 4);
  if (!inside) return;
  auto* words = reinterpret_cast<unsigned*>(rounded.words);
  const unsigned half_group = (lane >> 2) & 1u;
  words[4 * (half_group * n_groups + group) + (lane & 3)] = high_word;
  words[4 * ((2 + half_group) * n_groups + group) + (lane & 3)] = low_word;
  if ((lane & 7) == 0) rounded.scales[group] = scales_of(step, sum, other);
}

}  // namespace

}  // namespace plumb::backends::cuda
