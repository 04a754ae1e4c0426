// Kernels tuned for NVIDIA GPUs. Each does what shared kernels do, and is checked against them and the reference.
//
// Decode is bound by the bytes of the weights. A warp takes 2 or 4 rows; its lanes take groups of 32 weights, which
// formats.h unpacks to signed bytes; activations are rounded to two planes of bytes (kernels.h), so that 4
// weights cost two dp4a. Sums over a group are exact in int32.
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/rounding.cuh"
#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/formats.h"
#include "backends/gpu/kernels/list.h"
#include "backends/gpu/kernels/rotation.h"
#include "quants/format.h"

namespace plumb::backends::cuda {

namespace {

using quants::Format;

constexpr unsigned norm_threads = 1024;
constexpr unsigned product_warps = 4;

// Rows of up to 4 * norm_registers * norm_threads elements stay in registers between the sum and the rounding.
constexpr unsigned norm_registers = 2;

__device__ __forceinline__ float sum_of_squares(float4 v, float sum) {
  return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
}

__global__ void __launch_bounds__(norm_threads)
    norm_round_kernel(const float* x, const float* __restrict__ weight, unsigned n, float eps, float* __restrict__ y,
                      Rounded rounded) {
  __shared__ float sums[32];
  wait_for_previous(x);
  const auto* fours = reinterpret_cast<const float4*>(x);
  const auto* weights = reinterpret_cast<const float4*>(weight);
  const unsigned n_fours = n / 4;
  float4 mine[norm_registers], its_weight[norm_registers];
  float sum = 0.0f;
#pragma unroll
  for (unsigned k = 0; k < norm_registers; ++k) {
    const unsigned i = threadIdx.x + k * norm_threads;
    mine[k] = its_weight[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (i < n_fours) {
      mine[k] = fours[i];
      its_weight[k] = __ldg(weights + i);
    }
    sum = sum_of_squares(mine[k], sum);
  }
  for (unsigned i = threadIdx.x + norm_registers * norm_threads; i < n_fours; i += norm_threads) {
    sum = sum_of_squares(fours[i], sum);
  }
  sum = simd_sum(sum);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = sum;
  __syncthreads();
  sum = simd_sum(sums[threadIdx.x & 31]);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(n) + eps);
  const auto finish_four = [&](float4 v, float4 w, unsigned i) {
    const bool inside = i < n_fours;
    v = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    if (y != nullptr && inside) reinterpret_cast<float4*>(y)[i] = v;
    round_four(v, i / 8, n / 32, threadIdx.x & 31, inside, rounded);
  };
#pragma unroll
  for (unsigned k = 0; k < norm_registers; ++k) {
    if (k * norm_threads < n_fours) finish_four(mine[k], its_weight[k], threadIdx.x + k * norm_threads);
  }
  for (unsigned start = norm_registers * norm_threads; start < n_fours; start += norm_threads) {
    const unsigned i = start + threadIdx.x;
    const unsigned at = min(i, n_fours - 1);
    finish_four(fours[at], weights[at], i);
  }
}

__global__ void __launch_bounds__(256) round_kernel(const float* x, unsigned n, Rounded rounded) {
  wait_for_previous(x);
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  const bool inside = i < n / 4;
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (inside) v = reinterpret_cast<const float4*>(x)[i];
  round_four(v, i / 8, n / 32, threadIdx.x & 31, inside, rounded);
}

struct RoundedGroup {
  int high[8], low[8];
  float4 scale;
};
__device__ __forceinline__ RoundedGroup load_group(const Rounded& rounded, unsigned group, unsigned n_groups) {
  RoundedGroup x;
  const uint4 a = __ldg(rounded.words + group), b = __ldg(rounded.words + n_groups + group);
  const uint4 c = __ldg(rounded.words + 2 * n_groups + group), d = __ldg(rounded.words + 3 * n_groups + group);
  x.high[0] = a.x, x.high[1] = a.y, x.high[2] = a.z, x.high[3] = a.w;
  x.high[4] = b.x, x.high[5] = b.y, x.high[6] = b.z, x.high[7] = b.w;
  x.low[0] = c.x, x.low[1] = c.y, x.low[2] = c.z, x.low[3] = c.w;
  x.low[4] = d.x, x.low[5] = d.y, x.low[6] = d.z, x.low[7] = d.w;
  x.scale = __ldg(rounded.scales + group);
  return x;
}

__device__ __forceinline__ float dot_group(const Group& w, const RoundedGroup& x) {
  int high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    high[k / 4] = __dp4a(static_cast<int>(w.words[k]), x.high[k], high[k / 4]);
    low[k / 4] = __dp4a(static_cast<int>(w.words[k]), x.low[k], low[k / 4]);
  }
  const float a = w.scale[0] * static_cast<float>(128 * high[0] + low[0]);
  const float b = w.scale[1] * static_cast<float>(128 * high[1] + low[1]);
  return x.scale.x * (a + b) - w.min[0] * x.scale.y - w.min[1] * x.scale.z;
}

template <class F>
__device__ __forceinline__ float dot_group(const unsigned char* row, unsigned group, const RoundedGroup& x) {
  return dot_group(F::unpack(row, group), x);
}

// Two groups whose bits lie in the same bytes, of formats where this is so: pair i of a row is groups first(i) and second(i).
template <class F>
struct Pairs {
  static constexpr bool exist = false;
};
template <>
struct Pairs<q4_k_format> {
  static constexpr bool exist = true;
  static __device__ unsigned first(unsigned i) { return 2 * i; }
  static __device__ unsigned second(unsigned i) { return 2 * i + 1; }
  static __device__ __forceinline__ void unpack(const unsigned char* row, unsigned i, Group& a, Group& b) {
    const unsigned char* block = row + 144 * (i >> 2);
    const uint4 header = *reinterpret_cast<const uint4*>(block);
    const auto* qs = reinterpret_cast<const uint4*>(block + 16 + 32 * (i & 3u));
    const uint4 low = qs[0], high = qs[1];
    const unsigned words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    scale_of(header, 2 * (i & 3u), a);
    scale_of(header, 2 * (i & 3u) + 1, b);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      a.words[k] = words[k] & 0x0f0f0f0fu;
      b.words[k] = (words[k] >> 4) & 0x0f0f0f0fu;
    }
  }
  static __device__ __forceinline__ void scale_of(uint4 header, unsigned in_block, Group& g) {
    unsigned scale, min;
    load_scale_min(header, in_block, scale, min);
    g.scale[0] = g.scale[1] = low_half(header.x) * static_cast<float>(scale);
    g.min[0] = g.min[1] = high_half(header.x) * static_cast<float>(min);
  }
};
template <>
struct Pairs<q5_k_format> {
  static constexpr bool exist = true;
  static __device__ unsigned first(unsigned i) { return 2 * i; }
  static __device__ unsigned second(unsigned i) { return 2 * i + 1; }
  static __device__ __forceinline__ void unpack(const unsigned char* row, unsigned i, Group& a, Group& b) {
    const unsigned char* block = row + 176 * (i >> 2);
    const unsigned in_block = 2 * (i & 3u);
    const uint4 header = *reinterpret_cast<const uint4*>(block);
    Pairs<q4_k_format>::scale_of(header, in_block, a);
    Pairs<q4_k_format>::scale_of(header, in_block + 1, b);
    const auto* qs = reinterpret_cast<const uint4*>(block + 48 + 16 * in_block);
    const auto* qh = reinterpret_cast<const uint4*>(block + 16);
    const uint4 low = qs[0], high = qs[1], top_low = qh[0], top_high = qh[1];
    const unsigned words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const unsigned tops[8] = {top_low.x,  top_low.y,  top_low.z,  top_low.w,
                              top_high.x, top_high.y, top_high.z, top_high.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const unsigned top = tops[k] >> in_block;
      a.words[k] = (words[k] & 0x0f0f0f0fu) | ((top & 0x01010101u) << 4);
      b.words[k] = ((words[k] >> 4) & 0x0f0f0f0fu) | ((top & 0x02020202u) << 3);
    }
  }
};
template <>
struct Pairs<q6_k_format> {
  static constexpr bool exist = true;
  static __device__ unsigned first(unsigned i) { return 8 * (i >> 2) + 4 * ((i >> 1) & 1u) + (i & 1u); }
  static __device__ unsigned second(unsigned i) { return first(i) + 2; }
  static __device__ __forceinline__ void unpack(const unsigned char* row, unsigned i, Group& a, Group& b) {
    const unsigned char* block = row + 210 * (i >> 2);
    const unsigned run = (i >> 1) & 1u, in_run = i & 1u;
    const float d = load_half(block + 208);
    const unsigned scales_a = load_u16(block + 192 + 2 * (4 * run + in_run));
    const unsigned scales_b = load_u16(block + 192 + 2 * (4 * run + in_run + 2));
#pragma unroll
    for (unsigned k = 0; k < 2; ++k) {
      a.scale[k] = d * static_cast<float>(signed_byte(scales_a, k));
      b.scale[k] = d * static_cast<float>(signed_byte(scales_b, k));
      a.min[k] = b.min[k] = 0.0f;
    }
    unsigned lows[8], highs[8];
    load_words_at_2<8>(block + 64 * run + 32 * in_run, lows);
    load_words_at_2<8>(block + 128 + 32 * run, highs);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const unsigned top = highs[k] >> (2 * in_run);
      a.words[k] = less((lows[k] & 0x0f0f0f0fu) | ((top & 0x03030303u) << 4), 0x20202020u);
      b.words[k] = less(((lows[k] >> 4) & 0x0f0f0f0fu) | (top & 0x30303030u), 0x20202020u);
    }
  }
};

