// Ops that work row by row: embedding, norm, and elementwise ops.
#pragma once

#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/formats.h"
#include "backends/gpu/kernels/reduce.h"

// One threadgroup for each row; a thread decodes groups of 32 weights of the token's row of the table.
template <class Format>
INLINE void embed_row(DEVICE const uchar* row, DEVICE float* y, uint n, float scale, uint thread_index) {
  for (uint group = thread_index; group < (n + 31) / 32; group += PLUMB_EMBED_THREADS) {
    float w[32];
    load_weights<Format>(row, group, n, w);
    for (uint i = 0; i < 32; ++i) {
      if (32 * group + i < n) y[32 * group + i] = w[i] * scale;
    }
  }
}

#define PLUMB_EMBED(id, type, NAME, family, writing)                                                                   \
  KERNEL(embed, embed_##id, PLUMB_EMBED_THREADS) {                                                                     \
    embed_row<id##_format>(table + ulong(rows[GROUP_X]) * p.row_bytes, y + ulong(GROUP_X) * p.width, p.width, p.scale, \
                           THREAD_INDEX);                                                                              \
  }
PLUMB_FORMATS(PLUMB_EMBED)

// y = c / sqrt(mean(c^2) + eps) * weight + bias. c is x or, in a layer norm, x minus its mean. One threadgroup for each
// group of elements (a row, or one head of a row).
KERNEL(normalize, normalize, PLUMB_REDUCE_THREADS) {
  x += ulong(GROUP_X) * p.group;
  y += ulong(GROUP_X) * p.group;
  float mean = 0.0f;
  if (p.is_layer != 0) {
    float total = 0.0f;
    for (uint i = THREAD_INDEX; i < p.group; i += PLUMB_REDUCE_THREADS) total += x[i];
    mean = reduce_sum(total, s, LANE, SIMD_INDEX) / float(p.group);
  }
  float sum = 0.0f;
  for (uint i = THREAD_INDEX; i < p.group; i += PLUMB_REDUCE_THREADS) sum = fma(x[i] - mean, x[i] - mean, sum);
  sum = reduce_sum(sum, s, LANE, SIMD_INDEX);
  const float scale = 1.0f / sqrt(sum / float(p.group) + p.eps);
  // Where this group's part of the weight and of the bias begins.
  if (p.n_weights != 0) weight += ulong(GROUP_X) * p.group % p.n_weights;
  if (p.n_biases != 0) bias += ulong(GROUP_X) * p.group % p.n_biases;
  for (uint i = THREAD_INDEX; i < p.group; i += PLUMB_REDUCE_THREADS) {
    float value = (x[i] - mean) * scale;
    if (p.n_weights != 0) value *= weight[i];
    if (p.n_biases != 0) value += bias[i];
    y[i] = value;
  }
}

// activation(gate) * up, as plan::Activate has it.
INLINE float gated(CONSTANT_PARAMS(ActivateParams) p, float x, float factor) {
  if (p.limit > 0.0f) {
    x = x > p.limit ? p.limit : x;
    factor = factor > p.limit ? p.limit : factor < -p.limit ? -p.limit : factor;
  }
  if (p.has_up != 0) factor += p.up_offset;
  if (p.activation == 8) {
    const float curved = x > 0.0f ? p.positive * x * x : p.negative * (expm1_of(x < p.eps ? x : p.eps) - x);
    return (p.beta * x + curved) * factor;
  }
  // silu of alpha x, divided by alpha
  if (p.activation == 0 && p.alpha != 1.0f) return silu(p.alpha * x) / p.alpha * factor;
  return activate(p.activation, x) * factor;
}

// One thread for each element.
KERNEL(activated, activated, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = gated(p, gate[i / p.a_gate], p.has_up != 0 ? up[i] : 1.0f);
}

KERNEL(scale, scale, PLUMB_FLAT_THREADS) {
  const uint at = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (at < p.n) {
    const uint row = at / p.width;
    const uint i = at % p.width;
    float factor = p.factor;
    if (p.beta != 0.0f) factor *= 1.0f + p.beta * log(1.0f + floor((float(positions[row]) + p.offset) / p.length));
    if (p.n_weights != 0) factor *= weight[i % p.n_weights];
    y[at] = x[ulong(row) * p.x_width + p.first + i] * factor;
  }
}

KERNEL(add, add, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = a[i] + b[i];
}

KERNEL(soft_cap, soft_cap, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  if (i < p.n) y[i] = soft_capped(x[i], p.cap);
}
