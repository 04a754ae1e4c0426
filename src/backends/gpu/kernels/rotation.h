// Sine and cosine of a rotary angle.
// turns[i] describes pair i: (x, y) is the frequency in turns a position, as a float and what that float leaves out; z is
// the magnitude that multiplies sine and cosine. Angles stay right to about 1e-7 of a turn at any position: the product
// with the position is taken exactly, and whole turns are dropped before anything is rounded. (By an fma, so that a
// compiler which fuses products and sums by itself has nothing to change.)
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
