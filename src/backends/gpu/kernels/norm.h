// RMS norm: one threadgroup a group of elements (a row, or one head of a row).
#pragma once

#include "backends/gpu/kernels/reduce.h"

KERNEL(rms_norm, rms_norm, PLUMB_REDUCE_THREADS) {
  x += ulong(GROUP_X) * p.group;
  y += ulong(GROUP_X) * p.group;
  float sum = 0.0f;
  for (uint i = THREAD_INDEX; i < p.group; i += PLUMB_REDUCE_THREADS) sum = fma(x[i], x[i], sum);
  sum = reduce_sum(sum, s, LANE, SIMD_INDEX);
  const float scale = 1.0f / sqrt(sum / float(p.group) + p.eps);
  for (uint i = THREAD_INDEX; i < p.group; i += PLUMB_REDUCE_THREADS) y[i] = x[i] * scale * weight[i];
}
