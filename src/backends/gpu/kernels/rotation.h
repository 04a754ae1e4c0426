// Sine and cosine of a rotary angle.
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
