// What each kernel takes, once for all who need to know: the kernels themselves (as a list of arguments in Metal or CUDA)
// and the host (as a struct with a typed field an argument, src/backends/gpu/launch.h), so that a wrong argument does not
// compile.
//
//   IN(i, T, name)      buffer i, read only          OUT(i, T, name)   buffer i, every element bound is written
//   INOUT(i, T, name)   buffer i, read, or written in part
//   SHARED(T, name)     the threadgroup's memory     PARAMS(i, T)      the parameter struct p, the last
#pragma once

#define SIGNATURE_embed(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, int, tokens) IN(1, uchar, table) OUT(2, float, y) PARAMS(3, EmbedParams)

#define SIGNATURE_rms_norm(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) IN(1, float, weight) OUT(2, float, y) SHARED(ReduceShared, s) PARAMS(3, NormParams)

#define SIGNATURE_linear_vec(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uchar, w)                                            \
  IN(1, float, x) IN(2, float, bias) IN(3, float, experts) OUT(4, float, y) PARAMS(5, LinearParams)

#define SIGNATURE_linear_mat(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uchar, w) IN(1, float, x) IN(2, float, bias) OUT(3, float, y) SHARED(LinearTiles, s) PARAMS(4, LinearParams)

#define SIGNATURE_rope(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows) IN(1, float4, turns) IN(2, float, x) OUT(3, float, y) PARAMS(4, RopeParams)

#define SIGNATURE_kv_write_f16(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                        \
  IN(1, float, k) IN(2, float, v) INOUT(3, half, keys) INOUT(4, half, values) PARAMS(5, KvWriteParams)
#define SIGNATURE_kv_write_f32(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                        \
  IN(1, float, k) IN(2, float, v) INOUT(3, float, keys) INOUT(4, float, values) PARAMS(5, KvWriteParams)

// partial [T, n_heads, n_splits, head_dim + 2]: the weighted sum of values, the largest score and the sum of weights of
// each part of the cache; parts that hold no position of a token are written as empty.
#define SIGNATURE_attention_f16(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                         \
  IN(1, float, q)                                               \
  IN(2, half, keys) IN(3, half, values) OUT(4, float, partial) SHARED(AttentionShared, s) PARAMS(5, AttentionParams)
#define SIGNATURE_attention_f32(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                         \
  IN(1, float, q)                                               \
  IN(2, float, keys) IN(3, float, values) OUT(4, float, partial) SHARED(AttentionShared, s) PARAMS(5, AttentionParams)
#define SIGNATURE_attention_merge(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, partial) IN(1, float, sinks) OUT(2, float, y) PARAMS(3, AttentionParams)
// The softmax itself, [n_heads, T, S], for who watches it.
#define SIGNATURE_attention_probs_f16(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                               \
  IN(1, float, q)                                                     \
  IN(2, half, keys) IN(3, float, sinks) OUT(4, float, probs) SHARED(ReduceShared, s) PARAMS(5, AttentionParams)
#define SIGNATURE_attention_probs_f32(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, RowPlace, rows)                                               \
  IN(1, float, q)                                                     \
  IN(2, float, keys) IN(3, float, sinks) OUT(4, float, probs) SHARED(ReduceShared, s) PARAMS(5, AttentionParams)

#define SIGNATURE_gated(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, gate) IN(1, float, up) OUT(2, float, y) PARAMS(3, GatedParams)
#define SIGNATURE_add(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, a) IN(1, float, b) OUT(2, float, y) PARAMS(3, CountParams)

// The index of the largest of n values, the first of equals.
#define SIGNATURE_argmax(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) OUT(1, int, index) SHARED(ReduceShared, s) PARAMS(2, CountParams)

#define SIGNATURE_soft_cap(IN, OUT, INOUT, SHARED, PARAMS) IN(0, float, x) OUT(1, float, y) PARAMS(2, SoftCapParams)
// The indices of the k largest of each row of n, as plan::TopK orders and writes them.
#define SIGNATURE_top_k(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) OUT(1, float, indices) SHARED(ReduceShared, s) PARAMS(2, TopKParams)
#define SIGNATURE_expert_weights(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, logits) IN(1, float, experts) OUT(2, float, y) PARAMS(3, ExpertWeightsParams)
#define SIGNATURE_expert_sum(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) IN(1, float, weights) OUT(2, float, y) PARAMS(3, ExpertSumParams)
