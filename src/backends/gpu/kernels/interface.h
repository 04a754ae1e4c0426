// The arguments of each kernel, beside its parameter struct. From this one list the kernels get their argument lists in
// Metal and CUDA, and the host gets a struct with a typed field for each argument (src/backends/gpu/launch.h), so that a
// wrong argument does not compile.
//
//   IN(i, T, name)      buffer i, read only          OUT(i, T, name)   buffer i, every element bound is written
//   INOUT(i, T, name)   buffer i, read, or written in part
//   SHARED(T, name)     threadgroup memory           PARAMS(i, T)      the parameter struct p, always last
//
// A parameter struct has only 4-byte fields, so that its layout is the same on all targets (launch.h asserts it). Rows are
// tokens of a step; widths, strides and counts are in elements, offsets of rows in rows.
//
// slots[row] is the slot of a row's sequence in the caches, positions[row] the row's place in the sequence, lasts[row] the
// last place that the row attends to: its own, or its sequence's last. They are buffers, so that a recorded step can be run
// again. Keys and values of a layer are [n_slots, n_kv_heads, capacity,
// head_dim] each.
#pragma once

// clang-format off

// y[r] = scale * table[rows[r]]; `rows` has tokens, positions or zeros
struct EmbedParams {
  uint width;      // d, a multiple of the table's block size
  uint row_bytes;  // of the table
  float scale;
};
#define SIGNATURE_embed(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, int, rows) IN(1, uchar, table) OUT(2, float, y) PARAMS(3, EmbedParams)

struct NormParams {
  uint group;  // elements normalized together
  float eps;
  uint is_layer;   // 1: the mean is subtracted
  uint n_weights;  // elements of the weight: one group's, a whole row's, or 0 if `weight` is not read
  uint n_biases;   // the same for `bias`
};
#define SIGNATURE_normalize(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) IN(1, float, weight) IN(2, float, bias) OUT(3, float, y) SHARED(ReduceShared, s) PARAMS(4, NormParams)

// y[r, j] = sum_i w[j, i] x[r, i] + bias[j]
struct LinearParams {
  uint n_in;
  uint n_out;
  uint row_bytes;  // of the weight
  uint n_rows;     // rows of y
  uint has_bias;   // 0: `bias` is not read
  // linear_vec with experts: row r of y is row r / rows_a_x of x times the weight [n_out, n_in] of expert experts[r], plus
  // its bias [n_out]. n_experts = 0: no experts, and `experts` is not read.
  uint n_experts;
  uint rows_a_x;
};
#define SIGNATURE_linear_vec(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uchar, w) IN(1, float, x) IN(2, float, bias) IN(3, float, experts) OUT(4, float, y) PARAMS(5, LinearParams)
#define SIGNATURE_linear_mat(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uchar, w) IN(1, float, x) IN(2, float, bias) OUT(3, float, y) SHARED(LinearTiles, s) PARAMS(4, LinearParams)

struct RopeParams {
  uint width;  // n_heads * head_dim
  uint head_dim;
  uint n_rot;
  uint halves;  // 1: pairs are (i, i + n_rot/2); 0: (2i, 2i + 1)
};
#define SIGNATURE_rope(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uint, positions) IN(1, float4, turns) IN(2, float, x) OUT(3, float, y) PARAMS(4, RopeParams)

struct KvWriteParams {
  uint width;  // n_kv_heads * head_dim
  uint head_dim;
  uint capacity;  // positions of the cache
};
#define PLUMB_SIGNATURE_KV_WRITE(T, IN, INOUT, PARAMS) \
  IN(0, uint, slots) IN(1, uint, positions) IN(2, float, k) IN(3, float, v) \
  INOUT(4, T, keys) INOUT(5, T, values) PARAMS(6, KvWriteParams)
#define SIGNATURE_kv_write_f16(IN, OUT, INOUT, SHARED, PARAMS) PLUMB_SIGNATURE_KV_WRITE(half, IN, INOUT, PARAMS)
#define SIGNATURE_kv_write_f32(IN, OUT, INOUT, SHARED, PARAMS) PLUMB_SIGNATURE_KV_WRITE(float, IN, INOUT, PARAMS)

