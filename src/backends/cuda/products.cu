// Matrix-vector products tuned for NVIDIA GPUs, for decoding, whose limit is reading the weights. A warp takes 2 or 4 rows,
// each lane a group of 32 weights at a time, which formats.h unpacks to signed bytes. Activations are rounded to two planes
// of bytes (kernels.h), so 4 weights take two dp4a. Sums over a group are exact in int32.
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/formats.h"
#include "quants/blocks.h"
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

// Of formats with pairs of groups (formats.h) a lane takes a pair at a time: groups first(i) and first(i) + apart of a row are
// its pair i. apart = 0: the format has no pairs.
template <class F>
struct Pairs {
  static constexpr unsigned apart = 0;
};
template <>
struct Pairs<q4_k_format> {
  static constexpr unsigned apart = 1;
  static __device__ unsigned first(unsigned i) { return 2 * i; }
};
template <>
struct Pairs<q5_k_format> : Pairs<q4_k_format> {};
template <>
struct Pairs<q6_k_format> {
  static constexpr unsigned apart = 2;
  static __device__ unsigned first(unsigned i) { return 4 * (i >> 1) + (i & 1u); }
};

// The product of a block, and the block's number within it: the blocks of each product follow those of the one before.
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

// The rows that a warp multiplies: `rows` of one weight or, if gated, half as many of each of two weights.
template <unsigned rows, bool gated>
struct WarpRows {
  static constexpr unsigned of_weight = gated ? rows / 2 : rows;
  const Product* product;
  unsigned first;  // first row of the weight; n_out or more: the warp has no rows
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

// sums: each lane's part of each row's product, still without `factor`.
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

// For rows that begin at multiples of 4 bytes. A warp copies 64 groups of each of its rows to shared memory while it computes
// with the 64 groups before. (Lanes that read their own groups from device memory would touch many cache lines for few bytes
// each.) Copying begins before the previous kernel has ended.
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
    if constexpr (Pairs<F>::apart != 0) {
      const unsigned a = base + Pairs<F>::first(lane), b = a + Pairs<F>::apart;
      if (b < n_groups) {
        const RoundedGroup x_a = load_group(rounded, a, n_groups), x_b = load_group(rounded, b, n_groups);
#pragma unroll
        for (unsigned r = 0; r < rows; ++r) {
          const auto loaded = F::load(from + r * chunk_bytes, lane);
          sums[r] += dot_group(F::part(loaded, 0), x_a) + dot_group(F::part(loaded, 1), x_b);
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

// Loads eight weights of a float format as float. Their first index is a multiple of 8.
template <class F>
__device__ __forceinline__ void load_eight(const unsigned char* row, unsigned i, float (&w)[8]) {
  const auto* from = reinterpret_cast<const uint4*>(row) + i / 8;
  const uint4 v = __ldcs(from);
  const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int k = 0; k < 8; ++k) w[k] = F::value((words[k / 2] >> (16 * (k % 2))) & 0xffffu);
}
template <>
__device__ __forceinline__ void load_eight<f32_format>(const unsigned char* row, unsigned i, float (&w)[8]) {
  const auto* from = reinterpret_cast<const float4*>(row) + i / 4;
  const float4 a = __ldcs(from), b = __ldcs(from + 1);
  w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
  w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
}

// A norm has one factor for the whole row of x, so its sum of squares is computed along with the product.
template <class F, unsigned rows, bool gated, bool normed>
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
      float w[8];
      load_eight<F>(mine.row[r], i, w);
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[r] = fmaf(w[k], values[k], sums[r]);
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

// chunk_bytes: the bytes of 64 groups of a row.
template <class F, unsigned chunk_bytes>
cudaError_t multiply_rounded_of(const Products& p, Rounded rounded, cudaStream_t stream) {
  // The even number of rows for which two chunks of each row of each warp fit into 48 KiB.
  constexpr unsigned most = chunk_bytes * 4 * 2 * product_warps <= 48 * 1024 ? 4 : 2;
  const bool staged = p.row_bytes % 4 == 0;
  if (staged && 2048ul * p.row_bytes != static_cast<unsigned long>(chunk_bytes) * p.n_in) return cudaErrorInvalidValue;
  const unsigned rows = staged ? most : 2;
  const auto kernel = staged ? (p.gated ? multiply_staged<F, chunk_bytes, most, true> : multiply_staged<F, chunk_bytes, most, false>)
                             : (p.gated ? multiply_rounded<F, 2, true> : multiply_rounded<F, 2, false>);
  return launch_overlapping(kernel, blocks_for(p, product_warps * (p.gated ? rows / 2 : rows)), 32 * product_warps, stream,
                            p, rounded);
}
template <class F>
cudaError_t multiply_float_of(const Products& p, const float* x, cudaStream_t stream) {
  constexpr unsigned rows = 2;  // of each weight
  const auto kernel = p.norm != nullptr ? (p.gated ? multiply_float<F, 2 * rows, true, true> : multiply_float<F, rows, false, true>)
                                        : (p.gated ? multiply_float<F, 2 * rows, true, false> : multiply_float<F, rows, false, false>);
  return launch_overlapping(kernel, blocks_for(p, product_warps * rows), 32 * product_warps, stream, p, x);
}

}  // namespace

bool takes_rounded(unsigned format) { return quants::info(static_cast<Format>(format)).block_size > 1; }

cudaError_t multiply(const Products& p, const float* x, Rounded rounded, cudaStream_t stream) {
  switch (static_cast<Format>(p.format)) {
#define PLUMB_PRODUCT_floats(F, Block) multiply_float_of<F>(p, x, stream)
#define PLUMB_PRODUCT_small(F, Block) multiply_rounded_of<F, 64 * sizeof(quants::Block)>(p, rounded, stream)
#define PLUMB_PRODUCT_super(F, Block) multiply_rounded_of<F, 8 * sizeof(quants::Block)>(p, rounded, stream)
#define PLUMB_PRODUCT(id, type, NAME, family, writing) \
  case Format::id:                                     \
    return PLUMB_PRODUCT_##family(id##_format, Block##NAME);
    PLUMB_FORMATS(PLUMB_PRODUCT)
  }
  return cudaErrorInvalidValue;
}

}  // namespace plumb::backends::cuda
