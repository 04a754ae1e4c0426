// AVX2 with FMA and F16C.
#define PLUMB_TABLE avx2_kernels
#define PLUMB_LANES 8
#include "backends/cpu/x86.h"

namespace plumb::backends::cpu {
namespace {

struct Set : X86<Set> {
  static constexpr const char* name = "AVX2";
  static constexpr bool signed_weights = true;
  static constexpr std::size_t packs_from = SIZE_MAX;  // dot() takes only small unsigned bytes

  PLUMB_INLINE Vf load_f16(const std::uint16_t* p) { return _mm256_cvtph_ps(load128(p)); }
  PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  PLUMB_INLINE float sum(Vf v) { return sum_of(v); }

  template <std::size_t stride>
  PLUMB_INLINE Wide pieces(const std::uint8_t* p) {
    return {as<Vb>(pair_of(p, p + stride)), as<Vb>(pair_of(p + 2 * stride, p + 3 * stride))};
  }
  PLUMB_INLINE Wide nibble_pairs(const std::uint8_t* p) {
    const auto pair = [](__m128i v) __attribute__((always_inline)) {
      const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
      return as<Vb>(_mm256_and_si256(both, _mm256_set1_epi8(0x0f)));
    };
    return {pair(load128(p)), pair(load128(p + 16))};
  }
  PLUMB_INLINE Vb where(std::uint64_t bits, std::uint8_t value) {
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
    return as<Vb>(set) & splat_byte(value);
  }
  PLUMB_INLINE Vb look_up(const std::uint8_t* table, Vb index) {
    return as<Vb>(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load128(table)), as<__m256i>(index)));
  }

  // Products of unsigned bytes below 64 and signed ones, summed in pairs: at most 2 * 63 * 127.
  PLUMB_INLINE __m256i pairs_unsigned(Vb u, Vb s) { return _mm256_maddubs_epi16(as<__m256i>(u), as<__m256i>(s)); }
  // The same for signed weights, as magnitude and sign: at most 2 * 128 * 127.
  PLUMB_INLINE __m256i pairs_signed(Vb w, Vb s) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(as<__m256i>(w)), _mm256_sign_epi8(as<__m256i>(s), as<__m256i>(w)));
  }
  PLUMB_INLINE Vi fours(__m256i pairs) { return as<Vi>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))); }
  PLUMB_INLINE Vi dot(Vi total, Vb u, Vb s) { return total + fours(pairs_unsigned(u, s)); }
  template <bool offset_128>
  PLUMB_INLINE Vi dot_halves(Vi total, Vb low, Vb high, const std::int8_t* x_low, const std::int8_t* x_high) {
    const Vb a = read<Vb>(x_low);
    const Vb b = read<Vb>(x_high);
    if constexpr (offset_128) return total + fours(pairs_signed(low, a)) + fours(pairs_signed(high, b));
    return total + fours(_mm256_add_epi16(pairs_unsigned(low, a), pairs_unsigned(high, b)));
  }
  template <bool offset_128>
  PLUMB_INLINE Vi dot_scaled(Vi total, Vb w, const std::int8_t* x, S16 scales, std::size_t part) {
    const __m256i pairs = offset_128 ? pairs_signed(w, read<Vb>(x)) : pairs_unsigned(w, read<Vb>(x));
    // Scales 2 part and 2 part + 1, for eight pairs each.
    const auto all = as<__m256i>(scales);
    const __m256i half = part < 4 ? _mm256_permute4x64_epi64(all, 0x44) : _mm256_permute4x64_epi64(all, 0xee);
    const int first = 0x0100 + 0x0404 * static_cast<int>(part % 4);
    const __m256i place =
        _mm256_set_m128i(_mm_set1_epi16(static_cast<short>(first + 0x0202)), _mm_set1_epi16(static_cast<short>(first)));
    return total + as<Vi>(_mm256_madd_epi16(pairs, _mm256_shuffle_epi8(half, place)));
  }
  PLUMB_INLINE Vi dot_sixteens(S16 a, S16 b) { return as<Vi>(_mm256_madd_epi16(as<__m256i>(a), as<__m256i>(b))); }
  PLUMB_INLINE Vf spread(F4 of_blocks, std::size_t part) {
    const int b = 2 * static_cast<int>(part);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(of_blocks),
                                    _mm256_setr_epi32(b, b, b, b, b + 1, b + 1, b + 1, b + 1));
  }
  PLUMB_INLINE void turn(Vu v[8]) {
    __m256i a[8];
    __m256i b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm256_unpacklo_epi32(as<__m256i>(v[2 * i]), as<__m256i>(v[2 * i + 1]));
      a[2 * i + 1] = _mm256_unpackhi_epi32(as<__m256i>(v[2 * i]), as<__m256i>(v[2 * i + 1]));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
      b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // b[4i + c] now holds columns c and 4 + c of rows 4i .. 4i + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      v[c] = as<Vu>(_mm256_permute2x128_si256(b[c], b[4 + c], 0x20));
      v[4 + c] = as<Vu>(_mm256_permute2x128_si256(b[c], b[4 + c], 0x31));
    }
  }
};

}  // namespace
}  // namespace plumb::backends::cpu

#include "backends/cpu/table.h"
