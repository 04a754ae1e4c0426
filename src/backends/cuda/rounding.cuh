// Rounding of activations (kernels.h: Rounded) as a part of kernels, and what goes with it.
#pragma once

#include "backends/cuda/kernels.h"

namespace plumb::backends::cuda {

namespace {

constexpr unsigned full = 0xffffffffu;  // all lanes of a warp

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) x = fmaxf(x, __shfl_xor_sync(full, x, mask));
  return x;
}
__device__ __forceinline__ int half_warp_sum(int x) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) x += __shfl_xor_sync(full, x, mask);
  return x;
}

// A warp rounds group `group` of n_groups, a lane an element.
__device__ __forceinline__ void round_group(float x, unsigned group, unsigned n_groups, unsigned lane,
                                            const Rounded& rounded) {
  const float amax = warp_max(fabsf(x));
  const float step = amax / (127.0f * 128.0f);
  const int q = step > 0.0f ? __float2int_rn(x / step) : 0;
  const int high = (q + 64) >> 7;
  const int low = q - 128 * high;
  auto* bytes = reinterpret_cast<signed char*>(rounded.words);
  const unsigned half_group = lane >> 4;
  bytes[16 * (half_group * n_groups + group) + (lane & 15)] = static_cast<signed char>(high);
  bytes[16 * ((2 + half_group) * n_groups + group) + (lane & 15)] = static_cast<signed char>(low);
  const int sum = half_warp_sum(q);
  const int other = __shfl_xor_sync(full, sum, 16);
  if (lane == 0) {
    rounded.scales[group] = make_float4(step, step * static_cast<float>(sum), step * static_cast<float>(other), 0.0f);
  }
}

// The same for four elements a lane: eight lanes hold a group, elements 4 * (lane % 8) and on.
__device__ __forceinline__ void round_four(float4 x, unsigned group, unsigned n_groups, unsigned lane, bool inside,
                                           const Rounded& rounded) {
  float amax = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
#pragma unroll
  for (int mask = 4; mask > 0; mask >>= 1) amax = fmaxf(amax, __shfl_xor_sync(full, amax, mask));
  const float step = amax / (127.0f * 128.0f);
  const float values[4] = {x.x, x.y, x.z, x.w};
  unsigned high_word = 0, low_word = 0;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int q = step > 0.0f ? __float2int_rn(values[i] / step) : 0;
    const int high = (q + 64) >> 7;
    sum += q;
    high_word |= (static_cast<unsigned>(high) & 255u) << (8 * i);
    low_word |= (static_cast<unsigned>(q - 128 * high) & 255u) << (8 * i);
  }
  sum += __shfl_xor_sync(full, sum, 1);
  sum += __shfl_xor_sync(full, sum, 2);
  const int other = __shfl_xor_sync(full, sum, 4);
  if (!inside) return;
  auto* words = reinterpret_cast<unsigned*>(rounded.words);
  const unsigned half_group = (lane >> 2) & 1u;
  words[4 * (half_group * n_groups + group) + (lane & 3)] = high_word;
  words[4 * ((2 + half_group) * n_groups + group) + (lane & 3)] = low_word;
  if ((lane & 7) == 0) {
    rounded.scales[group] = make_float4(step, step * static_cast<float>(sum), step * static_cast<float>(other), 0.0f);
  }
}

}  // namespace

}  // namespace plumb::backends::cuda
