// Rotary embedding. One thread a pair, or a component that does not turn; the grid is [pairs of a row, T].
// turns[i] describes pair i: (x, y) is the frequency in turns a position, as a float and what that float leaves out; z is
// the magnitude that multiplies sine and cosine. Angles stay right to about 1e-7 of a turn at any position: the product
// with the position is taken exactly, and whole turns are dropped before anything is rounded.
#pragma once

#include "backends/gpu/kernels/dialect.h"

struct CosSin {
  float cosine;
  float sine;
};

INLINE CosSin cos_sin_of(float4 turn, uint position) {
  const float n = float(position);
  const float whole = n * turn.x;
  const float rest = fma(n, turn.x, -whole);
  const float part = (whole - floor(whole + 0.5f)) + (rest + n * turn.y);
  const float angle = 6.283185307179586f * part;
  CosSin r;
  r.cosine = cos(angle) * turn.z;
  r.sine = sin(angle) * turn.z;
  return r;
}

KERNEL(rope, rope, PLUMB_FLAT_THREADS) {
  const uint half_head = p.head_dim / 2;
  const uint pair = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (pair < p.width / 2) {
    const ulong base = ulong(GROUP_Y) * p.width + (pair / half_head) * p.head_dim;
    const uint i = pair % half_head;
    const uint n_pairs = p.n_rot / 2;
    if (i < n_pairs) {
      const CosSin r = cos_sin_of(turns[i], step->first + GROUP_Y);
      const ulong a = base + (p.halves != 0 ? i : 2 * i);
      const ulong b = base + (p.halves != 0 ? i + n_pairs : 2 * i + 1);
      const float xa = x[a];
      const float xb = x[b];
      y[a] = xa * r.cosine - xb * r.sine;
      y[b] = xa * r.sine + xb * r.cosine;
    } else {
      y[base + 2 * i] = x[base + 2 * i];
      y[base + 2 * i + 1] = x[base + 2 * i + 1];
    }
  }
}
