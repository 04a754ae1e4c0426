// AVX-512 (F, BW, VL, DQ) with VNNI.
#define PLUMB_LANES 16
#include <immintrin.h>

#include "backends/cpu/portable.h"
#include "backends/cpu/vector.h"

namespace plumb::backends::cpu {
namespace {

PLUMB_INLINE Vf load_f16(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

PLUMB_INLINE void fill_sums(Q8x128& group) { portable_sums(group); }
PLUMB_INLINE void fill_sums(Q8x256& block) { portable_sums(block); }

constexpr KernelTable table = {
    .name = "AVX-512 VNNI",
    .dot = {dot_float<WeightF32>, dot_float<WeightF16>, dot_float<WeightBF16>, portable_dot_128<Q4_0>,
            portable_dot_128<Q4_1>, portable_dot_128<Q5_0>, portable_dot_128<Q5_1>, portable_dot_128<Q8_0>,
            portable_dot_128<IQ4_NL>, portable_dot_128<MXFP4>, portable_dot_256<Q2_K>, portable_dot_256<Q3_K>,
            portable_dot_256<Q4_K>, portable_dot_256<Q5_K>, portable_dot_256<Q6_K>, portable_dot_256<IQ4_XS>},
    .packs_from = SIZE_MAX,
    .row_tile = 16,
    .scratch_bytes = float_chunk * lanes * sizeof(float),
    .quantize_128 = quantize_128,
    .quantize_256 = quantize_256,
    .rms_norm = rms_norm,
    .add = add,
    .gated = {gated<Silu>, gated<GeluTanh>, gated<GeluErf>, gated<Relu>},
    .rope_adjacent = rope_adjacent,
    .rope_halves = rope_halves,
    .to_f16 = to_f16,
    .attend = attend,
    .merge = merge,
};

}  // namespace

const KernelTable& avx512_kernels() { return table; }

}  // namespace plumb::backends::cpu
