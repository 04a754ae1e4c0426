// The kernels for any processor: what the compiler makes of plain loops on its baseline.
#define PLUMB_LANES 4
#include "backends/cpu/portable.h"
#include "backends/cpu/vector.h"

namespace plumb::backends::cpu {
namespace {

PLUMB_INLINE Vf load_f16(const std::uint16_t* p) {
  // Exponent and mantissa moved into place and scaled by 2^112, which also makes subnormals right; what was infinite or NaN
  // has its exponent set.
  typedef std::uint16_t Vh __attribute__((vector_size(8)));
  Vh h;
  memcpy(&h, p, sizeof h);
  const Vu wide = __builtin_convertvector(h, Vu);
  const Vu magnitude = (wide & 0x7fffu) << 13;
  Vu value = as_bits(as_float(magnitude) * splat(0x1p112f));
  value = magnitude >= (0x7c00u << 13) ? value | 0x7f800000u : value;
  return as_float(value | ((wide & 0x8000u) << 16));
}

PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
  std::uint32_t bits[lanes];
  memcpy(bits, &v, sizeof bits);
  for (std::size_t i = 0; i < lanes; ++i) {
    const std::uint32_t sign = (bits[i] >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits[i] & 0x7fffffffu;
    std::uint32_t half_bits;
    if (magnitude > 0x7f800000u) {
      half_bits = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {
      half_bits = 0x7c00u;
    } else if (magnitude < 0x38800000u) {
      // Subnormal or zero: adding 0.5 aligns the mantissa so that the addition rounds at 2^-24.
      const float aligned = bits_as_float(magnitude) + 0.5f;
      std::uint32_t aligned_bits;
      memcpy(&aligned_bits, &aligned, sizeof aligned_bits);
      half_bits = aligned_bits - 0x3f000000u;
    } else {
      half_bits = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    }
    p[i] = static_cast<std::uint16_t>(sign | half_bits);
  }
}

template <int planes>
PLUMB_INLINE void fill_sums(X128<planes>& group) {
  portable_sums(group);
}
template <int planes>
PLUMB_INLINE void fill_sums(X256<planes>& block) {
  portable_sums(block);
}

template <int planes>
constexpr KernelTable::Rounded rounded = {
    .round_128 = round_128<planes>,
    .round_256 = round_256<planes>,
    .dot = {dot_float<WeightF32>, dot_float<WeightF16>, dot_float<WeightBF16>, portable_dot_128<Q4_0, planes>,
            portable_dot_128<Q4_1, planes>, portable_dot_128<Q5_0, planes>, portable_dot_128<Q5_1, planes>,
            portable_dot_128<Q8_0, planes>, portable_dot_128<IQ4_NL, planes>, portable_dot_128<MXFP4, planes>,
            portable_dot_256<Q2_K, planes>, portable_dot_256<Q3_K, planes>, portable_dot_256<Q4_K, planes>,
            portable_dot_256<Q5_K, planes>, portable_dot_256<Q6_K, planes>, portable_dot_256<IQ4_XS, planes>},
};

constexpr KernelTable table = {
    .name = "scalar",
    .packs_from = SIZE_MAX,
    .row_tile = 4,
    .scratch_bytes = float_chunk * lanes * sizeof(float),
    .rounded = {rounded<1>, rounded<2>},
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

const KernelTable& scalar_kernels() { return table; }

}  // namespace plumb::backends::cpu