__device__ __forceinline__ void finish(const Product& product, unsigned row, float sum) {
  if (product.bias != nullptr) sum += product.bias[row];
  if (product.residual != nullptr) sum += product.residual[row];
  product.y[row] = sum;
}

// The product and its row that a warp begins with: products follow each other in blocks of n rows a warp.
__device__ __forceinline__ unsigned find_product(const Products& p, unsigned rows_a_block, unsigned& block) {
  unsigned index = 0;
  block = blockIdx.x;
  while (index + 1 < p.n_products) {
    const unsigned blocks = (p.product[index].n_out + rows_a_block - 1) / rows_a_block;
    if (block < blocks) break;
    block -= blocks;
    ++index;
  }
  return index;
}

template <class F, unsigned rows>
__global__ void __launch_bounds__(32 * product_warps)
    multiply_rounded(const __grid_constant__ Products p, Rounded rounded) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned n_groups = p.n_in / 32;
  unsigned block;
  const unsigned index = find_product(p, product_warps * rows, block);
  const Product& product = p.product[index];
  const unsigned first = (block * product_warps + warp) * rows;
  wait_for_previous(rounded.words, rounded.scales);
  if (first >= product.n_out) return;
  float sums[rows];
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) sums[r] = 0.0f;
  const unsigned char* row[rows];
