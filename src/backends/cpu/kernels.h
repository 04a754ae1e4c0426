// The kernels of the cpu backend: a table of functions for each instruction set. One file (kernels_<isa>.cpp) makes each
// table; only this file is compiled with the set's flags. All sets have the same kernels, from the headers vector.h,
// attend.h, floats.h and quantized.h; the file replaces the parts of plain.h that its set does better. To add a set (NEON,
// AMX, AVX-VNNI): write such a file, a row in isa_list.h, and its flags in CMakeLists.txt.
//
// These files must not define functions with external linkage, nor include any. The linker keeps only one copy of an inline
// function; if it kept the copy compiled for AVX-512, the scalar path would crash on an older processor. Kernels therefore
// take plain pointers, their headers use unnamed namespaces, and from the standard library and quants/ they use only
// memcpy, memset and constants computed at compile time.
//
// Order of accumulation. Float kernels keep `lanes` partial sums (16, 8 or 4) and add them up in a fixed tree at the end.
// Quantized dot products are exact in int32: over a block of 32; or over a group of 16 or 32, where many tokens share a
// pass over the weights (dot() with n_tokens >= packs_from); in K-quants and IQ4_XS for each plane. From there on they are
// float32. Sums over blocks run in file order, in up to 16 partial sums. The contributions of a block's minima (or, in
// K-quants and IQ4_XS, of its offsets) may be summed separately, so float32 rounding is relative to the magnitudes of both
// sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cpu/isa_list.h"
#include "quants/format_list.h"

namespace plumb::backends::cpu {

// Rounded activations are integers v times a scale. They are stored in planes of int8, so that byte instructions can
// multiply them: v = q[0] with one plane (|v| <= 127), v = 128 q[0] + q[1] with two (|v| <= 127 * 128, q[1] in -64 .. 63).

// Activations for formats with blocks of 32: four blocks, interleaved. One vector has the first (or second) half of each
// block, in the order of the nibbles in a block's bytes: q[p][64 h + 16 b + i] is element 32 b + 16 h + i. Elements past
// the end of a row are zero, with scale zero.
template <int planes>
struct alignas(64) X128 {
  std::int8_t q[planes][128];
  // Minus the sum of the eight v in a 32-bit lane of the two vectors: neg_sum[4 b + j] is for elements 16 b + 4 j ..+3 and
  // 64 + 16 b + 4 j ..+3. With these sums, kernels subtract the offset of weights stored with one, exactly.
  std::int32_t neg_sum[16];
  float scale[4];       // amax / levels of each block
  float scaled_sum[4];  // scale * sum of v of each block, the factor of a block's minimum
  float unused[8];
};
static_assert(sizeof(X128<1>) == 256 && sizeof(X128<2>) == 384);

// Activations for formats with blocks of 256, in order.
template <int planes>
struct alignas(64) X256 {
  std::int8_t q[planes][256];
  std::int16_t sum16[planes][16];  // sums of sixteen consecutive q
  float scale;                     // amax / levels
};
static_assert(sizeof(X256<1>) == 320 && sizeof(X256<2>) == 640);

// The planes may have q + 128, as unsigned bytes, in place of q, for kernels with signed weights. Sums and scales are
// always those of q.
enum class Sign : std::uint8_t { plain, biased };

// The form of activations that a weight format multiplies: floats, X128 or X256.
enum class Operand : std::uint8_t { f32, x128, x256 };

// y[t * y_stride + r] = sum_i weights[r][i] * x[t][i] for rows row_begin .. row_end and all tokens.
struct Dot {
  const std::uint8_t* weights;  // row 0
  std::size_t row_bytes;
  std::size_t n_in;
  const void* x;  // as put_floats(), round_128() or round_256() makes it; token t starts x_stride bytes after token t - 1
  std::size_t x_stride;  // bytes
  std::size_t n_tokens;
  float* y;
  std::size_t y_stride;  // floats
  std::size_t row_begin;
  std::size_t row_end;
  std::uint8_t* scratch;  // KernelTable::scratch_bytes of this thread's memory, 64-aligned
};
using DotFn = void (*)(const Dot&);

// Positions in a block of the KV cache. Attention works block by block, so that its order never depends on threads.
inline constexpr std::size_t kv_block = 128;
// Head rows in the cache are padded with zeros to a multiple of this.
inline constexpr std::size_t head_multiple = 16;

// One block of keys and values against the query rows that share a KV head.
struct AttendBlock {
  const float* q;  // [n_rows][head_stride], padded with zeros, already multiplied by the attention scale
  std::size_t n_rows;
  std::size_t head_stride;
  const void* k;  // [kv_block][head_stride], float or binary16
  const void* v;
  bool f16;
  // Row r sees positions first[r] <= s < last[r] of the block.
  const std::uint32_t* first;
  const std::uint32_t* last;
  // The results over this block: the largest score, the sum of exp(score - largest), the sum of exp(score - largest) * v. A
  // row that sees no position has total 0.
  float* largest;  // [n_rows]
  float* total;    // [n_rows]
  float* context;  // [n_rows][head_stride]
  std::uint8_t* scratch;
  float soft_cap;  // 0, or scores become soft_cap * tanh(score / soft_cap)
  // Null, or -slope[r] * (distance[r] - s) is added to the scores after that: distance[r] is the row's position, counted
  // from the block's first.
  const float* slope;
  const float* distance;
};

// y = activation(gate) * (up + up_offset), as plan::Activate has it. Each y may be the gate or the up of its place.
struct Gated {
  const float* gate;
  const float* up;
  float limit;  // infinity: none
  float alpha;
  float up_offset;
  float positive, negative, beta, eps;  // plan::Xielu
};
inline constexpr std::size_t n_activations = 9;

struct KernelTable {
  const char* name;  // "AVX-512 VNNI"
  // Steps of at least this many tokens need Sign::biased activations. SIZE_MAX: none do.
  std::size_t packs_from;
  // The rows that dot() over many tokens works on together: best divide its work in multiples of this.
  std::size_t row_tile;
  std::size_t scratch_bytes;

