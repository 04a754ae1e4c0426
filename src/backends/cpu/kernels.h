// The kernels of the cpu backend: one table of functions an instruction set, each table made in one file
// (kernels_<isa>.cpp) that alone is compiled with that set's flags. All have the same kernels, which headers of this folder
// hold (vector.h, attend.h, floats.h, quantized.h); the file says what its set does better than plain.h. To add a set
// (NEON, AMX, AVX-VNNI): write that file, a row in isa_list.h, and its flags in CMakeLists.txt.
//
// What those files include must not leave functions with external linkage behind: the linker keeps one copy of an inline
// function, and if it were the one compiled for AVX-512, the scalar path would die of it on an older processor. So kernels
// take plain pointers, their headers live in unnamed namespaces, and of the standard library and of quants/ they use only
// memcpy, memset and what is computed while compiling.
//
// Order of accumulation. Float kernels keep `lanes` partial sums (16, 8 or 4) and add them up in a fixed tree at the end.
// Quantized dot products are exact in int32 over a block (32-blocks) or over a group of 16 or 32 (when many tokens share a
// pass over the weights: dot() with n_tokens >= packs_from), in K-quants and IQ4_XS for each plane, and float32 from there
// on; sums over blocks run in file order in up to 16 partial sums. What the minima (or, in K-quants and IQ4_XS, the
// offsets) of a block contribute may be summed apart from the rest, so float32 rounding is relative to the magnitudes of
// both.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cpu/isa_list.h"
#include "quants/format_list.h"

namespace plumb::backends::cpu {

// Rounded activations are integers v times a scale, held in planes of int8 so that the instructions for bytes multiply
// them: v = q[0] with one plane (|v| <= 127), v = 128 q[0] + q[1] with two (|v| <= 127 * 128, q[1] in -64 .. 63).

// Activations of formats with blocks of 32: four blocks, interleaved so that one vector holds the first (or second) half of
// each block as the nibbles of a block's bytes do: q[p][64 h + 16 b + i] is of element 32 b + 16 h + i. Elements past the
// end of a row are zero with scale zero.
template <int planes>
struct alignas(64) X128 {
  std::int8_t q[planes][128];
  // Minus the sums of the eight v that a 32-bit lane of the two vectors holds: neg_sum[4 b + j] covers
  // 16 b + 4 j ..+3 and 64 + 16 b + 4 j ..+3. Weights that are stored with an offset take it out with these, exactly.
  std::int32_t neg_sum[16];
  float scale[4];       // amax / levels of each block
  float scaled_sum[4];  // scale * sum of v of each block: what a block's minimum is multiplied by
  float unused[8];
};
static_assert(sizeof(X128<1>) == 256 && sizeof(X128<2>) == 384);

// Activations of formats with blocks of 256, in order.
template <int planes>
struct alignas(64) X256 {
  std::int8_t q[planes][256];
  std::int16_t sum16[planes][16];  // sums of sixteen consecutive q
  float scale;                     // amax / levels
};
static_assert(sizeof(X256<1>) == 320 && sizeof(X256<2>) == 640);

// The planes may carry q + 128 (as unsigned bytes) in place of q: kernels that hold the weights signed ask for it. Sums and
// scales are those of q either way.
enum class Sign : std::uint8_t { plain, biased };

// What a weight format multiplies with: floats, X128 or X256.
enum class Operand : std::uint8_t { f32, x128, x256 };

// y[t * y_stride + r] = sum_i weights[r][i] * x[t][i] for rows row_begin .. row_end and all tokens.
struct Dot {
  const std::uint8_t* weights;  // row 0
  std::size_t row_bytes;
  std::size_t n_in;
  const void* x;         // float, X128 or X256; token t starts x_stride bytes after token t - 1
  std::size_t x_stride;  // bytes
  std::size_t n_tokens;
  float* y;
  std::size_t y_stride;  // floats
  std::size_t row_begin;
  std::size_t row_end;
  std::uint8_t* scratch;  // KernelTable::scratch_bytes, 64-aligned, this thread's own
};
using DotFn = void (*)(const Dot&);

// Positions of a block of the KV cache. Attention works block by block, so that the split never depends on threads.
inline constexpr std::size_t kv_block = 128;
// Head rows in the cache are padded with zeros to whole multiples of this.
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
  // Results of this block alone: largest score, sum of exp(score - largest), sum of exp(score - largest) * v. A row that
  // sees no position has total 0.
  float* largest;  // [n_rows]
  float* total;    // [n_rows]
  float* context;  // [n_rows][head_stride]
  std::uint8_t* scratch;
  float soft_cap;  // 0, or scores become soft_cap * tanh(score / soft_cap)
};

enum class ActivationKind : std::uint8_t { silu, gelu_tanh, gelu_erf, relu };

#define PLUMB_FORMAT(...) +1
inline constexpr std::size_t n_formats = PLUMB_FORMATS(PLUMB_FORMAT);
#undef PLUMB_FORMAT

struct KernelTable {
  const char* name;  // "AVX-512 VNNI"
  // Steps of at least so many tokens want their quantized activations biased. SIZE_MAX: never.
  std::size_t packs_from;
  // Rows that a dot() over many tokens works on together: the unit in which it is best divided.
  std::size_t row_tile;
  std::size_t scratch_bytes;

  // What depends on the planes of the activations; [planes - 1].
  struct Rounded {
    // Rounds n floats (a multiple of 32, of 256) to X128 or X256. A block with an infinity or a NaN gets a scale that is
    // one; a block below 1e-30 in magnitude becomes zero.
    void (*round_128)(const float* x, std::size_t n, void* out, Sign sign);
    void (*round_256)(const float* x, std::size_t n, void* out, Sign sign);
    DotFn dot[n_formats];  // by quants::index()
  } rounded[2];

  void (*rms_norm)(const float* x, const float* weight, float eps, std::size_t n, float* y);
  void (*add)(const float* a, const float* b, std::size_t n, float* y);
  void (*gated[4])(const float* gate, const float* up, std::size_t n, float* y);  // by ActivationKind
  // Rotates n_rot components of one head; cos_sin holds n_rot / 2 cosines, then as many sines. The rest is copied.
  void (*rope_adjacent)(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y);
  void (*rope_halves)(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y);
  void (*to_f16)(const float* x, std::size_t n, std::uint16_t* y);
  void (*attend)(const AttendBlock&);
  // Folds a block's result into the running one of a row: largest, total and context as in AttendBlock.
  void (*merge)(float largest, float total, const float* context, std::size_t head_stride, float* into_largest,
                float* into_total, float* into_context);
};

#define PLUMB_ISA(name, present) const KernelTable& name##_kernels();
PLUMB_CPU_ISAS(PLUMB_ISA)
#undef PLUMB_ISA

}  // namespace plumb::backends::cpu
