// Attention of single tokens over a cache of halves.
//
// A block takes `n_queries` query heads of one key-value head and one part of the cache, so that grouped heads read it once. Eight
// lanes take a position: each holds head_dim / 8 elements of the queries and of the sums, and loads 16 bytes at a time; three
// shuffles finish a score. Every eight lanes keep a running maximum and sum for each query, which are merged at the end through
// shuffles and shared memory. attention_merge_round merges the results of the parts, and rounds the result for the next product.
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/rounding.cuh"

namespace plumb::backends::cuda {

namespace {

constexpr unsigned decode_warps = 4;
constexpr unsigned lanes_a_position = 8;
constexpr unsigned positions_a_block = decode_warps * 32 / lanes_a_position;
constexpr float lowest = -3.402823466e38f;
constexpr float log2_e = 1.4426950408889634f;

// exp(x - y), for y >= x.
__device__ __forceinline__ float exp_difference(float x, float y) { return exp2f(log2_e * (x - y)); }

__device__ __forceinline__ void load_eight_halves(const __half* from, float* to) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
  const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

template <unsigned head_dim, unsigned n_queries>
__global__ void __launch_bounds__(32 * decode_warps) decode_attention_kernel(const __grid_constant__ DecodeAttention given) {
  DecodeAttention a = given;
  wait_for_previous(a.q, a.keys, a.values);
  constexpr unsigned of_lane = head_dim / lanes_a_position;
  __shared__ float merged[decode_warps * n_queries * (head_dim + 2)];
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned sub = lane / lanes_a_position, part = lane % lanes_a_position;
  const unsigned first_head = blockIdx.x * n_queries, token = blockIdx.z;
  const unsigned kv_head = first_head / (a.n_heads / a.n_kv_heads);
  const unsigned slot = a.slots[token];
  const unsigned length = a.positions[token] + 1;
  const unsigned each = (length + a.n_splits - 1) / a.n_splits;
  unsigned first = blockIdx.y * each;
  const unsigned end = min(first + each, length);
  if (a.window > 0 && length > a.window) first = max(first, length - a.window);

  float query[n_queries][of_lane], context[n_queries][of_lane], largest[n_queries], sum[n_queries];
#pragma unroll
  for (unsigned h = 0; h < n_queries; ++h) {
#pragma unroll
    for (unsigned i = 0; i < of_lane; ++i) {
      query[h][i] =
          a.q[(static_cast<size_t>(token) * a.n_heads + first_head + h) * head_dim + part * of_lane + i] * a.scale;
      context[h][i] = 0.0f;
    }
    largest[h] = lowest;
    sum[h] = 0.0f;
  }
  const size_t base = (static_cast<size_t>(slot) * a.n_kv_heads + kv_head) * a.capacity * head_dim + part * of_lane;
  // All lanes of a warp stay in the loop; positions past the end have weight zero.
  for (unsigned start = first + warp * (32 / lanes_a_position); start < end; start += positions_a_block) {
    const unsigned position = start + sub;
    const bool inside = position < end;
    const size_t at = base + static_cast<size_t>(inside ? position : start) * head_dim;
    float key[of_lane], value[of_lane];
#pragma unroll
    for (unsigned i = 0; i < of_lane; i += 8) load_eight_halves(a.keys + at + i, key + i);
#pragma unroll
    for (unsigned i = 0; i < of_lane; i += 8) load_eight_halves(a.values + at + i, value + i);
#pragma unroll
    for (unsigned h = 0; h < n_queries; ++h) {
      float score = 0.0f;
#pragma unroll
      for (unsigned i = 0; i < of_lane; ++i) score = fmaf(query[h][i], key[i], score);
#pragma unroll
      for (unsigned mask = lanes_a_position / 2; mask > 0; mask >>= 1) score += __shfl_xor_sync(full, score, mask);
      if (inside) {
        const float now_largest = fmaxf(largest[h], score);
        const float shrink = exp_difference(largest[h], now_largest);
        const float weight = exp_difference(score, now_largest);
        largest[h] = now_largest;
        sum[h] = fmaf(sum[h], shrink, weight);
#pragma unroll
        for (unsigned i = 0; i < of_lane; ++i) context[h][i] = fmaf(context[h][i], shrink, weight * value[i]);
      }
    }
  }
  // Merges the four groups of lanes of a warp.
#pragma unroll
  for (unsigned h = 0; h < n_queries; ++h) {
#pragma unroll
    for (unsigned mask = lanes_a_position; mask < 32; mask <<= 1) {
      const float other_largest = __shfl_xor_sync(full, largest[h], mask);
      const float other_sum = __shfl_xor_sync(full, sum[h], mask);
      const float now_largest = fmaxf(largest[h], other_largest);
      const float shrink = exp_difference(largest[h], now_largest);
      const float other_shrink = exp_difference(other_largest, now_largest);
      largest[h] = now_largest;
      sum[h] = sum[h] * shrink + other_sum * other_shrink;
#pragma unroll
      for (unsigned i = 0; i < of_lane; ++i) {
        const float other = __shfl_xor_sync(full, context[h][i], mask);
        context[h][i] = context[h][i] * shrink + other * other_shrink;
      }
    }
    float* place = merged + (warp * n_queries + h) * (head_dim + 2);
    if (sub == 0) {
#pragma unroll
      for (unsigned i = 0; i < of_lane; ++i) place[part * of_lane + i] = context[h][i];
    }
    if (lane == 0) {
      place[head_dim] = largest[h];
      place[head_dim + 1] = sum[h];
    }
  }
  __syncthreads();
  // Merges the warps of the block.
  for (unsigned i = threadIdx.x; i < n_queries * head_dim; i += 32 * decode_warps) {
    const unsigned h = i / head_dim, element = i % head_dim;
    float of_all = lowest;
#pragma unroll
    for (unsigned w = 0; w < decode_warps; ++w) {
      of_all = fmaxf(of_all, merged[(w * n_queries + h) * (head_dim + 2) + head_dim]);
    }
    float total = 0.0f, weights = 0.0f;
#pragma unroll
    for (unsigned w = 0; w < decode_warps; ++w) {
      const float* place = merged + (w * n_queries + h) * (head_dim + 2);
      const float shrink = exp_difference(place[head_dim], of_all);
      total += place[element] * shrink;
      weights += place[head_dim + 1] * shrink;
    }
    const size_t row = static_cast<size_t>(token) * a.n_heads + first_head + h;
    float* out = a.partial + (row * a.n_splits + blockIdx.y) * (head_dim + 2);
    out[element] = total;
    if (element == 0) {
      out[head_dim] = of_all;
      out[head_dim + 1] = weights;
    }
  }
}

// A warp merges 32 elements of a head over all parts, and rounds them. Lane k computes the weight of part k, and shuffles hand it
// to the other lanes.
template <unsigned head_dim>
__global__ void __launch_bounds__(128) attention_merge_round_kernel(const __grid_constant__ DecodeAttention given) {
  DecodeAttention a = given;
  wait_for_previous(a.partial);
  const unsigned lane = threadIdx.x & 31;
  const unsigned group = blockIdx.x * 4 + (threadIdx.x >> 5);
  if (group >= a.n_tokens * a.n_heads * head_dim / 32) return;
  constexpr unsigned stride = head_dim + 2;
  const unsigned head = 32 * group / head_dim, element = 32 * group % head_dim + lane;
  const float* parts = a.partial + static_cast<size_t>(head) * a.n_splits * stride;
  float largest = lowest;
  for (unsigned k = lane; k < a.n_splits; k += 32) largest = fmaxf(largest, parts[k * stride + head_dim]);
  largest = simd_max(largest);
  float total = 0.0f, sum = 0.0f;
  for (unsigned first = 0; first < a.n_splits; first += 32) {
    const unsigned mine = first + lane;
    float shrink = 0.0f;
    if (mine < a.n_splits) {
      shrink = exp_difference(parts[mine * stride + head_dim], largest);
      total = fmaf(parts[mine * stride + head_dim + 1], shrink, total);
    }
    const unsigned n = min(32u, a.n_splits - first);
#pragma unroll 8
    for (unsigned k = 0; k < n; ++k) {
      sum = fmaf(parts[(first + k) * stride + element], __shfl_sync(full, shrink, k), sum);
    }
  }
  const float value = sum / simd_sum(total);
  a.y[32 * group + lane] = value;
  if (a.rounded.words != nullptr) round_group(value, group, a.n_heads * head_dim / 32, lane, a.rounded);
}

template <unsigned head_dim, unsigned n_queries>
cudaError_t decode_of(const DecodeAttention& a, cudaStream_t stream) {
  return launch_overlapping(decode_attention_kernel<head_dim, n_queries>, dim3(a.n_heads / n_queries, a.n_splits, a.n_tokens), 32 * decode_warps, stream,
                a);
}

// The number of queries that a block takes: as many of the group as registers hold.
unsigned queries_of(unsigned head_dim, unsigned n_heads, unsigned n_kv_heads) {
  const unsigned grouped = n_heads / n_kv_heads;
  constexpr unsigned choices[] = {8, 7, 4, 3, 2};
  for (const unsigned n : choices) {
    if (grouped % n == 0 && n * head_dim <= 512) return n;
  }
  return 1;
}

template <unsigned head_dim>
cudaError_t decode_for(const DecodeAttention& a, cudaStream_t stream) {
  switch (queries_of(head_dim, a.n_heads, a.n_kv_heads)) {
    case 8:
      if constexpr (head_dim <= 64) return decode_of<head_dim, 8>(a, stream);
      break;
    case 7:
      if constexpr (head_dim <= 64) return decode_of<head_dim, 7>(a, stream);
      break;
    case 4:
      return decode_of<head_dim, 4>(a, stream);
    case 3:
      return decode_of<head_dim, 3>(a, stream);
    case 2:
      return decode_of<head_dim, 2>(a, stream);
    default:
      return decode_of<head_dim, 1>(a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool decode_attention_takes(unsigned head_dim) { return head_dim == 64 || head_dim == 128; }

cudaError_t decode_attention(const DecodeAttention& a, cudaStream_t stream) {
  if (a.head_dim == 64) return decode_for<64>(a, stream);
  if (a.head_dim == 128) return decode_for<128>(a, stream);
  return cudaErrorInvalidValue;
}

cudaError_t attention_merge_round(const DecodeAttention& a, cudaStream_t stream) {
  const unsigned blocks = (a.n_tokens * a.n_heads * a.head_dim / 32 + 3) / 4;
  if (a.head_dim == 64) return launch_overlapping(attention_merge_round_kernel<64>, blocks, 128, stream, a);
  if (a.head_dim == 128) return launch_overlapping(attention_merge_round_kernel<128>, blocks, 128, stream, a);
  return cudaErrorInvalidValue;
}

unsigned decode_attention_blocks(unsigned head_dim, unsigned n_heads, unsigned n_kv_heads) {
  return n_heads / queries_of(head_dim, n_heads, n_kv_heads);
}

}  // namespace plumb::backends::cuda