  // The functions that depend on the number of planes; [planes - 1].
  struct Rounded {
    // Rounds n floats (a multiple of 32 or of 256) to X128 or X256. A block with an infinity or NaN gets an infinite or NaN
    // scale. A block below 1e-30 in magnitude becomes zero.
    void (*round_128)(const float* x, std::size_t n, void* out, Sign sign);
    void (*round_256)(const float* x, std::size_t n, void* out, Sign sign);
    DotFn dot[PLUMB_N_FORMATS];  // by quants::index()
  } rounded[2];
  // Lays out n floats, those of one of n_tokens tokens, as dot() with float weights reads them. `operands` are those of all
  // tokens.
  void (*put_floats)(const float* x, std::size_t n, std::size_t token, std::size_t n_tokens, float* operands);

  // `weight` may be null: all ones.
  void (*rms_norm)(const float* x, const float* weight, float eps, std::size_t n, float* y);
  void (*add)(const float* a, const float* b, std::size_t n, float* y);
  void (*gated[n_activations])(const Gated&, std::size_t n, float* y);  // by plan::Activation
  // Rotates n_rot components of one head; cos_sin holds n_rot / 2 cosines, then as many sines. The rest is copied.
  void (*rope_adjacent)(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y);
  void (*rope_halves)(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y);
  void (*to_f16)(const float* x, std::size_t n, std::uint16_t* y);
  void (*attend)(const AttendBlock&);
  // Adds a block's result to a row's running result: largest, total and context as in AttendBlock.
  void (*merge)(float largest, float total, const float* context, std::size_t head_stride, float* into_largest,
                float* into_total, float* into_context);
};

#define PLUMB_ISA(name, present) const KernelTable& name##_kernels();
PLUMB_CPU_ISAS(PLUMB_ISA)
#undef PLUMB_ISA

}  // namespace plumb::backends::cpu
