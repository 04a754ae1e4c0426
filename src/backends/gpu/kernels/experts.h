// Chooses experts, and adds up their results. (linear.h has their products.)
#pragma once

#include "backends/gpu/kernels/reduce.h"

// The number by which a value is ranked: NaN counts as the smallest.
INLINE float rank_of(float x) { return x > -3.402823466e38f ? x : -3.402823466e38f; }

// Takes the other candidate where it comes before the best: it is larger, or equal with a lower index. The index 0xffffffff
// is that of no candidate.
INLINE void take_first(THREAD float& best, THREAD uint& best_at, float other, uint other_at) {
  if (other_at != 0xffffffffu && (best_at == 0xffffffffu || other > best || (other == best && other_at < best_at))) {
    best = other;
    best_at = other_at;
  }
}

// plan::Score: the number by which an expert is ranked, before its bias. `largest` and `total` are those of a softmax.
INLINE float score_of(uint score, float x, float largest, float total) {
  if (score == 1) return exp(x - largest) / total;
  if (score == 2) return 1.0f / (1.0f + exp(-x));
  return x;
}

// One threadgroup for each row. Each round finds the first, in order (larger, then lower index), of the values that come
// after the one found last, so no value has to be marked as found.
KERNEL(top_k, top_k, PLUMB_REDUCE_THREADS) {
  const ulong row = GROUP_X;
  x += row * p.n;
  indices += row * p.k;
  float largest = 0.0f;
  float total = 1.0f;
  if (p.score == 1) {
    largest = -3.402823466e38f;
    for (uint i = THREAD_INDEX; i < p.n; i += PLUMB_REDUCE_THREADS) largest = max(largest, x[i]);
    largest = reduce_max(largest, &s->reduce, LANE, SIMD_INDEX);
    total = 0.0f;
    for (uint i = THREAD_INDEX; i < p.n; i += PLUMB_REDUCE_THREADS) total += exp(x[i] - largest);
    total = reduce_sum(total, &s->reduce, LANE, SIMD_INDEX);
  }
  const uint group_size = p.n / p.n_groups;
  // A group's rank is that of its two best experts together.
  if (p.n_groups > 1 && THREAD_INDEX < p.n_groups) {
    float first = -3.402823466e38f;
    float second = -3.402823466e38f;
    for (uint i = THREAD_INDEX * group_size; i < (THREAD_INDEX + 1) * group_size; ++i) {
      const float value = rank_of(score_of(p.score, x[i], largest, total) + (p.has_bias != 0 ? bias[i] : 0.0f));
      second = max(second, min(first, value));
      first = max(first, value);
    }
    s->of_group[THREAD_INDEX] = group_size > 1 ? first + second : first;
  }
  BARRIER();
  if (p.n_groups > 1 && THREAD_INDEX < p.n_groups) {
    uint n_before = 0;
    for (uint g = 0; g < p.n_groups; ++g) {
      const float other = s->of_group[g];
      const float own = s->of_group[THREAD_INDEX];
      if (other > own || (other == own && g < THREAD_INDEX)) ++n_before;
    }
    s->is_used[THREAD_INDEX] = n_before < p.n_groups_used ? 1u : 0u;
  }
  BARRIER();
  float last = 0.0f;
  uint last_at = 0xffffffffu;
  for (uint round = 0; round < p.k; ++round) {
    float best = 0.0f;
    uint best_at = 0xffffffffu;
    for (uint i = THREAD_INDEX; i < p.n; i += PLUMB_REDUCE_THREADS) {
      float value = score_of(p.score, x[i], largest, total);
      if (p.has_bias != 0) value += bias[i];
      value = p.n_groups > 1 && s->is_used[i / group_size] == 0 ? -3.402823466e38f : rank_of(value);
      const bool left = round == 0 || value < last || (value == last && i > last_at);
      if (left) take_first(best, best_at, value, i);
    }
    for (ushort mask = 16; mask > 0; mask >>= 1) {
      const float other = simd_shuffle_xor(best, mask);
      const uint other_at = simd_shuffle_xor(best_at, mask);
      take_first(best, best_at, other, other_at);
    }
    if (LANE == 0) {
      s->reduce.values[SIMD_INDEX] = best;
      s->reduce.indices[SIMD_INDEX] = best_at;
    }
    BARRIER();
    best = s->reduce.values[0];
    best_at = s->reduce.indices[0];
    for (uint i = 1; i < PLUMB_REDUCE_THREADS / 32; ++i)
      take_first(best, best_at, s->reduce.values[i], s->reduce.indices[i]);
    BARRIER();
    last = best;
    last_at = best_at;
    if (THREAD_INDEX == 0) indices[round] = float(best_at);
  }
}

INLINE float gate_of(bool softmax, float logit, float largest) {
  return softmax ? exp(logit - largest) : 1.0f / (1.0f + exp(-logit));
}

// One SIMD-group for each row.
KERNEL(expert_weights, expert_weights, PLUMB_SIMD_THREADS) {
  const ulong row = GROUP_X;
  logits += row * p.n;
  experts += row * p.k;
  y += row * p.k;
  const bool softmax = p.gating <= 1;
  float largest = -3.402823466e38f;
  for (uint e = LANE; e < p.n; e += 32) largest = max(largest, logits[e]);
  largest = simd_max(largest);
  float total = 0.0f;
  if (p.gating == 0) {
    for (uint e = LANE; e < p.n; e += 32) total += exp(logits[e] - largest);
  } else {
    for (uint j = LANE; j < p.k; j += 32) total += gate_of(softmax, logits[uint(experts[j])], largest);
  }
  total = p.gating == 2 ? 1.0f : simd_sum(total);
  for (uint j = LANE; j < p.k; j += 32) y[j] = p.scale * (gate_of(softmax, logits[uint(experts[j])], largest) / total);
}

// Grid: [width / threads, rows].
KERNEL(expert_sum, expert_sum, PLUMB_FLAT_THREADS) {
  const uint i = GROUP_X * PLUMB_FLAT_THREADS + THREAD_INDEX;
  const ulong row = GROUP_Y;
  if (i < p.width) {
    float sum = 0.0f;
    for (uint j = 0; j < p.k; ++j) sum = fma(weights[row * p.k + j], x[(row * p.k + j) * p.width + i], sum);
    y[row * p.width + i] = sum;
  }
}