struct AttentionParams {
  uint n_heads;
  uint n_kv_heads;
  uint head_dim;  // at most MAX_HEAD_DIM
  uint capacity;  // positions of the cache
  // A row at place t attends to places from t - before to t + after, and no earlier than the chunk places that t lies in
  // begin.
  uint before;
  uint after;
  uint chunk;     // 0: none
  uint n_splits;  // parts of the cache
  float scale;
  float soft_cap;  // 0: none
  uint has_sinks;  // 0: `sinks` is not read
  float alibi_max_bias;  // 0: none
  uint alibi_heads;      // the largest power of two that is at most n_heads
  // attention_probs: T and S.
  uint n_rows;
  uint n_positions;
};
// partial [T, n_heads, n_splits, head_dim + 2]: for each part of the cache the weighted sum of values, the largest score and
// the sum of weights. A part without any position of the token is written as empty.
#define PLUMB_SIGNATURE_ATTENTION(T, IN, OUT, SHARED, PARAMS) \
  IN(0, uint, slots) IN(1, uint, positions) IN(2, uint, lasts) IN(3, float, q) IN(4, T, keys) IN(5, T, values) \
  OUT(6, float, partial) SHARED(AttentionShared, s) PARAMS(7, AttentionParams)
#define SIGNATURE_attention_f16(IN, OUT, INOUT, SHARED, PARAMS) PLUMB_SIGNATURE_ATTENTION(half, IN, OUT, SHARED, PARAMS)
#define SIGNATURE_attention_f32(IN, OUT, INOUT, SHARED, PARAMS) PLUMB_SIGNATURE_ATTENTION(float, IN, OUT, SHARED, PARAMS)
#define SIGNATURE_attention_merge(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, partial) IN(1, float, sinks) OUT(2, float, y) PARAMS(3, AttentionParams)
// The softmax itself, [n_heads, T, S]; needed only when it is watched.
#define PLUMB_SIGNATURE_ATTENTION_PROBS(T, IN, OUT, SHARED, PARAMS) \
  IN(0, uint, slots) IN(1, uint, positions) IN(2, uint, lasts) IN(3, float, q) IN(4, T, keys) IN(5, float, sinks) \
  OUT(6, float, probs) SHARED(ReduceShared, s) PARAMS(7, AttentionParams)
#define SIGNATURE_attention_probs_f16(IN, OUT, INOUT, SHARED, PARAMS) \
  PLUMB_SIGNATURE_ATTENTION_PROBS(half, IN, OUT, SHARED, PARAMS)
#define SIGNATURE_attention_probs_f32(IN, OUT, INOUT, SHARED, PARAMS) \
  PLUMB_SIGNATURE_ATTENTION_PROBS(float, IN, OUT, SHARED, PARAMS)

struct ActivateParams {
  uint n;           // elements of y
  uint activation;  // plan::Activation
  uint has_up;      // 0: `up` is not read
  uint a_gate;      // neighbours of y that share an element of `gate`
  float limit;      // 0: none
  float alpha;
  float up_offset;
  float positive;  // plan::Xielu
  float negative;
  float beta;
  float eps;
};
#define SIGNATURE_activated(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, gate) IN(1, float, up) OUT(2, float, y) PARAMS(3, ActivateParams)

struct CountParams {
  uint n;
};
#define SIGNATURE_add(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, a) IN(1, float, b) OUT(2, float, y) PARAMS(3, CountParams)

// y[r, i] = x[r, first + i] * factor * weight[i] * temperature(positions[r])
struct ScaleParams {
  uint n;          // elements of y
  uint width;      // of a row of y
  uint x_width;    // of a row of x
  uint first;
  uint n_weights;  // elements of the weight: 1 or a row's, or 0 if `weight` is not read
  float factor;
  float beta;  // plan::Temperature. 0: none, and `positions` is not read
  float length;
  float offset;
};
#define SIGNATURE_scale(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, uint, positions) IN(1, float, x) IN(2, float, weight) OUT(3, float, y) PARAMS(4, ScaleParams)

struct SoftCapParams {
  uint n;
  float cap;
};
#define SIGNATURE_soft_cap(IN, OUT, INOUT, SHARED, PARAMS) IN(0, float, x) OUT(1, float, y) PARAMS(2, SoftCapParams)

// The indices of the k largest of each row of n, as plan::TopK orders and writes them.
struct TopKParams {
  uint n;
  uint k;
  uint score;     // plan::Score
  uint has_bias;  // 0: `bias` is not read
  uint n_groups;  // at most MAX_EXPERT_GROUPS
  uint n_groups_used;
};
#define SIGNATURE_top_k(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) IN(1, float, bias) OUT(2, float, indices) SHARED(TopKShared, s) PARAMS(3, TopKParams)

struct ExpertWeightsParams {
  uint n;       // experts
  uint k;       // chosen for a row
  uint gating;  // plan::Gating
  float scale;
};
#define SIGNATURE_expert_weights(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, logits) IN(1, float, experts) OUT(2, float, y) PARAMS(3, ExpertWeightsParams)

// y[r, i] = sum_j weights[r, j] * x[r, j * width + i]
struct ExpertSumParams {
  uint width;
  uint k;
};
#define SIGNATURE_expert_sum(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) IN(1, float, weights) OUT(2, float, y) PARAMS(3, ExpertSumParams)
