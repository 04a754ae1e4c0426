// Products of weights with 2 to most_few_rows rows of activations, tuned for NVIDIA GPUs: for sequences that decode together,
// and for short prompts. The limit is reading the weights, as long as the arithmetic on them takes less time.
//
// A warp takes 32 outputs, that is 32 rows of the weight. It copies them to shared memory ahead of the arithmetic, 128 weights
// of each row at a time. Each lane unpacks one group of 32 weights from each of four rows to halves. These halves are already
// the lane's part of the matrix instruction's first operand: the order of a sum does not matter, so an instruction takes its
// columns from four groups at once. The lane's part of the second operand is then a run of activations of the same group, and
// HalfRows stores activations in this order.
//
// Activations are halves times a power of two for each row, so that rows do not depend on each other. Sums are float. Several
// blocks may share outputs, each with a part of the rows' length; finish_few adds up the parts.
#include <cuda_fp16.h>

#include <type_traits>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.h"
#include "backends/cuda/rounding.cuh"
#include "backends/gpu/kernels/activation.h"
#include "backends/gpu/kernels/formats.h"
#include "quants/blocks.h"
#include "quants/format.h"

namespace plumb::backends::cuda {

namespace {

using quants::Format;

constexpr unsigned few_warps = 4;
constexpr unsigned outputs_a_warp = 32, outputs_a_block = few_warps * outputs_a_warp;
constexpr unsigned groups_a_step = 4;  // one group for each of four neighbouring lanes
// The number of blocks that keeps a large GPU busy. Where there are fewer outputs, rows are cut into parts to reach it. With
// many rows of x a block uses more of the GPU, and its parts cost more to add up.
constexpr unsigned wanted_blocks(unsigned n_rows) { return n_rows > 32 ? 264 : 528; }
constexpr unsigned most_splits = 12;

// The part of a row that a warp copies at a time. Copies begin at multiples of 16 bytes; blocks of some formats do not.
template <class F, unsigned group_bytes_times_8, unsigned steps>
struct Staging {
  using Format = F;
  static constexpr unsigned groups = groups_a_step * steps;
  static constexpr unsigned bytes = group_bytes_times_8 * groups / 8;
  // Bytes reserved for a row, such that the eight rows that lanes read at the same time begin on different banks.
  static constexpr unsigned slot = bytes % 16 == 0 ? (bytes % 128 == 0 ? bytes + 16 : bytes) : (bytes + 31) / 16 * 16;
  static constexpr unsigned stage_bytes = few_warps * outputs_a_warp * slot;
  static constexpr unsigned stages = stage_bytes <= 24 * 1024 ? 3 : 2;
};

// Byte i of a word, minus 128.
__device__ __forceinline__ float byte_as_float(unsigned biased, unsigned i) {
  // The bits of the float 8388608 + byte.
  return __uint_as_float(__byte_perm(biased, 0x4b000000u, 0x7440u + i)) - 8388736.0f;
}

// Unpacks a group: weights 2 i and 2 i + 1 as halves in to[i].
template <class F>
struct Halves {
  static __device__ __forceinline__ void load(const unsigned char* row, unsigned group, unsigned (&to)[16]) {
    const Group g = F::unpack(row, group);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const unsigned biased = g.words[k] ^ 0x80808080u;
      const float scale = g.scale[k / 4], min = g.min[k / 4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to[2 * k + i] = pack_halves(fmaf(scale, byte_as_float(biased, 2 * i), -min),
                                    fmaf(scale, byte_as_float(biased, 2 * i + 1), -min));
      }
    }
  }
};
template <>
struct Halves<f16_format> {
  static __device__ __forceinline__ void load(const unsigned char* row, unsigned group, unsigned (&to)[16]) {
    load_words_at_16(row + 64 * group, to);
    load_words_at_16(row + 64 * group + 32, to + 8);
  }
};
template <>
struct Halves<bf16_format> {
  static __device__ __forceinline__ void load(const unsigned char* row, unsigned group, unsigned (&to)[16]) {
    Halves<f16_format>::load(row, group, to);
#pragma unroll
    for (int k = 0; k < 16; ++k) to[k] = pack_halves(bf16_format::value(to[k] & 0xffffu), bf16_format::value(to[k] >> 16));
  }
};

unsigned total_outputs(const Products& p) {
  unsigned n = 0;
  for (unsigned i = 0; i < p.n_products; ++i) n += p.product[i].n_out;
  return n;
}
unsigned blocks_of(const Products& p) {
  unsigned n = 0;
  for (unsigned i = 0; i < p.n_products; ++i) n += (p.product[i].n_out + outputs_a_block - 1) / outputs_a_block;
  return n;
}

// partial [gridDim.y, n_rows, outputs of all products]
template <class S, unsigned n_tiles>
__global__ void __launch_bounds__(32 * few_warps, n_tiles == 8 ? 2 : 3)
    multiply_few_kernel(const __grid_constant__ Products p, const __half* x, unsigned n_rows, unsigned n_all,
                        float* partial) {
  using F = typename S::Format;
  PLUMB_SHARED_BYTES(staged, S::stages * S::stage_bytes);
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned quad = lane / 4, in_quad = lane % 4;
  unsigned block = blockIdx.x, index = 0, offset = 0;
  while (index + 1 < p.n_products) {
    const unsigned blocks = (p.product[index].n_out + outputs_a_block - 1) / outputs_a_block;
    if (block < blocks) break;
    block -= blocks;
    offset += p.product[index++].n_out;
  }
  const Product& product = p.product[index];
  const unsigned first = block * outputs_a_block + warp * outputs_a_warp;
  const bool idle = first >= product.n_out;
  const unsigned n_groups = p.n_in / 32;
  const unsigned n_steps = (n_groups + groups_a_step - 1) / groups_a_step;
  const unsigned n_chunks = (n_groups + S::groups - 1) / S::groups;
  const unsigned each = (n_chunks + gridDim.y - 1) / gridDim.y;
  const unsigned begin = blockIdx.y * each, end = min(begin + each, n_chunks);

  unsigned char* mine = staged + warp * (S::stages * outputs_a_warp * S::slot);
  const unsigned last_row = min(outputs_a_warp - 1, product.n_out - 1 - min(first, product.n_out - 1));
  const unsigned char* rows = product.w + static_cast<size_t>(min(first, product.n_out - 1)) * p.row_bytes;
  const auto stage = [&](unsigned chunk) {
    if (chunk < end) {
      unsigned char* to = mine + chunk % S::stages * (outputs_a_warp * S::slot);
      const unsigned start = chunk * S::bytes & ~15u;
      if (p.row_bytes % 16 == 0) {
        constexpr unsigned pieces = S::slot / 16;
        for (unsigned i = lane; i < outputs_a_warp * pieces; i += 32) {
          const unsigned r = i / pieces, piece = i % pieces;
          const unsigned from = min(start + 16 * piece, p.row_bytes - 16);
          copy_later<16>(to + r * S::slot + 16 * piece, rows + static_cast<size_t>(min(r, last_row)) * p.row_bytes + from);
        }
      } else {
        // Rows whose bytes are no multiple of 16 are short: plain copies are fast enough.
        for (unsigned r = 0; r < outputs_a_warp; ++r) {
          const unsigned char* from = rows + static_cast<size_t>(min(r, last_row)) * p.row_bytes + start;
          for (unsigned i = lane; i < S::slot; i += 32) {
            to[r * S::slot + i] = start + i < p.row_bytes ? from[i] : static_cast<unsigned char>(0);
          }
        }
      }
    }
    end_of_copies();
  };
  if (!idle) {
    for (unsigned i = 0; i + 1 < S::stages; ++i) stage(begin + i);
  }
  wait_for_previous(x, partial);
  if (idle) return;
  // An instruction waits for the one before it that adds to the same sums. With few tiles there are two sets of sums.
  constexpr unsigned n_sets = n_tiles <= 2 ? 2 : 1;
  float sums[n_sets][2][n_tiles][4] = {};

  // Where the lane reads x: in tile n of its rows, or in the last tile if there are fewer.
  const uint4* column[n_tiles];
  uint4 next[n_tiles];
#pragma unroll
  for (unsigned n = 0; n < n_tiles; ++n) {
    column[n] = reinterpret_cast<const uint4*>(x) + static_cast<size_t>(min(n, (n_rows - 1) / 8)) * n_steps * 128 + lane;
    next[n] = __ldg(column[n] + 128 * min(begin * (S::groups / groups_a_step), n_steps - 1));
  }
  for (unsigned chunk = begin; chunk < end; ++chunk) {
    stage(chunk + S::stages - 1);
    wait_for_copies<S::stages - 1>();
    __syncwarp();
    const unsigned char* from = mine + chunk % S::stages * (outputs_a_warp * S::slot) + chunk * S::bytes % 16;
    const unsigned base = S::groups * chunk;
#pragma unroll 1
    for (unsigned step = 0; step < S::groups; step += groups_a_step) {
      const unsigned group = base + step + in_quad;
      if (base + step >= n_groups) break;
      unsigned w[4][16];
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
        Halves<F>::load(from + (8 * i + quad) * S::slot, min(step + in_quad, n_groups - 1 - base), w[i]);
      }
      if (group >= n_groups) {
#pragma unroll
        for (unsigned i = 0; i < 64; ++i) w[i / 16][i % 16] = 0;
      }
#pragma unroll
      for (unsigned part = 0; part < 4; ++part) {
        const unsigned k = 4 * part;
        uint4 v[n_tiles];
#pragma unroll
        for (unsigned n = 0; n < n_tiles; ++n) v[n] = next[n];
        // Loads x one part ahead; at the end of a step, the first part of the next step.
        const unsigned ahead = min(4 * ((base + step) / groups_a_step) + part + 1, 4 * n_steps - 1);
#pragma unroll
        for (unsigned n = 0; n < n_tiles; ++n) next[n] = __ldg(column[n] + 32 * ahead);
#pragma unroll
        for (unsigned n = 0; n < n_tiles; ++n) {
#pragma unroll
          for (unsigned m = 0; m < 2; ++m) {
            const unsigned a[4] = {w[2 * m][k], w[2 * m + 1][k], w[2 * m][k + 1], w[2 * m + 1][k + 1]};
            multiply_add(sums[0][m][n], a, v[n].x, v[n].y);
          }
        }
#pragma unroll
        for (unsigned n = 0; n < n_tiles; ++n) {
#pragma unroll
          for (unsigned m = 0; m < 2; ++m) {
            const unsigned a[4] = {w[2 * m][k + 2], w[2 * m + 1][k + 2], w[2 * m][k + 3], w[2 * m + 1][k + 3]};
            multiply_add(sums[n_sets - 1][m][n], a, v[n].z, v[n].w);
          }
        }
      }
    }
    __syncwarp();
  }
  float* out = partial + static_cast<size_t>(blockIdx.y) * n_rows * n_all + offset;
#pragma unroll
  for (unsigned m = 0; m < 2; ++m) {
#pragma unroll
    for (unsigned n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (unsigned j = 0; j < 4; ++j) {
        const unsigned r = 8 * n + 2 * in_quad + j % 2, at = first + 16 * m + 8 * (j / 2) + quad;
        float sum = sums[0][m][n][j];
        if constexpr (n_sets == 2) sum += sums[1][m][n][j];
        if (r < n_rows && at < product.n_out) out[static_cast<size_t>(r) * n_all + at] = sum;
      }
    }
  }
}

