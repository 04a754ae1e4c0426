// Sums and maxima over a threadgroup of PLUMB_REDUCE_THREADS threads. Every thread gets the result, and may then reuse `s`.
#pragma once

#include "backends/gpu/kernels/dialect.h"
#include "backends/gpu/kernels/shared.h"

INLINE float reduce_sum(float x, SHARED ReduceShared* s, uint lane, uint simd) {
  x = simd_sum(x);
  if (lane == 0) s->values[simd] = x;
  BARRIER();
  float sum = 0.0f;
  for (uint i = 0; i < PLUMB_REDUCE_THREADS / 32; ++i) sum += s->values[i];
  BARRIER();
  return sum;
}

INLINE float reduce_max(float x, SHARED ReduceShared* s, uint lane, uint simd) {
  x = simd_max(x);
  if (lane == 0) s->values[simd] = x;
  BARRIER();
  float largest = s->values[0];
  for (uint i = 1; i < PLUMB_REDUCE_THREADS / 32; ++i) largest = max(largest, s->values[i]);
  BARRIER();
  return largest;
}
