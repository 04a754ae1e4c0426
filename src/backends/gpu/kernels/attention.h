// The KV cache and attention over it. A layer's keys and values are [n_slots, n_kv_heads, capacity, head_dim] each.
//
// attention: one threadgroup for each (head, token, part of the cache). Its SIMD-groups take positions in turn; the lanes
// of one are spread along head_dim. Each SIMD-group keeps a running maximum, sum and weighted sum of values, which are
// merged in shared memory. attention_merge merges the parts. Slots and positions are read from buffers, so that a grid made
// for the longest cache serves all.
#pragma once

#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/reduce.h"

#define MOST_OF_LANE (MAX_HEAD_DIM / 32)

INLINE float smallest_float() { return -3.402823466e38f; }

#define PLUMB_KV_WRITE(type)                                                                   \
  KERNEL(kv_write_##type, kv_write_##type, PLUMB_FLAT_THREADS) {                               \
    const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;                                \
    if (i < p.width) {                                                                         \
      const ulong from = ulong(GROUP_Y) * p.width + i;                                         \
      const ulong head = ulong(slots[GROUP_Y]) * (p.width / p.head_dim) + i / p.head_dim;      \
      const ulong to = (head * p.capacity + positions[GROUP_Y]) * p.head_dim + i % p.head_dim; \
      keys[to] = type##_cached(k[from]);                                                       \
      values[to] = type##_cached(v[from]);                                                     \
    }                                                                                          \
  }
INLINE half f16_cached(float x) { return half(x); }
INLINE float f32_cached(float x) { return x; }
PLUMB_KV_WRITE(f16)
PLUMB_KV_WRITE(f32)

// The offset at which the keys and values of a query head begin.
INLINE ulong head_base(CONSTANT_PARAMS(AttentionParams) p, uint slot, uint head) {
  return (ulong(slot) * p.n_kv_heads + head * p.n_kv_heads / p.n_heads) * p.capacity * p.head_dim;
}

// The places [first, end) that a row attends to.
INLINE void places_of(CONSTANT_PARAMS(AttentionParams) p, uint position, uint last, THREAD uint& first, THREAD uint& end) {
  first = position - min(position, p.before);
  if (p.chunk > 0) first = max(first, position / p.chunk * p.chunk);
  end = position + min(last - position, p.after) + 1;
}

// ALiBi's slope of a head: plan::Attention.
INLINE float alibi_slope(CONSTANT_PARAMS(AttentionParams) p, uint head) {
  const float n = float(p.alibi_heads);
  const float exponent = head < p.alibi_heads ? float(head + 1) / n : float(2 * (head - p.alibi_heads) + 1) / (2.0f * n);
  return exp(-0.6931471805599453f * p.alibi_max_bias * exponent);
}

// The score that the softmax takes, from the scaled product of query and key.
INLINE float score_of(CONSTANT_PARAMS(AttentionParams) p, float dot, float slope, uint position, uint at) {
  const float capped = soft_capped(dot, p.soft_cap);
  return p.alibi_max_bias > 0.0f ? capped - slope * (float(position) - float(at)) : capped;
}

template <class T>
INLINE void attend(uint slot, uint position, uint last, DEVICE const float* q, DEVICE const T* keys, DEVICE const T* values,
                   DEVICE float* partial, SHARED AttentionShared* s, CONSTANT_PARAMS(AttentionParams) p, uint head,
                   uint token, uint split, uint lane, uint simd) {
  uint first, end;
  places_of(p, position, last, first, end);
  // Of these, the ones in part `split` of [0, last].
  const uint each = (last + p.n_splits) / p.n_splits;
  first = max(first, split * each);
  end = min(end, (split + 1) * each);
  const float slope = alibi_slope(p, head);
  const ulong kv_base = head_base(p, slot, head);
  q += (ulong(token) * p.n_heads + head) * p.head_dim;
  float query[MOST_OF_LANE];
  float context[MOST_OF_LANE];
  for (uint k = 0; k < MOST_OF_LANE; ++k) {
    const uint i = lane + 32 * k;
    query[k] = i < p.head_dim ? q[i] * p.scale : 0.0f;
    context[k] = 0.0f;
  }
  float largest = smallest_float();
  float sum = 0.0f;
  for (uint at = first + simd; at < end; at += ATTENTION_SIMDS) {
    DEVICE const T* key = keys + kv_base + ulong(at) * p.head_dim;
    float dot = 0.0f;
    for (uint k = 0; k < MOST_OF_LANE; ++k) {
      const uint i = lane + 32 * k;
      if (i < p.head_dim) dot = fma(query[k], float(key[i]), dot);
    }
    const float score = score_of(p, simd_sum(dot), slope, position, at);
    const float now_largest = max(largest, score);
    const float shrink = exp(largest - now_largest);
    const float weight = exp(score - now_largest);
    largest = now_largest;
    sum = sum * shrink + weight;
    DEVICE const T* value = values + kv_base + ulong(at) * p.head_dim;
    for (uint k = 0; k < MOST_OF_LANE; ++k) {
      const uint i = lane + 32 * k;
      if (i < p.head_dim) context[k] = fma(weight, float(value[i]), context[k] * shrink);
    }
  }
  for (uint k = 0; k < MOST_OF_LANE; ++k) {
    const uint i = lane + 32 * k;
    if (i < p.head_dim) s->values[simd * MAX_HEAD_DIM + i] = context[k];
  }
  if (lane == 0) {
    s->largest[simd] = largest;
    s->sum[simd] = sum;
  }
  BARRIER();
  if (simd == 0) {
    float shrinks[ATTENTION_SIMDS];
    float of_all = s->largest[0];
    for (uint g = 1; g < ATTENTION_SIMDS; ++g) of_all = max(of_all, s->largest[g]);
    float total = 0.0f;
    for (uint g = 0; g < ATTENTION_SIMDS; ++g) {
      shrinks[g] = exp(s->largest[g] - of_all);
      total += s->sum[g] * shrinks[g];
    }
    partial += ((ulong(token) * p.n_heads + head) * p.n_splits + split) * (p.head_dim + 2);
    for (uint i = lane; i < p.head_dim; i += 32) {
      float merged = 0.0f;
      for (uint g = 0; g < ATTENTION_SIMDS; ++g) merged += s->values[g * MAX_HEAD_DIM + i] * shrinks[g];
      partial[i] = merged;
    }
    if (lane == 0) {
      partial[p.head_dim] = of_all;
      partial[p.head_dim + 1] = total;
    }
  }
}