#pragma unroll
  for (unsigned r = 0; r < rows; ++r)
    row[r] = product.w + static_cast<size_t>(min(first + r, product.n_out - 1)) * p.row_bytes;
#pragma unroll 2
  for (unsigned group = lane; group < n_groups; group += 32) {
    const RoundedGroup x = load_group(rounded, group, n_groups);
#pragma unroll
    for (unsigned r = 0; r < rows; ++r) sums[r] += dot_group<F>(row[r], group, x);
  }
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) {
    const float sum = simd_sum(sums[r]);
    if (lane == 0 && first + r < product.n_out) finish(product, first + r, sum);
  }
}

// A warp takes one row of both weights and combines the two.
template <class F>
__global__ void __launch_bounds__(32 * product_warps) multiply_gated(const __grid_constant__ Products p, Rounded rounded) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned n_groups = p.n_in / 32;
  const unsigned first = blockIdx.x * product_warps + warp;
  wait_for_previous(rounded.words, rounded.scales);
  if (first >= p.product[0].n_out) return;
  const unsigned char* gate_row = p.product[0].w + static_cast<size_t>(first) * p.row_bytes;
  const unsigned char* up_row = p.product[1].w + static_cast<size_t>(first) * p.row_bytes;
  float gate = 0.0f, up = 0.0f;
