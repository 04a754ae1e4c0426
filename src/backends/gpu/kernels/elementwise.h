// One thread an element.
#pragma once

#include "backends/gpu/kernels/reduce.h"

// x / (1 + exp(-x)), without an overflow where x is far below 0.
INLINE float silu(float x) {
  const float e = exp(-abs(x));
  return x >= 0.0f ? x / (1.0f + e) : x * e / (1.0f + e);
}

// The error function to float accuracy: Taylor's series near 0, and elsewhere Numerical Recipes' erfc by a Chebyshev fit
// (relative error below 1.2e-7; Press et al., section 6.2).
INLINE float erf_of(float x) {
  const float z = abs(x);
  if (z < 0.5f) {
    const float t = x * x;
    return 1.1283791671f * x *
           (1.0f -
            t * (0.33333333333f - t * (0.1f - t * (0.023809523810f - t * (0.0046296296296f - t * 0.00075757575758f)))));
  }
  const float t = 1.0f / (1.0f + 0.5f * z);
  const float series =
      -1.26551223f +
      t * (1.00002368f +
           t * (0.37409196f +
                t * (0.09678418f +
                     t * (-0.18628806f +
                          t * (0.27886807f +
                               t * (-1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f))))))));
  const float tail = t * exp(-z * z + series);
  return x >= 0.0f ? 1.0f - tail : tail - 1.0f;
}

// plan::Activation's values: silu, gelu by tanh, gelu by erf, relu.
INLINE float activate(uint activation, float x) {
  if (activation == 0) return silu(x);
  if (activation == 1) {
    const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u))
    const float e = exp(-2.0f * abs(u));
    return u >= 0.0f ? x / (1.0f + e) : x * e / (1.0f + e);
  }
  if (activation == 2) return 0.5f * x * (1.0f + erf_of(0.7071067812f * x));
  return max(x, 0.0f);
}

KERNEL(gated, gated, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = activate(p.activation, gate[i]) * up[i];
}

KERNEL(add, add, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = a[i] + b[i];
}

// One threadgroup.
KERNEL(argmax, argmax, PLUMB_REDUCE_THREADS) {
  float best = -3.402823466e38f;
  uint best_at = 0xffffffffu;
  for (uint i = THREAD_INDEX; i < p.n; i += PLUMB_REDUCE_THREADS) {
    if (x[i] > best || best_at == 0xffffffffu) {
      best = x[i];
      best_at = i;
    }
  }
  for (ushort mask = 16; mask > 0; mask >>= 1) {
    const float other = simd_shuffle_xor(best, mask);
    const uint other_at = simd_shuffle_xor(best_at, mask);
    if (other_at != 0xffffffffu && (best_at == 0xffffffffu || other > best || (other == best && other_at < best_at))) {
      best = other;
      best_at = other_at;
    }
  }
  if (LANE == 0) {
    s->values[SIMD_INDEX] = best;
    s->indices[SIMD_INDEX] = best_at;
  }
  BARRIER();
  if (THREAD_INDEX == 0) {
    for (uint i = 1; i < PLUMB_REDUCE_THREADS / 32; ++i) {
      const uint other_at = s->indices[i];
      if (other_at != 0xffffffffu && (s->values[i] > best || (s->values[i] == best && other_at < best_at))) {
        best = s->values[i];
        best_at = other_at;
      }
    }
    index[0] = int(best_at);
  }
}
