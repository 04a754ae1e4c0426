// The parameter structs of kernels: what the host writes and a kernel reads as `p`. One definition for host, Metal, CUDA
// and checker: only 4-byte fields, so that the layout is the same on all (layouts.h asserts it for the host). Rows are
// tokens of a step; widths, strides and counts are in elements, offsets of rows in rows.
#pragma once

// Where a row of a step belongs. The rows' places travel in a buffer, so that a recorded step can be run again. Keys and
// values of a layer are [n_slots, n_kv_heads, capacity, head_dim] each.
struct RowPlace {
  uint slot;      // of the cache: one a sequence
  uint position;  // in the sequence
};

struct EmbedParams {
  uint width;      // d, a multiple of the table's block size
  uint row_bytes;  // of the table
  float scale;
};

struct NormParams {
  uint group;  // elements normalized together: the length of the weight
  float eps;
};

// y[r, j] = sum_i w[j, i] x[r, i] + bias[j]
struct LinearParams {
  uint n_in;
  uint n_out;
  uint row_bytes;  // of the weight
  uint n_rows;     // rows of y
  uint has_bias;   // 0: `bias` is not read
  // linear_vec: with experts, row r of y is made of row r / rows_a_x of x and the weight [n_out, n_in] and bias [n_out] of
  // expert experts[r] of n_experts. 0 experts: `experts` is not read.
  uint n_experts;
  uint rows_a_x;
};

struct RopeParams {
  uint width;  // n_heads * head_dim
  uint head_dim;
  uint n_rot;
  uint halves;  // 1: pairs are (i, i + n_rot/2); 0: (2i, 2i + 1)
};

struct KvWriteParams {
  uint width;  // n_kv_heads * head_dim
  uint head_dim;
  uint capacity;  // positions of the cache
};

struct AttentionParams {
  uint n_heads;
  uint n_kv_heads;
  uint head_dim;  // at most 256
  uint capacity;  // positions of the cache
  uint window;    // 0: none
  uint n_splits;  // parts that the cache is cut into
  float scale;
  float soft_cap;  // 0: none
  uint has_sinks;  // 0: `sinks` is not read
  // attention_probs: T and S.
  uint n_rows;
  uint n_positions;
};

struct GatedParams {
  uint n;           // elements
  uint activation;  // plan::Activation
};

struct CountParams {
  uint n;
};

struct SoftCapParams {
  uint n;
  float cap;
};

// Of rows of n elements.
struct TopKParams {
  uint n;
  uint k;
};

struct ExpertWeightsParams {
  uint n;       // experts
  uint k;       // chosen for a row
  uint gating;  // plan::Gating
  float scale;
};

// y[r, i] = sum_j weights[r, j] * x[r, j * width + i]
struct ExpertSumParams {
  uint width;
  uint k;
};