#define PLUMB_ATTENTION(type, T)                                                                                    \
  KERNEL(attention_##type, attention_##type, PLUMB_ATTENTION_THREADS) {                                             \
    attend<T>(slots[GROUP_Y], positions[GROUP_Y], lasts[GROUP_Y], q, keys, values, partial, s, p, GROUP_X, GROUP_Y, \
              GROUP_Z, LANE, SIMD_INDEX);                                                                           \
  }
PLUMB_ATTENTION(f16, half)
PLUMB_ATTENTION(f32, float)

// Grid: [n_heads, T].
KERNEL(attention_merge, attention_merge, PLUMB_FLAT_THREADS) {
  const ulong row = ulong(GROUP_Y) * p.n_heads + GROUP_X;
  const uint stride = p.head_dim + 2;
  partial += row * p.n_splits * stride;
  float largest = smallest_float();
  for (uint k = 0; k < p.n_splits; ++k) largest = max(largest, partial[k * stride + p.head_dim]);
  if (p.has_sinks != 0) largest = max(largest, sinks[GROUP_X]);
  float total = p.has_sinks != 0 ? exp(sinks[GROUP_X] - largest) : 0.0f;
  for (uint k = 0; k < p.n_splits; ++k) {
    total += partial[k * stride + p.head_dim + 1] * exp(partial[k * stride + p.head_dim] - largest);
  }
  for (uint i = THREAD_INDEX; i < p.head_dim; i += PLUMB_FLAT_THREADS) {
    float sum = 0.0f;
    for (uint k = 0; k < p.n_splits; ++k) sum += partial[k * stride + i] * exp(partial[k * stride + p.head_dim] - largest);
    y[row * p.head_dim + i] = sum / total;
  }
}

// Grid: [n_heads, T].
template <class T>
INLINE void softmax_row(uint slot, uint position, uint last, DEVICE const float* q, DEVICE const T* keys,
                        DEVICE const float* sinks, DEVICE float* probs, SHARED ReduceShared* s,
                        CONSTANT_PARAMS(AttentionParams) p, uint head, uint token, uint thread_index, uint lane,
                        uint simd) {
  uint first, end;
  places_of(p, position, last, first, end);
  const float slope = alibi_slope(p, head);
  q += (ulong(token) * p.n_heads + head) * p.head_dim;
  keys += head_base(p, slot, head);
  probs += (ulong(head) * p.n_rows + token) * p.n_positions;
  float largest = smallest_float();
  for (uint at = thread_index; at < p.n_positions; at += PLUMB_REDUCE_THREADS) {
    float dot = 0.0f;
    if (at >= first && at < end) {
      for (uint i = 0; i < p.head_dim; ++i) dot = fma(q[i] * p.scale, float(keys[ulong(at) * p.head_dim + i]), dot);
      dot = score_of(p, dot, slope, position, at);
      largest = max(largest, dot);
    }
    probs[at] = dot;
  }
  if (p.has_sinks != 0) largest = max(largest, sinks[head]);
  largest = reduce_max(largest, s, lane, simd);
  float sum = p.has_sinks != 0 && thread_index == 0 ? exp(sinks[head] - largest) : 0.0f;
  for (uint at = thread_index; at < p.n_positions; at += PLUMB_REDUCE_THREADS) {
    if (at >= first && at < end) sum += exp(probs[at] - largest);
  }
  sum = reduce_sum(sum, s, lane, simd);
  for (uint at = thread_index; at < p.n_positions; at += PLUMB_REDUCE_THREADS) {
    probs[at] = at >= first && at < end ? exp(probs[at] - largest) / sum : 0.0f;
  }
}

#define PLUMB_ATTENTION_PROBS(type, T)                                                                                \
  KERNEL(attention_probs_##type, attention_probs_##type, PLUMB_REDUCE_THREADS) {                                      \
    softmax_row<T>(slots[GROUP_Y], positions[GROUP_Y], lasts[GROUP_Y], q, keys, sinks, probs, s, p, GROUP_X, GROUP_Y, \
                   THREAD_INDEX, LANE, SIMD_INDEX);                                                                   \
  }
PLUMB_ATTENTION_PROBS(f16, half)
PLUMB_ATTENTION_PROBS(f32, float)
