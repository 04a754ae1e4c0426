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

}  // namespace

}  // namespace plumb::backends::cuda
