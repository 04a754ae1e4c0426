// Every tensor format, once: X(id, type, NAME, family, writing), in the order of the type ids.
//
//   id       the enumerator in quants::Format; GPU kernels have a struct id_format
//   type     GGUF's type id
//   NAME     as GGUF spells it; BlockNAME is its block
//   family   `floats` (a block is one weight), `small` (32 weights) or `super` (256)
//   writing  `written` where Plumb can write it, or `read_only`
//
// Enumerations, tables, switches and GPU kernels are made from this list. It has only preprocessor lines, so that the
// kernels of all targets can include it.
#pragma once

// The number of formats.
#define PLUMB_ONE(...) +1  // NOLINT(bugprone-macro-parentheses): a sum
#define PLUMB_N_FORMATS (PLUMB_FORMATS(PLUMB_ONE))

// clang-format off
#define PLUMB_FORMATS(X)                  \
  X(f32,     0, F32,    floats, written)  \
  X(f16,     1, F16,    floats, written)  \
  X(q4_0,    2, Q4_0,   small, written)   \
  X(q4_1,    3, Q4_1,   small, written)   \
  X(q5_0,    6, Q5_0,   small, written)   \
  X(q5_1,    7, Q5_1,   small, written)   \
  X(q8_0,    8, Q8_0,   small, written)   \
  X(q2_k,   10, Q2_K,   super, read_only) \
  X(q3_k,   11, Q3_K,   super, read_only) \
  X(q4_k,   12, Q4_K,   super, written)   \
  X(q5_k,   13, Q5_K,   super, written)   \
  X(q6_k,   14, Q6_K,   super, written)   \
  X(iq4_nl, 20, IQ4_NL, small, read_only) \
  X(iq4_xs, 23, IQ4_XS, super, read_only) \
  X(bf16,   30, BF16,   floats, written)  \
  X(tq2_0,  35, TQ2_0,  super, read_only) \
  X(mxfp4,  39, MXFP4,  small, read_only)
// clang-format on
