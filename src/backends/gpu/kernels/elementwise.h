// One thread an element.
#pragma once

#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/reduce.h"

KERNEL(gated, gated, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = activate(p.activation, gate[i]) * up[i];
}

KERNEL(add, add, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = a[i] + b[i];
}

KERNEL(soft_cap, soft_cap, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = soft_capped(x[i], p.cap);
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