#pragma unroll 2
  for (unsigned group = lane; group < n_groups; group += 32) {
    const RoundedGroup x = load_group(rounded, group, n_groups);
    gate += dot_group<F>(gate_row, group, x);
    up += dot_group<F>(up_row, group, x);
  }
  gate = simd_sum(gate);
  up = simd_sum(up);
  if (lane == 0) {
    if (p.product[0].bias != nullptr) gate += p.product[0].bias[first];
    if (p.product[1].bias != nullptr) up += p.product[1].bias[first];
    p.product[0].y[first] = activate(p.activation, gate) * up;
  }
}

// Rows that begin at multiples of 4 bytes: a warp copies 64 groups of each of its rows to shared memory while it computes with the
// 64 before them, since lanes that each read their own groups from device memory touch many lines for few bytes each. Copying
// begins before the kernel ahead has ended.
template <class F, unsigned chunk_bytes, unsigned rows, bool gated>
__global__ void __launch_bounds__(32 * product_warps)
    multiply_staged(const __grid_constant__ Products p, Rounded rounded) {
  constexpr unsigned chunk_groups = 64, n_stages = 2;
  alignas(16) __shared__ unsigned char staged[product_warps * n_stages * rows * chunk_bytes];
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned n_groups = p.n_in / 32;
  constexpr unsigned rows_of_weight = gated ? rows / 2 : rows;
  unsigned block = blockIdx.x;
  const unsigned index = gated ? 0 : find_product(p, product_warps * rows_of_weight, block);
  const Product& product = p.product[index];
  const unsigned first = (block * product_warps + warp) * rows_of_weight;
  const unsigned char* row[rows];
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) {
    const unsigned char* w = gated ? p.product[r / rows_of_weight].w : product.w;
    row[r] = w + static_cast<size_t>(min(first + r % rows_of_weight, product.n_out - 1)) * p.row_bytes;
  }
  unsigned char* mine = staged + warp * (n_stages * rows * chunk_bytes);
  const bool wide = p.row_bytes % 16 == 0;
  const unsigned n_chunks = (n_groups + chunk_groups - 1) / chunk_groups;
  const auto stage = [&](unsigned chunk) {
    if (chunk < n_chunks) {
      const unsigned offset = chunk * chunk_bytes;
      const unsigned bytes = min(chunk_bytes, p.row_bytes - offset);
      unsigned char* to = mine + chunk % n_stages * (rows * chunk_bytes);
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) {
        if (wide) {
          for (unsigned i = 16 * lane; i < bytes; i += 512) copy_later<16>(to + r * chunk_bytes + i, row[r] + offset + i);
        } else {
          for (unsigned i = 4 * lane; i < bytes; i += 128) copy_later<4>(to + r * chunk_bytes + i, row[r] + offset + i);
        }
      }
    }
    end_of_copies();
  };
  if (first < product.n_out) {
    for (unsigned chunk = 0; chunk < n_stages; ++chunk) stage(chunk);
  }
  wait_for_previous(rounded.words, rounded.scales);
  if (first >= product.n_out) return;
  float sums[rows];
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) sums[r] = 0.0f;
  for (unsigned chunk = 0; chunk < n_chunks; ++chunk) {
    wait_for_copies<n_stages - 1>();
    __syncwarp();
    const unsigned base = chunk * chunk_groups;
    const unsigned char* from = mine + chunk % n_stages * (rows * chunk_bytes);
    if constexpr (Pairs<F>::exist) {
      const unsigned a = base + Pairs<F>::first(lane), b = base + Pairs<F>::second(lane);
      if (b < n_groups) {
        const RoundedGroup x_a = load_group(rounded, a, n_groups), x_b = load_group(rounded, b, n_groups);
#pragma unroll
        for (unsigned r = 0; r < rows; ++r) {
          Group w_a, w_b;
          Pairs<F>::unpack(from + r * chunk_bytes, lane, w_a, w_b);
          sums[r] += dot_group(w_a, x_a) + dot_group(w_b, x_b);
        }
      }
    } else {
#pragma unroll
      for (unsigned group = lane; group < chunk_groups; group += 32) {
        if (base + group < n_groups) {
          const RoundedGroup x = load_group(rounded, base + group, n_groups);
#pragma unroll
          for (unsigned r = 0; r < rows; ++r) sums[r] += dot_group<F>(from + r * chunk_bytes, group, x);
        }
      }
    }
    __syncwarp();
    stage(chunk + n_stages);
  }