// One thread for each output of a row: of one product or, if gated, of the pair of products.
__global__ void __launch_bounds__(256)
    finish_few_kernel(const __grid_constant__ Products p, const float* scales, unsigned n_all, unsigned n_splits,
                      const float* partial) {
  wait_for_previous(scales, partial);
  const unsigned j = blockIdx.x * 256 + threadIdx.x, r = blockIdx.y, n_rows = gridDim.y;
  unsigned index = 0, offset = 0;
  while (index < blockIdx.z) offset += p.product[index++].n_out;
  const Product& product = p.product[index];
  if (j >= product.n_out) return;
  const auto sum_of = [&](const Product& of, unsigned at) {
    float sum = 0.0f;
    for (unsigned s = 0; s < n_splits; ++s) sum += partial[(static_cast<size_t>(s) * n_rows + r) * n_all + at];
    sum *= scales[r];
    return of.bias != nullptr ? sum + of.bias[j] : sum;
  };
  const size_t out = static_cast<size_t>(r) * product.n_out + j;
  float y = sum_of(product, offset + j);
  if (p.gated) y = activate(p.activation, y) * sum_of(p.product[1], product.n_out + j);
  if (product.residual != nullptr) y += product.residual[out];
  product.y[out] = y;
}

constexpr unsigned half_threads = 512;

