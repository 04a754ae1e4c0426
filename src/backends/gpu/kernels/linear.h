// Products of rows of x with a weight [n_out, n_in] in any format; activations stay float.
// linear_vec is for few rows: a SIMD-group an output, its lanes along n_in. linear_mat is for many: a threadgroup a tile of
// LINEAR_TILE rows by LINEAR_TILE outputs, 32 of n_in at a time through shared memory.
#pragma once

#include "backends/gpu/kernels/formats.h"

template <class Format>
INLINE float dot_row(DEVICE const uchar* row, DEVICE const float* x, uint n, uint lane) {
  float sum = 0.0f;
  for (uint group = lane; group < (n + 31) / 32; group += 32) {
    float w[32];
    load_weights<Format>(row, group, n, w);
    for (uint i = 0; i < 32; ++i) {
      if (32 * group + i < n) sum = fma(w[i], x[32 * group + i], sum);
    }
  }
  return sum;
}

#define PLUMB_LINEAR_VEC(format)                                                                                          \
  KERNEL(linear_vec, linear_vec_##format, PLUMB_LINEAR_VEC_THREADS) {                                                     \
    const uint out = GROUP_X * (PLUMB_LINEAR_VEC_THREADS / 32) + SIMD_INDEX;                                              \
    const ulong row = GROUP_Y;                                                                                            \
    if (out < p.n_out) {                                                                                                  \
      const float sum = simd_sum(dot_row<format##_format>(w + ulong(out) * p.row_bytes, x + row * p.n_in, p.n_in, LANE)); \
      if (LANE == 0) y[row * p.n_out + out] = p.has_bias != 0 ? sum + bias[out] : sum;                                    \
    }                                                                                                                     \
  }
PLUMB_KERNEL_FORMATS(PLUMB_LINEAR_VEC)

#define LINEAR_TILE 32
// Tiles of 32 x 32 with a column to spare, so that neither rows nor columns fall on one bank.
struct LinearTiles {
  float w[LINEAR_TILE * 33];
  float x[LINEAR_TILE * 33];
};

// Threads are 4 SIMD-groups; lane l of SIMD-group g computes output l of rows 8g .. 8g + 7.
template <class Format>
INLINE void multiply_tile(DEVICE const uchar* w, DEVICE const float* x, DEVICE const float* bias, DEVICE float* y,
                          SHARED LinearTiles* s, CONSTANT_PARAMS(LinearParams) p, uint first_out, uint first_row, uint lane,
                          uint simd) {
  float sums[8];
  for (uint r = 0; r < 8; ++r) sums[r] = 0.0f;
  for (uint group = 0; group < (p.n_in + 31) / 32; ++group) {
    if (simd == 0) {
      const uint out = min(first_out + lane, p.n_out - 1);
      float values[32];
      load_weights<Format>(w + ulong(out) * p.row_bytes, group, p.n_in, values);
      for (uint i = 0; i < 32; ++i) s->w[33 * lane + i] = values[i];
    }
    const uint column = 32 * group + lane;
    for (uint r = simd; r < LINEAR_TILE; r += PLUMB_LINEAR_MAT_THREADS / 32) {
      const bool inside = first_row + r < p.n_rows && column < p.n_in;
      s->x[33 * r + lane] = inside ? x[ulong(first_row + r) * p.n_in + column] : 0.0f;
    }
    BARRIER();
    for (uint i = 0; i < 32; ++i) {
      const float value = s->w[33 * lane + i];
      for (uint r = 0; r < 8; ++r) sums[r] = fma(value, s->x[33 * (8 * simd + r) + i], sums[r]);
    }
    BARRIER();
  }
  const uint out = first_out + lane;
  for (uint r = 0; r < 8; ++r) {
    const uint row = first_row + 8 * simd + r;
    if (out < p.n_out && row < p.n_rows) {
      y[ulong(row) * p.n_out + out] = p.has_bias != 0 ? sums[r] + bias[out] : sums[r];
    }
  }
}

#define PLUMB_LINEAR_MAT(format)                                                                                         \
  KERNEL(linear_mat, linear_mat_##format, PLUMB_LINEAR_MAT_THREADS) {                                                    \
    multiply_tile<format##_format>(w, x, bias, y, s, p, LINEAR_TILE * GROUP_X, LINEAR_TILE * GROUP_Y, LANE, SIMD_INDEX); \
  }
PLUMB_KERNEL_FORMATS(PLUMB_LINEAR_MAT)