#pragma unroll
  for (unsigned r = 0; r < rows_of_weight; ++r) {
    if constexpr (gated) {
      float gate = simd_sum(sums[r]), up = simd_sum(sums[r + rows_of_weight]);
      if (lane == 0 && first + r < product.n_out) {
        if (p.product[0].bias != nullptr) gate += p.product[0].bias[first + r];
        if (p.product[1].bias != nullptr) up += p.product[1].bias[first + r];
        product.y[first + r] = activate(p.activation, gate) * up;
      }
    } else {
      const float sum = simd_sum(sums[r]);
      if (lane == 0 && first + r < product.n_out) finish(product, first + r, sum);
    }
  }
}

// Eight weights of a float format as float, from an index that is a multiple of 8.
struct Eight {
  float v[8];
};
__device__ __forceinline__ void load_eight(const float* w, Eight& out) {
  const float4 a = __ldcs(reinterpret_cast<const float4*>(w)), b = __ldcs(reinterpret_cast<const float4*>(w) + 1);
  out = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ void load_eight(const __half* w, Eight& out) {
  const uint4 a = __ldcs(reinterpret_cast<const uint4*>(w));
  const unsigned words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    out.v[2 * i] = pair.x;
    out.v[2 * i + 1] = pair.y;
  }
}
// bfloat16.
struct BrainHalf {
  unsigned short bits;
};
__device__ __forceinline__ void load_eight(const BrainHalf* w, Eight& out) {
  const uint4 a = __ldcs(reinterpret_cast<const uint4*>(w));
  const unsigned words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

template <class T, unsigned rows, bool gated>
__global__ void __launch_bounds__(32 * product_warps)
    multiply_float(const __grid_constant__ Products p, const float* x) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  unsigned block = blockIdx.x;
  const unsigned index = gated ? 0 : find_product(p, product_warps * rows, block);
  const Product& product = p.product[index];
  const unsigned first = (block * product_warps + warp) * rows;
  constexpr unsigned n_weights = gated ? 2 : 1;
  float sums[n_weights][rows];
  const T* row[n_weights][rows];
#pragma unroll
  for (unsigned g = 0; g < n_weights; ++g) {
#pragma unroll
    for (unsigned r = 0; r < rows; ++r) {
      sums[g][r] = 0.0f;
      row[g][r] = reinterpret_cast<const T*>(p.product[index + g].w +
                                             static_cast<size_t>(min(first + r, product.n_out - 1)) * p.row_bytes);
    }
  }
  wait_for_previous(x);
  if (first >= product.n_out) return;
#pragma unroll 2
  for (unsigned i = 8 * lane; i < p.n_in; i += 256) {
    const float4 a = __ldg(reinterpret_cast<const float4*>(x + i)), b = __ldg(reinterpret_cast<const float4*>(x + i + 4));
    const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (unsigned g = 0; g < n_weights; ++g) {
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) {
        Eight w;
        load_eight(row[g][r] + i, w);
#pragma unroll
        for (int k = 0; k < 8; ++k) sums[g][r] = fmaf(w.v[k], values[k], sums[g][r]);
      }
    }
  }
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) {
    if constexpr (gated) {
      float gate = simd_sum(sums[0][r]), up = simd_sum(sums[1][r]);
      if (lane == 0 && first + r < product.n_out) {
        if (p.product[0].bias != nullptr) gate += p.product[0].bias[first + r];
        if (p.product[1].bias != nullptr) up += p.product[1].bias[first + r];
        product.y[first + r] = activate(p.activation, gate) * up;
      }
    } else {
      const float sum = simd_sum(sums[0][r]);
      if (lane == 0 && first + r < product.n_out) finish(product, first + r, sum);
    }
  }
}

