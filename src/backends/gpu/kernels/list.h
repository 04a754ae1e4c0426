// Every kernel of the dialect: X(signature, name, threads a threadgroup). The host's table, the CUDA and Metal devices and
// the checker are all made from this list.
#pragma once

// The formats that kernels read, with quants::Format's enumerators.
#define PLUMB_KERNEL_FORMATS(X) \
  X(f32)                        \
  X(f16)                        \
  X(bf16) X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k) X(iq4_nl) X(iq4_xs) X(mxfp4)

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

#define PLUMB_KERNEL_LIST(X)                                        \
  PLUMB_FORMAT_KERNELS(X, f32)                                      \
  PLUMB_FORMAT_KERNELS(X, f16)                                      \
  PLUMB_FORMAT_KERNELS(X, bf16)                                     \
  PLUMB_FORMAT_KERNELS(X, q4_0)                                     \
  PLUMB_FORMAT_KERNELS(X, q4_1)                                     \
  PLUMB_FORMAT_KERNELS(X, q5_0)                                     \
  PLUMB_FORMAT_KERNELS(X, q5_1)                                     \
  PLUMB_FORMAT_KERNELS(X, q8_0)                                     \
  PLUMB_FORMAT_KERNELS(X, q2_k)                                     \
  PLUMB_FORMAT_KERNELS(X, q3_k)                                     \
  PLUMB_FORMAT_KERNELS(X, q4_k)                                     \
  PLUMB_FORMAT_KERNELS(X, q5_k)                                     \
  PLUMB_FORMAT_KERNELS(X, q6_k)                                     \
  PLUMB_FORMAT_KERNELS(X, iq4_nl)                                   \
  PLUMB_FORMAT_KERNELS(X, iq4_xs)                                   \
  PLUMB_FORMAT_KERNELS(X, mxfp4)                                    \
  X(rms_norm, rms_norm, PLUMB_REDUCE_THREADS)                       \
  X(rope, rope, PLUMB_FLAT_THREADS)                                 \
  X(kv_write_f16, kv_write_f16, PLUMB_FLAT_THREADS)                 \
  X(kv_write_f32, kv_write_f32, PLUMB_FLAT_THREADS)                 \
  X(attention_f16, attention_f16, PLUMB_ATTENTION_THREADS)          \
  X(attention_f32, attention_f32, PLUMB_ATTENTION_THREADS)          \
  X(attention_merge, attention_merge, PLUMB_FLAT_THREADS)           \
  X(attention_probs_f16, attention_probs_f16, PLUMB_REDUCE_THREADS) \
  X(attention_probs_f32, attention_probs_f32, PLUMB_REDUCE_THREADS) \
  X(gated, gated, PLUMB_FLAT_THREADS)                               \
  X(add, add, PLUMB_FLAT_THREADS)                                   \
  X(argmax, argmax, PLUMB_REDUCE_THREADS)                           \
  X(soft_cap, soft_cap, PLUMB_FLAT_THREADS)                         \
  X(top_k, top_k, PLUMB_REDUCE_THREADS)                             \
  X(expert_weights, expert_weights, PLUMB_SIMD_THREADS)             \
  X(expert_sum, expert_sum, PLUMB_FLAT_THREADS)
