// Rotary embedding. One thread for each pair, or for two components that do not turn; the last of an odd head is alone. The
// grid is [pairs of a row, T].
#pragma once

#include "backends/gpu/kernels/rotation.h"

KERNEL(rope, rope, PLUMB_FLAT_THREADS) {
  const uint half_head = (p.head_dim + 1) / 2;
  const uint pair = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (pair < p.width / p.head_dim * half_head) {
    const ulong base = ulong(GROUP_Y) * p.width + (pair / half_head) * p.head_dim;
    const uint i = pair % half_head;
    const uint n_pairs = p.n_rot / 2;
    if (i < n_pairs) {
      const CosSin r = cos_sin_of(turns[i], positions[GROUP_Y]);
      const ulong a = base + (p.halves != 0 ? i : 2 * i);
      const ulong b = base + (p.halves != 0 ? i + n_pairs : 2 * i + 1);
      const float xa = x[a];
      const float xb = x[b];
      y[a] = xa * r.cosine - xb * r.sine;
      y[b] = xa * r.sine + xb * r.cosine;
    } else {
      for (uint k = 2 * i; k < min(2 * i + 2, p.head_dim); ++k) y[base + k] = x[base + k];
    }
  }
}
