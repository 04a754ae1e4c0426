// Sine and cosine of a rotary angle.
// turns[i] describes pair i: x + y is its frequency in turns per position, x a float and y the rest that x rounds away; z
// is the magnitude that multiplies sine and cosine. Angles are right to about 1e-7 of a turn at any position: the product
// with the position is exact, and whole turns are dropped before rounding. (The code uses fma explicitly, so that a
// compiler that fuses products and sums changes nothing.)
#pragma once

#include "backends/gpu/kernels/dialect.h"

struct CosSin {
  float cosine;
  float sine;
};

INLINE CosSin cos_sin_of(float4 turn, uint position) {
  const float n = float(position);
  const float whole = floor(n * turn.x + 0.5f);
  const float part = fma(n, turn.y, fma(n, turn.x, -whole));
  const float angle = 6.283185307179586f * part;
  CosSin r;
  r.cosine = cos(angle) * turn.z;
  r.sine = sin(angle) * turn.z;
  return r;
}