template <bool largest>
__device__ __forceinline__ float over_block(float x, float* of_warps) {
  x = largest ? simd_max(x) : simd_sum(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x >> 5] = x;
  __syncthreads();
  const float other = (threadIdx.x & 31) < half_threads / 32 ? of_warps[threadIdx.x & 31] : 0.0f;
  return largest ? simd_max(other) : simd_sum(other);
}

// One block for each row; rows after the last become zeros. Without `norm`, rows are only rounded.
template <bool norm>
__global__ void __launch_bounds__(half_threads)
    rows_to_half_kernel(const float* x, const float* __restrict__ weight, unsigned n, unsigned n_rows, float eps, float* y,
                        HalfRows to) {
  __shared__ float of_warps[half_threads / 32];
  wait_for_previous(x, y, to.halves, to.scales);
  const auto place = [&](unsigned i) {
    return reinterpret_cast<uint2*>(static_cast<__half*>(to.halves) + half_place(blockIdx.x, 4 * i, n));
  };
  const unsigned padded = (n + 127) / 128 * 128;
  for (unsigned i = (blockIdx.x < n_rows ? n / 4 : 0) + threadIdx.x; i < padded / 4; i += half_threads) *place(i) = {0, 0};
  if (blockIdx.x >= n_rows) return;
  const auto* fours = reinterpret_cast<const float4*>(x + static_cast<size_t>(blockIdx.x) * n);
  const auto* weights = reinterpret_cast<const float4*>(weight);
  float scale = 1.0f;
  if constexpr (norm) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < n / 4; i += half_threads) {
      const float4 v = fours[i];
      sum = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
    }
    scale = 1.0f / sqrtf(over_block<false>(sum, of_warps) / static_cast<float>(n) + eps);
  }
  const auto value = [&](unsigned i) {
    float4 v = fours[i];
    if constexpr (norm) {
      const float4 w = __ldg(weights + i);
      v = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    }
    return v;
  };
  float amax = 0.0f;
  for (unsigned i = threadIdx.x; i < n / 4; i += half_threads) {
    const float4 v = value(i);
    amax = fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
  amax = over_block<true>(amax, of_warps);
  // Scales the largest to [2^14, 2^15), as far as a float can hold the factor. NaN and infinities stay as they are.
  const int k = amax > 0.0f && isfinite(amax) ? max(ilogbf(amax) - 14, -100) : 0;
  const float factor = ldexpf(1.0f, -k);
  if (threadIdx.x == 0) to.scales[blockIdx.x] = ldexpf(1.0f, k);
  for (unsigned i = threadIdx.x; i < n / 4; i += half_threads) {
    const float4 v = value(i);
    if constexpr (norm) reinterpret_cast<float4*>(y + static_cast<size_t>(blockIdx.x) * n)[i] = v;
    *place(i) = {pack_halves(v.x * factor, v.y * factor), pack_halves(v.z * factor, v.w * factor)};
  }
}

