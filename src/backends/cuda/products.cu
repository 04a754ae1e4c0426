// Matrix-vector products tuned for NVIDIA GPUs: decode, which is bound by the bytes of the weights. A warp takes 2 or 4
// rows; its lanes take groups of 32 weights, which formats.h unpacks to signed bytes; activations are rounded to two planes
// of bytes (kernels.h), so that 4 weights cost two dp4a. Sums over a group are exact in int32.
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/formats.h"
#include "backends/gpu/kernels/list.h"
#include "quants/format.h"

namespace plumb::backends::cuda {

namespace {

using quants::Format;

constexpr unsigned product_warps = 4;

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

// Two groups whose bits lie in the same bytes, of formats where this is so: pair i of a row is groups first(i) and
// second(i).
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
    const unsigned tops[8] = {top_low.x, top_low.y, top_low.z, top_low.w, top_high.x, top_high.y, top_high.z, top_high.w};
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

// The rows that a warp multiplies: `rows` of one weight or, gated, half as many of each of two.
template <unsigned rows, bool gated>
struct WarpRows {
  static constexpr unsigned of_weight = gated ? rows / 2 : rows;
  const Product* product;
  unsigned first;  // row of the weight; from n_out on there is nothing to do
  const unsigned char* row[rows];
};
template <unsigned rows, bool gated>
__device__ __forceinline__ WarpRows<rows, gated> rows_of_warp(const Products& p) {
  constexpr unsigned of_weight = WarpRows<rows, gated>::of_weight;
  WarpRows<rows, gated> mine;
  unsigned block = blockIdx.x;
  const unsigned index = gated ? 0 : find_product(p, product_warps * of_weight, block);
  mine.product = &p.product[index];
  mine.first = (block * product_warps + (threadIdx.x >> 5)) * of_weight;
#pragma unroll
  for (unsigned r = 0; r < rows; ++r) {
    const unsigned char* w = gated ? p.product[r / of_weight].w : mine.product->w;
    mine.row[r] = w + static_cast<size_t>(min(mine.first + r % of_weight, mine.product->n_out - 1)) * p.row_bytes;
  }
  return mine;
}

// sums: each lane's part of each row's product, which is yet to be multiplied by `factor`.
template <unsigned rows, bool gated>
__device__ __forceinline__ void finish_rows(const Products& p, const WarpRows<rows, gated>& mine,
                                            const float (&sums)[rows], float factor = 1.0f) {
  constexpr unsigned of_weight = WarpRows<rows, gated>::of_weight;
  const Product& product = *mine.product;
#pragma unroll
  for (unsigned r = 0; r < of_weight; ++r) {
    const unsigned at = mine.first + r;
    float sum = simd_sum(sums[r]) * factor;
    if constexpr (gated) {
      float up = simd_sum(sums[r + of_weight]) * factor;
      if ((threadIdx.x & 31) != 0 || at >= product.n_out) continue;
      if (p.product[0].bias != nullptr) sum += p.product[0].bias[at];
      if (p.product[1].bias != nullptr) up += p.product[1].bias[at];
      product.y[at] = activate(p.activation, sum) * up;
    } else {
      if ((threadIdx.x & 31) != 0 || at >= product.n_out) continue;
      if (product.bias != nullptr) sum += product.bias[at];
      if (product.residual != nullptr) sum += product.residual[at];
      product.y[at] = sum;
    }
  }
}

template <class F, unsigned rows, bool gated>
__global__ void __launch_bounds__(32 * product_warps)
    multiply_rounded(const __grid_constant__ Products p, Rounded rounded) {
  const unsigned n_groups = p.n_in / 32;
  const auto mine = rows_of_warp<rows, gated>(p);
  wait_for_previous(rounded.words, rounded.scales);
  if (mine.first >= mine.product->n_out) return;
  float sums[rows] = {};
#pragma unroll 2
  for (unsigned group = threadIdx.x & 31; group < n_groups; group += 32) {
    const RoundedGroup x = load_group(rounded, group, n_groups);
#pragma unroll
    for (unsigned r = 0; r < rows; ++r) sums[r] += dot_group<F>(mine.row[r], group, x);
  }
  finish_rows(p, mine, sums);
}

// Rows that begin at multiples of 4 bytes: a warp copies 64 groups of each of its rows to shared memory while it computes
// with the 64 before them, since lanes that each read their own groups from device memory touch many lines for few bytes
// each. Copying begins before the kernel ahead has ended.
template <class F, unsigned chunk_bytes, unsigned rows, bool gated>
__global__ void __launch_bounds__(32 * product_warps) multiply_staged(const __grid_constant__ Products p, Rounded rounded) {
  constexpr unsigned chunk_groups = 64, n_stages = 2;
  alignas(16) __shared__ unsigned char staged[product_warps * n_stages * rows * chunk_bytes];
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned n_groups = p.n_in / 32;
  const auto mine = rows_of_warp<rows, gated>(p);
  const bool idle = mine.first >= mine.product->n_out;
  unsigned char* buffers = staged + warp * (n_stages * rows * chunk_bytes);
  const bool wide = p.row_bytes % 16 == 0;
  const unsigned n_chunks = (n_groups + chunk_groups - 1) / chunk_groups;
  const auto stage = [&](unsigned chunk) {
    if (chunk < n_chunks) {
      const unsigned offset = chunk * chunk_bytes;
      const unsigned bytes = min(chunk_bytes, p.row_bytes - offset);
      unsigned char* to = buffers + chunk % n_stages * (rows * chunk_bytes);
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) {
        if (wide) {
          for (unsigned i = 16 * lane; i < bytes; i += 512)
            copy_later<16>(to + r * chunk_bytes + i, mine.row[r] + offset + i);
        } else {
          for (unsigned i = 4 * lane; i < bytes; i += 128)
            copy_later<4>(to + r * chunk_bytes + i, mine.row[r] + offset + i);
        }
      }
    }
    end_of_copies();
  };
  if (!idle) {
    for (unsigned chunk = 0; chunk < n_stages; ++chunk) stage(chunk);
  }
  wait_for_previous(rounded.words, rounded.scales);
  if (idle) return;
  float sums[rows] = {};
  for (unsigned chunk = 0; chunk < n_chunks; ++chunk) {
    wait_for_copies<n_stages - 1>();
    __syncwarp();
    const unsigned base = chunk * chunk_groups;
    const unsigned char* from = buffers + chunk % n_stages * (rows * chunk_bytes);
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
  finish_rows(p, mine, sums);
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

// A norm's factor is one for the whole row of x, so that its sum of squares can be had beside the product.
template <class T, unsigned rows, bool gated, bool normed>
__global__ void __launch_bounds__(32 * product_warps) multiply_float(const __grid_constant__ Products p, const float* x) {
  const auto mine = rows_of_warp<rows, gated>(p);
  wait_for_previous(x);
  if (mine.first >= mine.product->n_out) return;
  float sums[rows] = {};
  float squares = 0.0f;
#pragma unroll 4
  for (unsigned i = 8 * (threadIdx.x & 31); i < p.n_in; i += 256) {
    const float4 a = __ldg(reinterpret_cast<const float4*>(x + i)), b = __ldg(reinterpret_cast<const float4*>(x + i + 4));
    float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    if constexpr (normed) {
      const float4 c = __ldg(reinterpret_cast<const float4*>(p.norm + i)), d = __ldg(reinterpret_cast<const float4*>(p.norm + i + 4));
      const float weights[8] = {c.x, c.y, c.z, c.w, d.x, d.y, d.z, d.w};
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        squares = fmaf(values[k], values[k], squares);
        values[k] *= weights[k];
      }
    }
#pragma unroll
    for (unsigned r = 0; r < rows; ++r) {
      Eight w;
      load_eight(reinterpret_cast<const T*>(mine.row[r]) + i, w);
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[r] = fmaf(w.v[k], values[k], sums[r]);
    }
  }
  const float factor = normed ? 1.0f / sqrtf(simd_sum(squares) / static_cast<float>(p.n_in) + p.eps) : 1.0f;
  finish_rows(p, mine, sums, factor);
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
      return launch_overlapping(multiply_staged<F, chunk_bytes, rows, true>, blocks_for(p, product_warps * rows / 2),
                                threads, stream, p, rounded);
    }
    return launch_overlapping(multiply_staged<F, chunk_bytes, rows, false>, blocks_for(p, product_warps * rows), threads,
                              stream, p, rounded);
  }
  constexpr unsigned rows = 2;
  if (p.gated) {
    return launch_overlapping(multiply_rounded<F, rows, true>, blocks_for(p, product_warps * rows / 2), threads, stream, p,
                              rounded);
  }
  return launch_overlapping(multiply_rounded<F, rows, false>, blocks_for(p, product_warps * rows), threads, stream, p,
                            rounded);
}
template <class T>
cudaError_t multiply_float_of(const Products& p, const float* x, cudaStream_t stream) {
  constexpr unsigned rows = 2;  // of a weight
  const unsigned blocks = blocks_for(p, product_warps * rows);
  constexpr unsigned threads = 32 * product_warps;
  if (p.norm != nullptr) {
    if (p.gated) return launch_overlapping(multiply_float<T, 2 * rows, true, true>, blocks, threads, stream, p, x);
    return launch_overlapping(multiply_float<T, rows, false, true>, blocks, threads, stream, p, x);
  }
  if (p.gated) return launch_overlapping(multiply_float<T, 2 * rows, true, false>, blocks, threads, stream, p, x);
  return launch_overlapping(multiply_float<T, rows, false, false>, blocks, threads, stream, p, x);
}

}  // namespace

bool takes_rounded(unsigned format) {
  return format != static_cast<unsigned>(Format::f32) && format != static_cast<unsigned>(Format::f16) &&
         format != static_cast<unsigned>(Format::bf16);
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
  case Format::f:                                 \
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

}  // namespace plumb::backends::cuda
