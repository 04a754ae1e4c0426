// The common part of AVX2 (with F16C) and AVX-512.
#pragma once

#include <immintrin.h>

#include "backends/cpu/plain.h"

namespace plumb::backends::cpu {
namespace {

PLUMB_INLINE __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
PLUMB_INLINE __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
PLUMB_INLINE __m256i pair_of(const std::uint8_t* low, const std::uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(low)), load128(high), 1);
}

PLUMB_INLINE float sum_of(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
PLUMB_INLINE float sum_of(__m256 v) { return sum_of(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }

template <class S>
struct X86 : Plain<S> {
  PLUMB_INLINE S16 wider(B16 v) { return as<S16>(_mm256_cvtepu8_epi16(as<__m128i>(v))); }
  PLUMB_INLINE S16 wider(C16 v) { return as<S16>(_mm256_cvtepi8_epi16(as<__m128i>(v))); }
  PLUMB_INLINE float half(const std::uint8_t* p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(read<std::uint16_t>(p))));
  }
  template <std::size_t stride>
  PLUMB_INLINE F4 halves(const std::uint8_t* p) {
    __m128i h = _mm_cvtsi32_si128(read<std::uint16_t>(p));
    h = _mm_insert_epi16(h, read<std::uint16_t>(p + stride), 1);
    h = _mm_insert_epi16(h, read<std::uint16_t>(p + 2 * stride), 2);
    h = _mm_insert_epi16(h, read<std::uint16_t>(p + 3 * stride), 3);
    return _mm_cvtph_ps(h);
  }
  template <std::size_t stride>
  PLUMB_INLINE void half_pairs(const std::uint8_t* p, F4& first, F4& second) {
    __m128i h = _mm_cvtsi32_si128(read<int>(p));
    h = _mm_insert_epi32(h, read<int>(p + stride), 1);
    h = _mm_insert_epi32(h, read<int>(p + 2 * stride), 2);
    h = _mm_insert_epi32(h, read<int>(p + 3 * stride), 3);
    h = _mm_shuffle_epi8(h, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m256 both = _mm256_cvtph_ps(h);
    first = _mm256_castps256_ps128(both);
    second = _mm256_extractf128_ps(both, 1);
  }
};

}  // namespace
}  // namespace plumb::backends::cpu
