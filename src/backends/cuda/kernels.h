// The functions of the files that nvcc compiles, as the host calls them. Plain types only. All work is queued on `stream`.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

namespace plumb::backends::cuda {

// The shared kernel of a gpu::KernelId.
const void* shared_kernel(unsigned id);

// A row of n activations, rounded in groups of 32 to whole multiples of a float32 step, amax / (127 * 128). A multiple is
// 128 * high + low, both signed bytes. Group g has
//   words[k * n_groups + g], of uint4: for k = 0, 1 the high bytes of its first and second 16, for k = 2, 3 the low bytes;
//   scales[g] = {step, step * sum of the first 16 multiples, step * sum of the last 16, 0}.
// An activation is off by at most half a step: amax / 32512.
struct Rounded {
  uint4* words = nullptr;    // [4, n / 32]
  float4* scales = nullptr;  // [n / 32]
};
constexpr unsigned long rounded_words_bytes(unsigned n) { return (n + 31ul) / 32 * 64; }
constexpr unsigned long rounded_scales_bytes(unsigned n) { return (n + 31ul) / 32 * 16; }

// y = rms_norm(x) * weight, [n] (not written where null), and the same values rounded; without a weight (null), x rounded.
// n is a multiple of 32.
cudaError_t round_row(const float* x, const float* weight, unsigned n, float eps, float* y, Rounded rounded,
                      cudaStream_t stream);

// y[j] = sum_i w[j, i] x[i] (+ bias[j]) (+ residual[j]).
struct Product {
  const unsigned char* w = nullptr;
  const float* bias = nullptr;
  const float* residual = nullptr;
  float* y = nullptr;
  unsigned n_out = 0;
};
inline constexpr unsigned max_products = 3;
// Products of up to max_products weights, of one format and row length, with the same x.
struct Products {
  Product product[max_products];
  unsigned n_products = 0;
  unsigned format = 0;  // quants::Format
  unsigned n_in = 0, row_bytes = 0;
  bool gated = false;  // y of product 0 = activation(product 0) * product 1
  unsigned activation = 0;
  // Formats that take x as float: if set, the products take rms_norm(x) * norm in place of x.
  const float* norm = nullptr;  // [n_in]
  float eps = 0;
};
// Whether a format multiplies rounded activations; otherwise it takes x as float.
bool takes_rounded(unsigned format);
cudaError_t multiply(const Products& products, const float* x, Rounded rounded, cudaStream_t stream);

// The same products for 2 to most_few_rows rows of x; y and residual are [n_rows, n_out].
inline constexpr unsigned most_few_rows = 64;
// Rows [n_rows, n] rounded to half. Each row has a power of two as its scale: x[r] = halves[r] * scales[r], with the
// largest of halves[r] in [2^14, 2^15). n is a multiple of 32. The halves are in the order that the matrix instructions
// need: x[r, i] is at half_place(r, i, n). Zeros pad the number of rows to a multiple of 8, and their length to a multiple
// of 128.
struct HalfRows {
  void* halves = nullptr;   // half_rows_bytes()
  float* scales = nullptr;  // [n_rows]
};
constexpr unsigned long half_rows_bytes(unsigned n_rows, unsigned n) {
  return 2ul * ((n_rows + 7) / 8 * 8) * ((n + 127) / 128 * 128);
}
// Tiles have 8 rows and 128 columns; tiles of the same rows follow each other. A tile has four groups of 32 columns, and a
// group four parts of 8. In each part, lane 4 * row + group has the 8 elements of its row and group; the lanes of a part
// are neighbours.
__host__ __device__ constexpr unsigned long half_place(unsigned row, unsigned column, unsigned n) {
  const unsigned long tile = (row / 8) * ((n + 127ul) / 128) + column / 128;
  const unsigned lane = 4 * (row % 8) + column % 128 / 32, part = column % 32 / 8;
  return 1024 * tile + 256 * part + 8 * lane + column % 8;
}
// y = rms_norm(x) * weight, [n_rows, n], and the same values as HalfRows; without a weight (null), x as HalfRows.
cudaError_t rows_to_half(const float* x, const float* weight, unsigned n, unsigned n_rows, float eps, float* y,
                         const HalfRows& to, cudaStream_t stream);
bool takes_few_rows(unsigned format);
// Bytes of `partial`; enough for any products with at most as many outputs.
unsigned long few_rows_partial_bytes(const Products& products, unsigned n_rows);
cudaError_t multiply_few(const Products& products, const HalfRows& x, unsigned n_rows, float* partial, cudaStream_t stream);

// Rotates q and k of n_rows tokens and writes k and v to the cache, [n_slots, n_kv_heads, capacity, head_dim] of half or
// float. `slots`, `positions`: those of each row, as for the shared kernels.
struct RopeWrite {
  const unsigned *slots = nullptr, *positions = nullptr;
  const float4* q_turns = nullptr;
  const float4* k_turns = nullptr;
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  float* q_out = nullptr;
  void *keys = nullptr, *values = nullptr;
  unsigned n_rows = 1, n_heads = 0, n_kv_heads = 0, head_dim = 0, n_rot = 0, capacity = 0;
  bool halves = false, f16 = true;
};
cudaError_t rope_write(const RopeWrite& arguments, cudaStream_t stream);

// Attention of n_tokens over a cache of halves that already has their keys and values.
struct CacheAttention {
  const unsigned *slots = nullptr, *positions = nullptr;  // [n_tokens], as in RopeWrite
  const float* q = nullptr;                               // [n_tokens, n_heads, head_dim]
  const __half *keys = nullptr, *values = nullptr;        // [n_slots, n_kv_heads, capacity, head_dim]
  unsigned n_tokens = 1;
  unsigned n_heads = 0, n_kv_heads = 0, head_dim = 0, capacity = 0, window = 0;
  float scale = 0;
  float* y = nullptr;  // as q
};

// Attention of independent tokens, over n_splits parts of the cache.
struct DecodeAttention : CacheAttention {
  float* partial = nullptr;  // [n_tokens, n_heads, n_splits, head_dim + 2], as in the shared kernel
  unsigned n_splits = 1;
  Rounded rounded;  // y of one token, rounded; not written where null
};
bool decode_attention_takes(unsigned head_dim);
// The number of blocks that work on one part of the cache.
unsigned decode_attention_blocks(unsigned head_dim, unsigned n_heads, unsigned n_kv_heads);
cudaError_t decode_attention(const DecodeAttention& arguments, cudaStream_t stream);
cudaError_t attention_merge_round(const DecodeAttention& arguments, cudaStream_t stream);

// Attention of many tokens at consecutive positions of one sequence.
bool prompt_attention_takes(unsigned head_dim);
cudaError_t prompt_attention(const CacheAttention& arguments, cudaStream_t stream);

// For prompts: converts a weight of any format to half, [n_out, n_in].
cudaError_t weights_to_half(unsigned format, const unsigned char* w, unsigned n_in, unsigned n_out, unsigned row_bytes,
                            void* half, cudaStream_t stream);
// x / 2^k as half, and *scale = 2^k, with the least k for which the largest |x| / 2^k is below 2^15. amax is scratch memory
// of one unsigned.
cudaError_t activations_to_half(const float* x, unsigned long n, unsigned* amax, float* scale, void* half,
                                cudaStream_t stream);
// y[r, j] += bias[j]
cudaError_t add_bias(float* y, const float* bias, unsigned n_out, unsigned n_rows, cudaStream_t stream);

}  // namespace plumb::backends::cuda