unsigned blocks_for(const Products& p, unsigned rows_a_block) {
  unsigned blocks = 0;
  const unsigned n = p.gated ? 1 : p.n_products;
  for (unsigned i = 0; i < n; ++i) blocks += (p.product[i].n_out + rows_a_block - 1) / rows_a_block;
  return blocks;
}

// chunk_bytes: what 64 groups of a row take.
template <class F, unsigned chunk_bytes>
cudaError_t multiply_rounded_of(const Products& p, Rounded rounded, cudaStream_t stream) {
  constexpr unsigned threads = 32 * product_warps;
  if (p.row_bytes % 4 == 0) {
    if (2048ul * p.row_bytes != static_cast<unsigned long>(chunk_bytes) * p.n_in) return cudaErrorInvalidValue;
    // As many rows as 48 KiB hold twice for each warp, and an even number.
    constexpr unsigned rows = chunk_bytes * 4 * 2 * product_warps <= 48 * 1024 ? 4 : 2;
    if (p.gated) {
      return launch_overlapping(multiply_staged<F, chunk_bytes, rows, true>, blocks_for(p, product_warps * rows / 2), threads,
                                stream, p, rounded);
    }
    return launch_overlapping(multiply_staged<F, chunk_bytes, rows, false>, blocks_for(p, product_warps * rows), threads,
                              stream, p, rounded);
  }
  constexpr unsigned rows = 2;
  if (p.gated) return launch_overlapping(multiply_gated<F>, blocks_for(p, product_warps), threads, stream, p, rounded);
  return launch_overlapping(multiply_rounded<F, rows>, blocks_for(p, product_warps * rows), threads, stream, p, rounded);
}
template <class T>
cudaError_t multiply_float_of(const Products& p, const float* x, cudaStream_t stream) {
  constexpr unsigned rows = 2;
  const unsigned blocks = blocks_for(p, product_warps * rows);
  if (p.gated) return launch_overlapping(multiply_float<T, rows, true>, blocks, 32 * product_warps, stream, p, x);
  return launch_overlapping(multiply_float<T, rows, false>, blocks, 32 * product_warps, stream, p, x);
}

template <class T>
__global__ void __launch_bounds__(128) rope_write_kernel(const __grid_constant__ RopeWrite given) {
  RopeWrite a = given;
  wait_for_previous(a.q, a.k, a.v);
  const unsigned half_head = a.head_dim / 2;
  const unsigned position = a.step[0];
  const unsigned i = blockIdx.x * 128 + threadIdx.x;
  const unsigned q_pairs = a.n_heads * half_head, kv_pairs = a.n_kv_heads * half_head;
  if (i < q_pairs + kv_pairs) {
    const bool is_q = i < q_pairs;
    const unsigned pair = is_q ? i : i - q_pairs;
    const unsigned head = pair / half_head, j = pair % half_head;
    const float* x = (is_q ? a.q : a.k) + head * a.head_dim;
    const unsigned n_pairs = a.n_rot / 2;
    unsigned at_a = 2 * j, at_b = 2 * j + 1;
    float out_a, out_b;
    if (j < n_pairs) {
      if (a.halves) at_a = j, at_b = j + n_pairs;
      const CosSin r = cos_sin_of((is_q ? a.q_turns : a.k_turns)[j], position);
      out_a = x[at_a] * r.cosine - x[at_b] * r.sine;
      out_b = x[at_a] * r.sine + x[at_b] * r.cosine;
    } else {
      out_a = x[at_a];
      out_b = x[at_b];
    }
    if (is_q) {
      a.q_out[head * a.head_dim + at_a] = out_a;
      a.q_out[head * a.head_dim + at_b] = out_b;
    } else {
      T* key = static_cast<T*>(a.keys) + (static_cast<size_t>(head) * a.capacity + position) * a.head_dim;
      key[at_a] = T(out_a);
      key[at_b] = T(out_b);
    }
  } else if (i < q_pairs + 2 * kv_pairs) {
    const unsigned pair = i - q_pairs - kv_pairs;
    const unsigned head = pair / half_head, j = 2 * (pair % half_head);
    T* value = static_cast<T*>(a.values) + (static_cast<size_t>(head) * a.capacity + position) * a.head_dim;
    value[j] = T(a.v[head * a.head_dim + j]);
    value[j + 1] = T(a.v[head * a.head_dim + j + 1]);
  }
}

