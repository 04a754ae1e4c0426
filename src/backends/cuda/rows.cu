// Kernels tuned for NVIDIA GPUs that work row by row: norms, rounding, rotation into the cache, and conversions for products
// of halves. Tests compare them with the shared kernels and with the reference.
#include <cuda_fp16.h>

#include "backends/cuda/grid.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mma.h"
#include "backends/cuda/rounding.cuh"
#include "backends/gpu/kernels/formats.h"
#include "backends/gpu/kernels/rotation.h"
#include "quants/format.h"

namespace plumb::backends::cuda {

namespace {

using quants::Format;

// A row of up to 4 * norm_registers elements for each thread stays in registers between the sum and the rounding.
constexpr unsigned norm_registers = 2;

__device__ __forceinline__ float sum_of_squares(float4 v, float sum) {
  return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
}

// One block, with a thread for every four elements, up to 1024: in so short a kernel, unused warps cost noticeable time.
template <unsigned norm_threads>
__global__ void __launch_bounds__(norm_threads)
    norm_round_kernel(const float* x, const float* __restrict__ weight, unsigned n, float eps, float* __restrict__ y,
                      Rounded rounded) {
  __shared__ float sums[norm_threads / 32];
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
  sum = simd_sum((threadIdx.x & 31) < norm_threads / 32 ? sums[threadIdx.x & 31] : 0.0f);
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

template <class T>
__global__ void __launch_bounds__(128) rope_write_kernel(const __grid_constant__ RopeWrite given) {
  RopeWrite a = given;
  wait_for_previous(a.q, a.k, a.v);
  const unsigned half_head = a.head_dim / 2;
  const unsigned row = blockIdx.y;
  const unsigned slot = a.slots[row], position = a.positions[row];
  const size_t q_row = static_cast<size_t>(row) * a.n_heads, kv_row = static_cast<size_t>(row) * a.n_kv_heads;
  const size_t kv_slot = static_cast<size_t>(slot) * a.n_kv_heads;
  const unsigned i = blockIdx.x * 128 + threadIdx.x;
  const unsigned q_pairs = a.n_heads * half_head, kv_pairs = a.n_kv_heads * half_head;
  if (i < q_pairs + kv_pairs) {
    const bool is_q = i < q_pairs;
    const unsigned pair = is_q ? i : i - q_pairs;
    const unsigned head = pair / half_head, j = pair % half_head;
    const float* x = (is_q ? a.q + q_row * a.head_dim : a.k + kv_row * a.head_dim) + head * a.head_dim;
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
      a.q_out[(q_row + head) * a.head_dim + at_a] = out_a;
      a.q_out[(q_row + head) * a.head_dim + at_b] = out_b;
    } else {
      T* key = static_cast<T*>(a.keys) + ((kv_slot + head) * a.capacity + position) * a.head_dim;
      key[at_a] = T(out_a);
      key[at_b] = T(out_b);
    }
  } else if (i < q_pairs + 2 * kv_pairs) {
    const unsigned pair = i - q_pairs - kv_pairs;
    const unsigned head = pair / half_head, j = 2 * (pair % half_head);
    T* value = static_cast<T*>(a.values) + ((kv_slot + head) * a.capacity + position) * a.head_dim;
    value[j] = T(a.v[(kv_row + head) * a.head_dim + j]);
    value[j + 1] = T(a.v[(kv_row + head) * a.head_dim + j + 1]);
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
  largest = simd_max(largest);
  if ((threadIdx.x & 31) == 0) atomicMax(amax, __float_as_uint(largest));
}

__global__ void __launch_bounds__(256)
    x_to_half_kernel(const float* __restrict__ x, unsigned long n, const unsigned* __restrict__ amax, float* scale,
                     uint2* __restrict__ out) {
  const float largest = __uint_as_float(*amax);
  // largest < 2^exponent. NaN and infinities stay as they are.
  const int exponent = largest > 0.0f && isfinite(largest) ? ilogbf(largest) + 1 : 0;
  const int k = exponent > 15 ? exponent - 15 : 0;
  const float factor = ldexpf(1.0f, -k);
  if (blockIdx.x == 0 && threadIdx.x == 0) *scale = ldexpf(1.0f, k);
  const unsigned long i = blockIdx.x * 256ul + threadIdx.x;
  if (i >= n / 4) return;
  const float4 v = reinterpret_cast<const float4*>(x)[i];
  out[i] = {pack_halves(v.x * factor, v.y * factor), pack_halves(v.z * factor, v.w * factor)};
}

__global__ void __launch_bounds__(256) bias_kernel(float* y, const float* __restrict__ bias, unsigned n_out) {
  const unsigned j = blockIdx.x * 256 + threadIdx.x;
  if (j < n_out) y[static_cast<size_t>(blockIdx.y) * n_out + j] += bias[j];
}

}  // namespace

cudaError_t round_row(const float* x, const float* weight, unsigned n, float eps, float* y, Rounded rounded,
                      cudaStream_t stream) {
  if (weight == nullptr) return launch_overlapping(round_kernel, (n / 4 + 255) / 256, 256, stream, x, n, rounded);
  if (n <= 1024) return launch_overlapping(norm_round_kernel<256>, 1, 256, stream, x, weight, n, eps, y, rounded);
  if (n <= 2048) return launch_overlapping(norm_round_kernel<512>, 1, 512, stream, x, weight, n, eps, y, rounded);
  return launch_overlapping(norm_round_kernel<1024>, 1, 1024, stream, x, weight, n, eps, y, rounded);
}

cudaError_t rope_write(const RopeWrite& a, cudaStream_t stream) {
  const unsigned pairs = (a.n_heads + 2 * a.n_kv_heads) * (a.head_dim / 2);
  const dim3 grid((pairs + 127) / 128, a.n_rows);
  if (a.f16) return launch_overlapping(rope_write_kernel<__half>, grid, 128, stream, a);
  return launch_overlapping(rope_write_kernel<float>, grid, 128, stream, a);
}

cudaError_t weights_to_half(unsigned format, const unsigned char* w, unsigned n_in, unsigned n_out, unsigned row_bytes,
                            void* half, cudaStream_t stream) {
  const size_t groups = static_cast<size_t>(n_in / 32) * n_out;
  const auto blocks = static_cast<unsigned>((groups + 127) / 128);
  switch (static_cast<Format>(format)) {
#define PLUMB_TO_HALF(id, type, NAME, family, writing)                                                                   \
  case Format::id:                                                                                                       \
    return launch(to_half_kernel<id##_format>, blocks, 128, stream, w, n_in, n_out, row_bytes, static_cast<__half*>(half));
    PLUMB_FORMATS(PLUMB_TO_HALF)
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
