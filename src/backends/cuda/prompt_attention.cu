// Attention of many tokens over a cache of halves, on tensor cores.
//
// A block takes 64 tokens of one head, a warp 16 of them, and walks over the cache 64 positions at a time. Queries are multiplied by
// scale and log2 e (so that a weight is 2 to the power of a score) and rounded to half; the cache's keys and values are half too.
// Scores, their running maximum and sum, and the weighted sums of values stay float. Weights are rounded to half for their product
// with values. The order of work, and rescaling by the running maximum, follow FlashAttention-2 (Dao, 2023).
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.h"

namespace plumb::backends::cuda {

namespace {

constexpr unsigned tile_tokens = 64;
constexpr unsigned tile_positions = 64;
constexpr unsigned prompt_threads = 128;
constexpr unsigned all_lanes = 0xffffffffu;
constexpr float least = -3.402823466e38f;

// Copies keys or values of positions [s0, s0 + 64) to shared memory, rows `stride` apart; zeros from `end` on.
template <unsigned head_dim>
__device__ __forceinline__ void load_tile(unsigned short* to, const __half* from, unsigned s0, unsigned end) {
  constexpr unsigned stride = head_dim + 8, pieces = head_dim / 8;
#pragma unroll 8
  for (unsigned i = threadIdx.x; i < tile_positions * pieces; i += prompt_threads) {
    const unsigned row = i / pieces, piece = i % pieces;
    uint4 v = {};
    if (s0 + row < end) v = *reinterpret_cast<const uint4*>(from + static_cast<size_t>(s0 + row) * head_dim + 8 * piece);
    *reinterpret_cast<uint4*>(to + row * stride + 8 * piece) = v;
  }
}

template <unsigned head_dim>
__global__ void __launch_bounds__(prompt_threads, 3) prompt_attention_kernel(const __grid_constant__ CacheAttention a) {
  constexpr unsigned stride = head_dim + 8;  // 8 more, so that eight rows are on different banks
  constexpr unsigned n_steps = head_dim / 16, n_columns = head_dim / 8, n_scores = tile_positions / 8;
  alignas(16) __shared__ unsigned short keys[tile_positions * stride];
  alignas(16) __shared__ unsigned short values[tile_positions * stride];
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned quad = lane / 4, in_quad = lane % 4;
  const unsigned head = blockIdx.y;
  const unsigned slot = a.slots[0], first = a.positions[0], n_tokens = a.n_tokens;
  const unsigned tile = (gridDim.x - 1 - blockIdx.x) * tile_tokens;  // late tokens, which take longest, first
  const unsigned tokens[2] = {tile + 16 * warp + quad, tile + 16 * warp + quad + 8};

  unsigned query[n_steps][4];
  const float factor = a.scale * 1.4426950408889634f;
#pragma unroll
  for (unsigned k = 0; k < n_steps; ++k) {
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) {
      const unsigned token = tokens[j & 1];
      float2 q = {0.0f, 0.0f};
      if (token < n_tokens) {
        q = *reinterpret_cast<const float2*>(a.q + (static_cast<size_t>(token) * a.n_heads + head) * head_dim + 16 * k +
                                             8 * (j >> 1) + 2 * in_quad);
      }
      query[k][j] = pack_halves(q.x * factor, q.y * factor);
    }
  }
  float context[n_columns][4] = {};
  float largest[2] = {least, least}, sum[2] = {0.0f, 0.0f};