template <class F>
__global__ void __launch_bounds__(128) to_half_kernel(const unsigned char* __restrict__ w, unsigned n_in, unsigned n_out,
                                                      unsigned row_bytes, __half* __restrict__ out) {
  const unsigned n_groups = n_in / 32;
  const size_t i = static_cast<size_t>(blockIdx.x) * 128 + threadIdx.x;
  if (i >= static_cast<size_t>(n_groups) * n_out) return;
  const unsigned row = static_cast<unsigned>(i / n_groups), group = static_cast<unsigned>(i % n_groups);
  float values[32];
  load_weights<F>(w + static_cast<size_t>(row) * row_bytes, group, n_in, values);
  uint4 packed[4];
  auto* halves = reinterpret_cast<__half2*>(packed);
#pragma unroll
  for (int k = 0; k < 16; ++k) halves[k] = __floats2half2_rn(values[2 * k], values[2 * k + 1]);
  auto* to = reinterpret_cast<uint4*>(out + static_cast<size_t>(row) * n_in + 32 * group);
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = packed[k];
}

__global__ void __launch_bounds__(256) amax_kernel(const float* __restrict__ x, unsigned long n, unsigned* amax) {
  float largest = 0.0f;
  for (unsigned long i = blockIdx.x * 256ul + threadIdx.x; i < n / 4; i += gridDim.x * 256ul) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    largest = fmaxf(largest, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
  largest = warp_max(largest);
  if ((threadIdx.x & 31) == 0) atomicMax(amax, __float_as_uint(largest));
}

__global__ void __launch_bounds__(256)
    x_to_half_kernel(const float* __restrict__ x, unsigned long n, const unsigned* __restrict__ amax, float* scale,
                     uint2* __restrict__ out) {
  const float largest = __uint_as_float(*amax);
  // ilogb: largest < 2^(exponent + 1). NaN and infinities are passed on as they are.
  const int exponent = largest > 0.0f && isfinite(largest) ? ilogbf(largest) + 1 : 0;
  const int k = exponent > 15 ? exponent - 15 : 0;
  const float factor = ldexpf(1.0f, -k);
  if (blockIdx.x == 0 && threadIdx.x == 0) *scale = ldexpf(1.0f, k);
  const unsigned long i = blockIdx.x * 256ul + threadIdx.x;
  if (i >= n / 4) return;
  const float4 v = reinterpret_cast<const float4*>(x)[i];
  uint2 packed;
  *reinterpret_cast<__half2*>(&packed.x) = __floats2half2_rn(v.x * factor, v.y * factor);
  *reinterpret_cast<__half2*>(&packed.y) = __floats2half2_rn(v.z * factor, v.w * factor);
  out[i] = packed;
}

__global__ void __launch_bounds__(256) bias_kernel(float* y, const float* __restrict__ bias, unsigned n_out) {
  const unsigned j = blockIdx.x * 256 + threadIdx.x;
  if (j < n_out) y[static_cast<size_t>(blockIdx.y) * n_out + j] += bias[j];
}

}  // namespace

bool takes_rounded(unsigned format) {
  return format != static_cast<unsigned>(Format::f32) && format != static_cast<unsigned>(Format::f16) &&
         format != static_cast<unsigned>(Format::bf16);
}

cudaError_t norm_round(const float* x, const float* weight, unsigned n, float eps, float* y, Rounded rounded,
                       cudaStream_t stream) {
  return launch_overlapping(norm_round_kernel, 1, norm_threads, stream, x, weight, n, eps, y, rounded);
}

