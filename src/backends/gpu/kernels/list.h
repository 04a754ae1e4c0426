// Every kernel of the dialect. The host's table, the CUDA and Metal devices and the checker are made from this list. To use
// it, define PLUMB_KERNEL(signature, name, threads in a threadgroup) and expand PLUMB_KERNEL_LIST.
#pragma once

#include "quants/format_list.h"

// For the kinds of arguments that a use of a signature (interface.h) leaves out.
#define PLUMB_NOTHING(...)

#define PLUMB_EMBED_THREADS 64
#define PLUMB_REDUCE_THREADS 256
#define PLUMB_LINEAR_VEC_THREADS 128
#define PLUMB_LINEAR_MAT_THREADS 128
#define PLUMB_ATTENTION_THREADS 128
#define PLUMB_FLAT_THREADS 128
#define PLUMB_SIMD_THREADS 32

// The kernels that exist once for each format.
#define PLUMB_FORMAT_KERNELS(X, format)                        \
  X(embed, embed_##format, PLUMB_EMBED_THREADS)                \
  X(linear_vec, linear_vec_##format, PLUMB_LINEAR_VEC_THREADS) \
  X(linear_mat, linear_mat_##format, PLUMB_LINEAR_MAT_THREADS)

// The other kernels; most are named like their signatures.
#define PLUMB_SINGLE_KERNELS(X)                                     \
  X(normalize, normalize, PLUMB_REDUCE_THREADS)                     \
  X(rope, rope, PLUMB_FLAT_THREADS)                                 \
  X(kv_write_f16, kv_write_f16, PLUMB_FLAT_THREADS)                 \
  X(kv_write_f32, kv_write_f32, PLUMB_FLAT_THREADS)                 \
  X(attention_f16, attention_f16, PLUMB_ATTENTION_THREADS)          \
  X(attention_f32, attention_f32, PLUMB_ATTENTION_THREADS)          \
  X(attention_merge, attention_merge, PLUMB_FLAT_THREADS)           \
  X(attention_probs_f16, attention_probs_f16, PLUMB_REDUCE_THREADS) \
  X(attention_probs_f32, attention_probs_f32, PLUMB_REDUCE_THREADS) \
  X(activated, activated, PLUMB_FLAT_THREADS)                       \
  X(add, add, PLUMB_FLAT_THREADS)                                   \
  X(scale, scale, PLUMB_FLAT_THREADS)                               \
  X(soft_cap, soft_cap, PLUMB_FLAT_THREADS)                         \
  X(top_k, top_k, PLUMB_REDUCE_THREADS)                             \
  X(expert_weights, expert_weights, PLUMB_SIMD_THREADS)             \
  X(expert_sum, expert_sum, PLUMB_FLAT_THREADS)

#define PLUMB_KERNELS_OF(id, type, NAME, family, writing) PLUMB_FORMAT_KERNELS(PLUMB_KERNEL, id)
#define PLUMB_KERNEL_LIST         \
  PLUMB_FORMATS(PLUMB_KERNELS_OF) \
  PLUMB_SINGLE_KERNELS(PLUMB_KERNEL)
