// Products of rows of x with a weight [n_out, n_in] in any format; activations stay float. linear_vec is for few rows: a
// SIMD-group computes one output, its lanes spread along n_in. linear_mat is for many rows: a threadgroup computes a tile,
// and brings 32 of n_in at a time to shared memory.
#pragma once

#include "backends/gpu/kernels/formats.h"
#include "backends/gpu/kernels/shared.h"

template <class Format>
INLINE float dot_row(DEVICE const uchar* row, DEVICE const float* x, uint n, uint lane) {
  float sum = 0.0f;
  for (uint group = lane; group < (n + 31) / 32; group += 32) {
    float w[32];
    load_weights<Format>(row, group, n, w);
    if (n % 32 == 0) {
      for (uint k = 0; k < 8; ++k) {
        const float4 v = ((DEVICE const float4*)(x + 32 * group))[k];
        sum = fma(w[4 * k], v.x, sum);
        sum = fma(w[4 * k + 1], v.y, sum);
        sum = fma(w[4 * k + 2], v.z, sum);
        sum = fma(w[4 * k + 3], v.w, sum);
      }
    } else {
      for (uint i = 0; i < 32 && 32 * group + i < n; ++i) sum = fma(w[i], x[32 * group + i], sum);
    }
  }
  return sum;
}

template <class Format>
INLINE void multiply_row(DEVICE const uchar* w, DEVICE const float* x, DEVICE const float* bias,
                         DEVICE const float* experts, DEVICE float* y, CONSTANT_PARAMS(LinearParams) p, uint out, ulong row,
                         uint lane) {
  if (out >= p.n_out) return;
  if (p.n_experts != 0) {
    const ulong expert = min(uint(experts[row]), p.n_experts - 1);
    w += expert * p.n_out * p.row_bytes;
    bias += p.has_bias != 0 ? expert * p.n_out : 0;
    x += row / p.rows_a_x * p.n_in;
  } else {
    x += row * p.n_in;
  }
  const float sum = simd_sum(dot_row<Format>(w + ulong(out) * p.row_bytes, x, p.n_in, lane));
  if (lane == 0) y[row * p.n_out + out] = p.has_bias != 0 ? sum + bias[out] : sum;
}

#define PLUMB_LINEAR_VEC(id, type, NAME, family, writing)                                                                 \
  KERNEL(linear_vec, linear_vec_##id, PLUMB_LINEAR_VEC_THREADS) {                                                         \
    multiply_row<id##_format>(w, x, bias, experts, y, p, GROUP_X * (PLUMB_LINEAR_VEC_THREADS / 32) + SIMD_INDEX, GROUP_Y, \
                              LANE);                                                                                      \
  }
PLUMB_FORMATS(PLUMB_LINEAR_VEC)

// A thread computes 4 by 4 of a tile.
template <class Format>
INLINE void multiply_tile(DEVICE const uchar* w, DEVICE const float* x, DEVICE const float* bias, DEVICE float* y,
                          SHARED LinearTiles* s, CONSTANT_PARAMS(LinearParams) p, uint first_out, uint first_row,
                          uint thread_index) {
  SHARED float* tile_w = (SHARED float*)s->w;
  SHARED float* tile_x = (SHARED float*)s->x;
  const uint out_of_thread = 4 * (thread_index % (LINEAR_TILE_OUT / 4));
  const uint row_of_thread = 4 * (thread_index / (LINEAR_TILE_OUT / 4));
  float sums[16];
  for (uint i = 0; i < 16; ++i) sums[i] = 0.0f;
  for (uint group = 0; group < (p.n_in + 31) / 32; ++group) {
    if (thread_index < LINEAR_TILE_OUT) {
      const uint out = min(first_out + thread_index, p.n_out - 1);
      float values[32];
      load_weights<Format>(w + ulong(out) * p.row_bytes, group, p.n_in, values);
      for (uint i = 0; i < 32; ++i) tile_w[LINEAR_STRIDE_W * i + thread_index] = values[i];
    }
    const uint column = 32 * group + thread_index % 32;
    for (uint r = thread_index / 32; r < LINEAR_TILE_ROWS; r += PLUMB_LINEAR_MAT_THREADS / 32) {
      const bool inside = first_row + r < p.n_rows && column < p.n_in;
      tile_x[LINEAR_STRIDE_X * (thread_index % 32) + r] = inside ? x[ulong(first_row + r) * p.n_in + column] : 0.0f;
    }
    BARRIER();
    for (uint i = 0; i < 32; ++i) {
      const float4 a = s->w[(LINEAR_STRIDE_W * i + out_of_thread) / 4];
      const float4 b = s->x[(LINEAR_STRIDE_X * i + row_of_thread) / 4];
      const float outs[4] = {a.x, a.y, a.z, a.w};
      const float rows[4] = {b.x, b.y, b.z, b.w};
      for (uint r = 0; r < 4; ++r) {
        for (uint j = 0; j < 4; ++j) sums[4 * r + j] = fma(outs[j], rows[r], sums[4 * r + j]);
      }
    }
    BARRIER();
  }
  for (uint r = 0; r < 4; ++r) {
    const uint row = first_row + row_of_thread + r;
    for (uint j = 0; j < 4; ++j) {
      const uint out = first_out + out_of_thread + j;
      if (out < p.n_out && row < p.n_rows) {
        y[ulong(row) * p.n_out + out] = p.has_bias != 0 ? sums[4 * r + j] + bias[out] : sums[4 * r + j];
      }
    }
  }
}

#define PLUMB_LINEAR_MAT(id, type, NAME, family, writing)                                                                 \
  KERNEL(linear_mat, linear_mat_##id, PLUMB_LINEAR_MAT_THREADS) {                                                         \
    multiply_tile<id##_format>(w, x, bias, y, s, p, LINEAR_TILE_OUT * GROUP_X, LINEAR_TILE_ROWS * GROUP_Y, THREAD_INDEX); \
  }
PLUMB_FORMATS(PLUMB_LINEAR_MAT)