// bytes: the size of 8 groups. steps: a copy takes 4 * steps groups.
template <class F, unsigned bytes, unsigned steps>
cudaError_t multiply_few_of(const Products& p, const HalfRows& x, unsigned n_rows, unsigned n_splits, float* partial,
                            cudaStream_t stream) {
  if constexpr (!std::is_same_v<F, f32_format>) {
    using S = Staging<F, bytes, steps>;
    const auto kernel = n_rows <= 8    ? multiply_few_kernel<S, 1>
                        : n_rows <= 16 ? multiply_few_kernel<S, 2>
                        : n_rows <= 32 ? multiply_few_kernel<S, 4>
                                       : multiply_few_kernel<S, 8>;
    return launch_with_shared(kernel, dim3(blocks_of(p), n_splits), 32 * few_warps, S::stages * S::stage_bytes, stream, p,
                              static_cast<const __half*>(x.halves), n_rows, total_outputs(p), partial);
  }
  return cudaErrorInvalidValue;
}

cudaError_t multiply_few_parts(const Products& p, const HalfRows& x, unsigned n_rows, unsigned n_splits, float* partial,
                               cudaStream_t stream) {
  switch (static_cast<Format>(p.format)) {
#define PLUMB_FEW_floats(F, Block) multiply_few_of<F, 256 * sizeof(quants::Block), 1>
#define PLUMB_FEW_small(F, Block) multiply_few_of<F, 8 * sizeof(quants::Block), 2>
#define PLUMB_FEW_super(F, Block) multiply_few_of<F, sizeof(quants::Block), 2>
#define PLUMB_FEW(id, type, NAME, family, writing) \
  case Format::id:                                 \
    return PLUMB_FEW_##family(id##_format, Block##NAME)(p, x, n_rows, n_splits, partial, stream);
    PLUMB_FORMATS(PLUMB_FEW)
  }
  return cudaErrorInvalidValue;
}