  const unsigned end = first + min(tile + tile_tokens, n_tokens);
  const unsigned earliest = first + tile;  // the position of the tile's first token
  const unsigned begin = a.window > 0 && earliest + 1 > a.window ? earliest + 1 - a.window : 0;
  const unsigned kv_head = head / (a.n_heads / a.n_kv_heads);
  const size_t base = (static_cast<size_t>(slot) * a.n_kv_heads + kv_head) * a.capacity * head_dim;
  const unsigned warp_first = earliest + 16 * warp, warp_last = warp_first + 15;
  for (unsigned s0 = begin - begin % tile_positions; s0 < end; s0 += tile_positions) {
    __syncthreads();
    load_tile<head_dim>(keys, a.keys + base, s0, end);
    load_tile<head_dim>(values, a.values + base, s0, end);
    __syncthreads();
    if (s0 > warp_last) continue;
    float scores[n_scores][4] = {};
#pragma unroll
    for (unsigned n = 0; n < n_scores; ++n) {
#pragma unroll
      for (unsigned k = 0; k < n_steps; k += 2) {
        unsigned b[4];
        load_matrices(b, keys + (8 * n + lane % 8) * stride + 16 * k + 8 * (lane / 8));
        multiply_add(scores[n], query[k], b[0], b[1]);
        multiply_add(scores[n], query[k + 1], b[2], b[3]);
      }
    }
    const bool edge = s0 + tile_positions - 1 > warp_first || (a.window > 0 && s0 + a.window <= warp_last);
    if (edge) {
#pragma unroll
      for (unsigned n = 0; n < n_scores; ++n) {
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
          const unsigned s = s0 + 8 * n + 2 * in_quad + (j & 1), position = first + tokens[j >> 1];
          if (s > position || (a.window > 0 && s + a.window <= position)) scores[n][j] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
      float now = largest[r];
#pragma unroll
      for (unsigned n = 0; n < n_scores; ++n) now = fmaxf(now, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      now = fmaxf(now, __shfl_xor_sync(all_lanes, now, 1));
      now = fmaxf(now, __shfl_xor_sync(all_lanes, now, 2));
      const float shrink = exp2f(largest[r] - now);
      largest[r] = now;
      float added = 0.0f;
#pragma unroll
      for (unsigned n = 0; n < n_scores; ++n) {
#pragma unroll
        for (unsigned j = 2 * r; j < 2 * r + 2; ++j) {
          scores[n][j] = exp2f(scores[n][j] - now);
          added += scores[n][j];
        }
      }
      sum[r] = fmaf(sum[r], shrink, added);
#pragma unroll
      for (unsigned c = 0; c < n_columns; ++c) {
        context[c][2 * r] *= shrink;
        context[c][2 * r + 1] *= shrink;
      }
    }
#pragma unroll
    for (unsigned k = 0; k < tile_positions / 16; ++k) {
      const unsigned weights[4] = {pack_halves(scores[2 * k][0], scores[2 * k][1]),
                                   pack_halves(scores[2 * k][2], scores[2 * k][3]),
                                   pack_halves(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                   pack_halves(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
      for (unsigned c = 0; c < n_columns; c += 2) {
        unsigned b[4];
        load_matrices_transposed(b, values + (16 * k + lane % 16) * stride + 8 * c + 8 * (lane / 16));
        multiply_add(context[c], weights, b[0], b[1]);
        multiply_add(context[c + 1], weights, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(all_lanes, sum[r], 1);
    sum[r] += __shfl_xor_sync(all_lanes, sum[r], 2);
    if (tokens[r] >= n_tokens) continue;
    float* y = a.y + (static_cast<size_t>(tokens[r]) * a.n_heads + head) * head_dim + 2 * in_quad;
#pragma unroll
    for (unsigned c = 0; c < n_columns; ++c) {
      *reinterpret_cast<float2*>(y + 8 * c) = {context[c][2 * r] / sum[r], context[c][2 * r + 1] / sum[r]};
    }
  }
}

}  // namespace

bool prompt_attention_takes(unsigned head_dim) { return head_dim == 64 || head_dim == 96 || head_dim == 128; }

cudaError_t prompt_attention(const CacheAttention& a, cudaStream_t stream) {
  const dim3 grid((a.n_tokens + tile_tokens - 1) / tile_tokens, a.n_heads);
  if (a.head_dim == 64) return launch(prompt_attention_kernel<64>, grid, prompt_threads, stream, a);
  if (a.head_dim == 96) return launch(prompt_attention_kernel<96>, grid, prompt_threads, stream, a);
  if (a.head_dim == 128) return launch(prompt_attention_kernel<128>, grid, prompt_threads, stream, a);
  return cudaErrorInvalidValue;
}

}  // namespace plumb::backends::cuda
