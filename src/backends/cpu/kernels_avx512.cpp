// AVX-512 (F, BW, VL, DQ) with VNNI.
#define PLUMB_TABLE avx512_kernels
#define PLUMB_LANES 16
#if defined(__GNUC__) && !defined(__clang__)
// GCC's intrinsics start from uninitialized vectors, and GCC 12 warns about them.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "backends/cpu/x86.h"

namespace plumb::backends::cpu {
namespace {

struct Set : X86<Set> {
  static constexpr const char* name = "AVX-512 VNNI";

  PLUMB_INLINE Vf load_f16(const std::uint16_t* p) { return _mm512_cvtph_ps(load256(p)); }
  PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  PLUMB_INLINE float sum(Vf v) { return _mm512_reduce_add_ps(v); }

  template <std::size_t stride>
  PLUMB_INLINE Wide pieces(const std::uint8_t* p) {
    const __m512i low = _mm512_castsi256_si512(pair_of(p, p + stride));
    return {as<Vb>(_mm512_inserti64x4(low, pair_of(p + 2 * stride, p + 3 * stride), 1))};
  }
  // A rotation replaces shifts in both directions: the mask removes the bits that crossed a border.
  PLUMB_INLINE Wide bits(const std::uint8_t* p, int low, int high, std::uint8_t mask) {
    const __m512i places = _mm512_inserti64x4(_mm512_set1_epi32(low & 31), _mm256_set1_epi32(high & 31), 1);
    return {as<Vb>(_mm512_rorv_epi32(_mm512_broadcast_i64x4(load256(p)), places)) & splat_byte(mask)};
  }
  PLUMB_INLINE Wide nibble_pairs(const std::uint8_t* p) {
    const __m512i qs = _mm512_castsi256_si512(load256(p));
    const __m512i places = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    return {as<Vb>(_mm512_srlv_epi32(_mm512_shuffle_i64x2(qs, qs, 0x50), places)) & splat_byte(0x0f)};
  }
  PLUMB_INLINE Vb where(std::uint64_t bits, std::uint8_t value) {
    return as<Vb>(_mm512_maskz_mov_epi8(bits, as<__m512i>(splat_byte(value))));
  }
  PLUMB_INLINE Vb look_up(const std::uint8_t* table, Vb index) {
    return as<Vb>(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(load128(table)), as<__m512i>(index)));
  }

  PLUMB_INLINE Vi dot(Vi total, Vb u, Vb s) {
    return as<Vi>(_mm512_dpbusd_epi32(as<__m512i>(total), as<__m512i>(u), as<__m512i>(s)));
  }
  PLUMB_INLINE Vi dot16(Vi total, Vs a, Vs b) {
    return as<Vi>(_mm512_dpwssd_epi32(as<__m512i>(total), as<__m512i>(a), as<__m512i>(b)));
  }
  template <bool offset_128>
  PLUMB_INLINE Vi dot_scaled(Vi total, Vb w, const std::int8_t* x, S16 scales, std::size_t part) {
    // Scale 4 part + lane / 4, for both pairs of a lane.
    const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002, 0x20002,
                                            0x20002, 0x30003, 0x30003, 0x30003, 0x30003);
    const __m512i place = _mm512_add_epi16(first, _mm512_set1_epi16(static_cast<std::int16_t>(4 * part)));
    const __m512i scale = _mm512_permutexvar_epi16(place, _mm512_castsi256_si512(as<__m256i>(scales)));
    // Products with weights above 127 do not fit pairwise sums of 16 bits.
    if constexpr (offset_128) return total + dot(Vi{}, w, read<Vb>(x)) * as<Vi>(_mm512_srai_epi32(scale, 16));
    const __m512i pairs = _mm512_maddubs_epi16(as<__m512i>(w), _mm512_loadu_si512(x));
    return dot16(total, as<Vs>(pairs), as<Vs>(scale));
  }
  PLUMB_INLINE Vi dot_sixteens(S16 a, S16 b) {
    return as<Vi>(_mm512_zextsi256_si512(_mm256_madd_epi16(as<__m256i>(a), as<__m256i>(b))));
  }
  PLUMB_INLINE Vf spread(F4 of_blocks, std::size_t) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                                 _mm512_castps128_ps512(of_blocks));
  }
  PLUMB_INLINE void turn(Vu v[16]) {
    __m512i a[16];
    __m512i b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      a[2 * i] = _mm512_unpacklo_epi32(as<__m512i>(v[2 * i]), as<__m512i>(v[2 * i + 1]));
      a[2 * i + 1] = _mm512_unpackhi_epi32(as<__m512i>(v[2 * i]), as<__m512i>(v[2 * i + 1]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
      b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // b[4i + c] now holds columns c, 4 + c, 8 + c, 12 + c of rows 4i .. 4i + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i low01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x44);
      const __m512i high01 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xee);
      const __m512i low23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x44);
      const __m512i high23 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xee);
      v[c] = as<Vu>(_mm512_shuffle_i32x4(low01, low23, 0x88));
      v[4 + c] = as<Vu>(_mm512_shuffle_i32x4(low01, low23, 0xdd));
      v[8 + c] = as<Vu>(_mm512_shuffle_i32x4(high01, high23, 0x88));
      v[12 + c] = as<Vu>(_mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
  }
};

}  // namespace
}  // namespace plumb::backends::cpu

#include "backends/cpu/table.h"