unsigned splits_of(const Products& p, unsigned n_rows) {
  const unsigned n_steps = (p.n_in / 32 + groups_a_step - 1) / groups_a_step;
  return max(1u, min(min(wanted_blocks(n_rows) / blocks_of(p), most_splits), n_steps / 4));
}

}  // namespace

bool takes_few_rows(unsigned format) { return format != static_cast<unsigned>(Format::f32); }

unsigned long few_rows_partial_bytes(const Products& p, unsigned n_rows) {
  return 4ul * n_rows * max(total_outputs(p), wanted_blocks(n_rows) * outputs_a_block);
}

cudaError_t multiply_few(const Products& p, const HalfRows& x, unsigned n_rows, float* partial, cudaStream_t stream) {
  const unsigned n_splits = splits_of(p, n_rows);
  const cudaError_t error = multiply_few_parts(p, x, n_rows, n_splits, partial, stream);
  if (error != cudaSuccess) return error;
  unsigned widest = 0;
  for (unsigned i = 0; i < p.n_products; ++i) widest = max(widest, p.product[i].n_out);
  const dim3 grid((widest + 255) / 256, n_rows, p.gated ? 1 : p.n_products);
  return launch_overlapping(finish_few_kernel, grid, 256, stream, p, x.scales, total_outputs(p), n_splits, partial);
}

cudaError_t rows_to_half(const float* x, const float* weight, unsigned n, unsigned n_rows, float eps, float* y,
                         const HalfRows& to, cudaStream_t stream) {
  const auto kernel = weight != nullptr ? rows_to_half_kernel<true> : rows_to_half_kernel<false>;
  return launch_overlapping(kernel, (n_rows + 7) / 8 * 8, half_threads, stream, x, weight, n, n_rows, eps, y, to);
}

}  // namespace plumb::backends::cuda
