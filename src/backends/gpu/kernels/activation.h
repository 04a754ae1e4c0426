// The activations of plan::Activation.
#pragma once

#include "backends/gpu/kernels/dialect.h"

// x / (1 + exp(-x)), without overflow for large negative x.
INLINE float silu(float x) {
  const float e = exp(-abs(x));
  return x >= 0.0f ? x / (1.0f + e) : x * e / (1.0f + e);
}

// The error function to float accuracy: a Taylor series near 0, elsewhere the Chebyshev fit of erfc from Numerical Recipes
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

// tanh to float accuracy: a Taylor series near 0, and no overflow for large x (Metal's tanh overflows).
INLINE float tanh_of(float x) {
  const float z = abs(x);
  if (z < 0.25f) {
    const float t = x * x;
    return x * (1.0f - t * (0.33333333333f - t * (0.13333333333f - t * (0.053968253968f - t * 0.021869488536f))));
  }
  const float e = exp(-2.0f * z);
  return x >= 0.0f ? (1.0f - e) / (1.0f + e) : (e - 1.0f) / (1.0f + e);
}

// cap * tanh(x / cap); x where cap is 0.
INLINE float soft_capped(float x, float cap) { return cap > 0.0f ? cap * tanh_of(x / cap) : x; }

// e^x - 1 to float accuracy: a Taylor series near 0.
INLINE float expm1_of(float x) {
  if (abs(x) < 0.25f) {
    return x *
           (1.0f + x * (0.5f + x * (0.16666666667f + x * (0.041666666667f + x * (0.0083333333333f + x * 0.0013888889f)))));
  }
  return exp(x) - 1.0f;
}

// The activation of plan::Activation's number.
INLINE float activate(uint activation, float x) {
  if (activation == 0) return silu(x);
  if (activation == 1) {
    const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u))
    const float e = exp(-2.0f * abs(u));
    return u >= 0.0f ? x / (1.0f + e) : x * e / (1.0f + e);
  }
  if (activation == 2) return 0.5f * x * (1.0f + erf_of(0.7071067812f * x));
  if (activation == 4) return max(x, 0.0f) * max(x, 0.0f);
  if (activation == 5) {
    const float e = exp(-abs(x));
    return x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
  }
  if (activation == 6) return tanh_of(x);
  if (activation == 7) return x;
  return max(x, 0.0f);
}