cudaError_t round_row(const float* x, unsigned n, Rounded rounded, cudaStream_t stream) {
  return launch_overlapping(round_kernel, (n / 4 + 255) / 256, 256, stream, x, n, rounded);
}

cudaError_t multiply(const Products& p, const float* x, Rounded rounded, cudaStream_t stream) {
  switch (static_cast<Format>(p.format)) {
    case Format::f32:
      return multiply_float_of<float>(p, x, stream);
    case Format::f16:
      return multiply_float_of<__half>(p, x, stream);
    case Format::bf16:
      return multiply_float_of<BrainHalf>(p, x, stream);
#define PLUMB_ROUNDED(f, block_bytes, block_size) \
  case Format::f:        \
    return multiply_rounded_of<f##_format, 2048 / block_size * block_bytes>(p, rounded, stream);
      PLUMB_ROUNDED(q4_0, 18, 32)
      PLUMB_ROUNDED(q4_1, 20, 32)
      PLUMB_ROUNDED(q5_0, 22, 32)
      PLUMB_ROUNDED(q5_1, 24, 32)
      PLUMB_ROUNDED(q8_0, 34, 32)
      PLUMB_ROUNDED(q2_k, 84, 256)
      PLUMB_ROUNDED(q3_k, 110, 256)
      PLUMB_ROUNDED(q4_k, 144, 256)
      PLUMB_ROUNDED(q5_k, 176, 256)
      PLUMB_ROUNDED(q6_k, 210, 256)
      PLUMB_ROUNDED(iq4_nl, 18, 32)
      PLUMB_ROUNDED(iq4_xs, 136, 256)
      PLUMB_ROUNDED(mxfp4, 17, 32)
#undef PLUMB_ROUNDED
  }
  return cudaErrorInvalidValue;
}

cudaError_t rope_write(const RopeWrite& a, cudaStream_t stream) {
  const unsigned pairs = (a.n_heads + 2 * a.n_kv_heads) * (a.head_dim / 2);
  if (a.f16) return launch_overlapping(rope_write_kernel<__half>, (pairs + 127) / 128, 128, stream, a);
  return launch_overlapping(rope_write_kernel<float>, (pairs + 127) / 128, 128, stream, a);
}

cudaError_t weights_to_half(unsigned format, const unsigned char* w, unsigned n_in, unsigned n_out, unsigned row_bytes,
                            void* half, cudaStream_t stream) {
  const size_t groups = static_cast<size_t>(n_in / 32) * n_out;
  const auto blocks = static_cast<unsigned>((groups + 127) / 128);
  switch (static_cast<Format>(format)) {
#define PLUMB_TO_HALF(f) \
  case Format::f:        \
    return launch(to_half_kernel<f##_format>, blocks, 128, stream, w, n_in, n_out, row_bytes, static_cast<__half*>(half));
    PLUMB_KERNEL_FORMATS(PLUMB_TO_HALF)
#undef PLUMB_TO_HALF
  }
  return cudaErrorInvalidValue;
}

cudaError_t activations_to_half(const float* x, unsigned long n, unsigned* amax, float* scale, void* half,
                                cudaStream_t stream) {
  if (const cudaError_t error = cudaMemsetAsync(amax, 0, sizeof *amax, stream); error != cudaSuccess) return error;
  const auto blocks = static_cast<unsigned>((n / 4 + 255) / 256);
  constexpr unsigned most_blocks = 1056;
  const unsigned few = min(blocks, most_blocks);
  if (const cudaError_t error = launch(amax_kernel, few, 256, stream, x, n, amax); error != cudaSuccess) return error;
  return launch(x_to_half_kernel, blocks, 256, stream, x, n, amax, scale, static_cast<uint2*>(half));
}

cudaError_t add_bias(float* y, const float* bias, unsigned n_out, unsigned n_rows, cudaStream_t stream) {
  return launch(bias_kernel, dim3((n_out + 255) / 256, n_rows), 256, stream, y, bias, n_out);
}

}  // namespace plumb::backends::cuda
