// AVX-512 (F, BW, VL, DQ) with VNNI.
#define PLUMB_LANES 16
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own intrinsics start from uninitialized vectors, and GCC 12 warns of it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
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

PLUMB_INLINE __m128i load128(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
PLUMB_INLINE __m256i load256(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
PLUMB_INLINE __m512i load512(const void* p) { return _mm512_loadu_si512(p); }

template <int planes>
PLUMB_INLINE void fill_sums(X128<planes>& group) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int p = 0; p < planes; ++p) {
    total = _mm512_dpbusd_epi32(_mm512_slli_epi32(total, 7), ones, load512(group.q[p]));
    total = _mm512_dpbusd_epi32(total, ones, load512(group.q[p] + 64));
  }
  _mm512_store_si512(group.neg_sum, _mm512_sub_epi32(_mm512_setzero_si512(), total));
}

template <int planes>
PLUMB_INLINE void fill_sums(X256<planes>& block) {
  portable_sums(block);
}

// Formats with blocks of 32. Four blocks as two vectors of unsigned bytes in the order of X128, and their scales.

struct Group {
  __m512i low, high;
  __m128 d, m;
};

// Sixteen bytes of each of four blocks.
template <std::size_t stride>
PLUMB_INLINE __m512i four(const std::uint8_t* p) {
  const __m256i a = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p)), load128(p + stride), 1);
  const __m256i b = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p + 2 * stride)), load128(p + 3 * stride), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}
// The binary16 at p of each of four blocks.
template <std::size_t stride>
PLUMB_INLINE __m128 four_halves(const std::uint8_t* p) {
  __m128i h = _mm_cvtsi32_si128(read16(p));
  h = _mm_insert_epi16(h, read16(p + stride), 1);
  h = _mm_insert_epi16(h, read16(p + 2 * stride), 2);
  h = _mm_insert_epi16(h, read16(p + 3 * stride), 3);
  return _mm_cvtph_ps(h);
}
// The two neighbouring binary16 at p of each of four blocks: d and m.
template <std::size_t stride>
PLUMB_INLINE void four_pairs(const std::uint8_t* p, Group& group) {
  __m128i h = _mm_cvtsi32_si128(static_cast<int>(read32(p)));
  h = _mm_insert_epi32(h, static_cast<int>(read32(p + stride)), 1);
  h = _mm_insert_epi32(h, static_cast<int>(read32(p + 2 * stride)), 2);
  h = _mm_insert_epi32(h, static_cast<int>(read32(p + 3 * stride)), 3);
  h = _mm_shuffle_epi8(h, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  const __m256 both = _mm256_cvtph_ps(h);
  group.d = _mm256_castps256_ps128(both);
  group.m = _mm256_extractf128_ps(both, 1);
}
PLUMB_INLINE void split_nibbles(__m512i qs, Group& group) {
  const __m512i mask = _mm512_set1_epi8(0x0f);
  group.low = _mm512_and_si512(qs, mask);
  group.high = _mm512_and_si512(_mm512_srli_epi16(qs, 4), mask);
}
// Sets bit 4 of each weight whose bit is set in the four words: block b's bits 0..15 are its low half's.
template <std::size_t stride>
PLUMB_INLINE void add_fifth_bits(const std::uint8_t* p, Group& group) {
  const std::uint64_t b0 = read32(p);
  const std::uint64_t b1 = read32(p + stride);
  const std::uint64_t b2 = read32(p + 2 * stride);
  const std::uint64_t b3 = read32(p + 3 * stride);
  const std::uint64_t low = (b0 & 0xffff) | ((b1 & 0xffff) << 16) | ((b2 & 0xffff) << 32) | (b3 << 48);
  const std::uint64_t high = (b0 >> 16) | (b1 & 0xffff0000u) | ((b2 >> 16) << 32) | ((b3 >> 16) << 48);
  const __m512i bit = _mm512_set1_epi8(0x10);
  group.low = _mm512_or_si512(group.low, _mm512_maskz_mov_epi8(low, bit));
  group.high = _mm512_or_si512(group.high, _mm512_maskz_mov_epi8(high, bit));
}
PLUMB_INLINE void look_up(const std::uint8_t* levels, Group& group) {
  const __m512i table = _mm512_broadcast_i32x4(load128(levels));
  group.low = _mm512_shuffle_epi8(table, group.low);
  group.high = _mm512_shuffle_epi8(table, group.high);
}

PLUMB_INLINE void load_group(Q4_0, const std::uint8_t* p, Group& group) {
  split_nibbles(four<Q4_0::bytes>(p + 2), group);
  group.d = four_halves<Q4_0::bytes>(p);
}
PLUMB_INLINE void load_group(Q4_1, const std::uint8_t* p, Group& group) {
  split_nibbles(four<Q4_1::bytes>(p + 4), group);
  four_pairs<Q4_1::bytes>(p, group);
}
PLUMB_INLINE void load_group(Q5_0, const std::uint8_t* p, Group& group) {
  split_nibbles(four<Q5_0::bytes>(p + 6), group);
  add_fifth_bits<Q5_0::bytes>(p + 2, group);
  group.d = four_halves<Q5_0::bytes>(p);
}
PLUMB_INLINE void load_group(Q5_1, const std::uint8_t* p, Group& group) {
  split_nibbles(four<Q5_1::bytes>(p + 8), group);
  add_fifth_bits<Q5_1::bytes>(p + 4, group);
  four_pairs<Q5_1::bytes>(p, group);
}
PLUMB_INLINE void load_group(Q8_0, const std::uint8_t* p, Group& group) {
  const __m512i offset = _mm512_set1_epi8(-128);
  group.low = _mm512_xor_si512(four<Q8_0::bytes>(p + 2), offset);
  group.high = _mm512_xor_si512(four<Q8_0::bytes>(p + 18), offset);
  group.d = four_halves<Q8_0::bytes>(p);
}
PLUMB_INLINE void load_group(IQ4_NL, const std::uint8_t* p, Group& group) {
  split_nibbles(four<IQ4_NL::bytes>(p + 2), group);
  look_up(iq4_levels_128, group);
  group.d = four_halves<IQ4_NL::bytes>(p);
}
PLUMB_INLINE void load_group(MXFP4, const std::uint8_t* p, Group& group) {
  split_nibbles(four<MXFP4::bytes>(p + 1), group);
  look_up(mxfp4_levels_16, group);
  group.d = _mm_setr_ps(e8m0_half(p[0]), e8m0_half(p[MXFP4::bytes]), e8m0_half(p[2 * MXFP4::bytes]),
                        e8m0_half(p[3 * MXFP4::bytes]));
}

// The blocks after the last whole group of four, with zeros behind them (whose activations are zero too).
template <class Format>
struct Tail {
  std::uint8_t bytes[4 * Format::bytes] = {};
  PLUMB_INLINE void fill(Tail& tail, const std::uint8_t* p, std::size_t n_blocks) {
    memcpy(tail.bytes, p, n_blocks * Format::bytes);
  }
};

template <class Format, int planes>
PLUMB_INLINE void add_group(const Group& w, const X128<planes>& x, __m512& sums, __m128& mins) {
  const __m512i lanes_of_blocks = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  __m512i total = _mm512_setzero_si512();
  if constexpr (!Format::has_min) total = _mm512_slli_epi32(load512(x.neg_sum), Format::log2_offset);
  total = _mm512_dpbusd_epi32(total, w.low, load512(x.q[planes - 1]));
  total = _mm512_dpbusd_epi32(total, w.high, load512(x.q[planes - 1] + 64));
  if constexpr (planes == 2) {
    __m512i first = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, load512(x.q[0]));
    first = _mm512_dpbusd_epi32(first, w.high, load512(x.q[0] + 64));
    total = _mm512_add_epi32(total, _mm512_slli_epi32(first, 7));
  }
  const __m128 scale = _mm_mul_ps(w.d, _mm_load_ps(x.scale));
  const __m512 scales = _mm512_permutexvar_ps(lanes_of_blocks, _mm512_castps128_ps512(scale));
  sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scales, sums);
  if constexpr (Format::has_min) mins = _mm_fmadd_ps(w.m, _mm_load_ps(x.scaled_sum), mins);
}

PLUMB_INLINE float sum4(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

constexpr std::size_t prefetch_bytes = 4096;  // a page of memory: hardware prefetches no further

// `tokens` tokens from `token` on, one row at a time.
template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void rows_128(const Dot& job, std::size_t token) {
  const std::size_t n_blocks = job.n_in / 32;
  const X128<planes>* x[tokens];
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X128<planes>>(job, token + t);
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    __m512 sums[tokens];
    __m128 mins[tokens];
    for (std::size_t t = 0; t < tokens; ++t) {
      sums[t] = _mm512_setzero_ps();
      mins[t] = _mm_setzero_ps();
    }
    Group w;
    std::size_t g = 0;
    for (; g < n_blocks / 4; ++g, p += 4 * Format::bytes) {
      for (std::size_t ahead = 0; ahead < 4 * Format::bytes; ahead += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + prefetch_bytes + ahead), _MM_HINT_T0);
      }
      load_group(Format{}, p, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_group<Format, planes>(w, x[t][g], sums[t], mins[t]);
    }
    if (n_blocks % 4 != 0) {
      Tail<Format> tail;
      Tail<Format>::fill(tail, p, n_blocks % 4);
      load_group(Format{}, tail.bytes, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_group<Format, planes>(w, x[t][g], sums[t], mins[t]);
    }
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      float total = _mm512_reduce_add_ps(sums[t]);
      if constexpr (Format::has_min) total += sum4(mins[t]);
      job.y[(token + t) * job.y_stride + row] = total;
    }
  }
}

// Formats with blocks of 256. Four vectors of 64 unsigned bytes, the 16-bit scales of their pairs of products, and the
// sixteen mins (or the scales again where the format has an offset to take out).
struct Super {
  __m512i q[4];
  __m512i scales[4];
  __m256i mins;
  __m128 d;  // d, dmin
};

PLUMB_INLINE __m128 half_value(const std::uint8_t* p) { return _mm_cvtph_ps(_mm_cvtsi32_si128(read16(p))); }
PLUMB_INLINE __m128 two_halves(const std::uint8_t* p) {
  return _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(read32(p))));
}

// Scale 4c + p/8 of sixteen for the pair p of vector c.
PLUMB_INLINE void spread_sixteens(__m256i scales, Super& w) {
  const __m512i all = _mm512_castsi256_si512(scales);
  const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002, 0x20002,
                                          0x20002, 0x30003, 0x30003, 0x30003, 0x30003);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    w.scales[c] =
        _mm512_permutexvar_epi16(_mm512_add_epi16(first, _mm512_set1_epi16(static_cast<std::int16_t>(4 * c))), all);
  }
}
// Scale 2c + p/16 of eight.
PLUMB_INLINE void spread_eights(__m256i scales, Super& w) {
  const __m512i all = _mm512_castsi256_si512(scales);
  const __m512i first =
      _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    w.scales[c] =
        _mm512_permutexvar_epi16(_mm512_add_epi16(first, _mm512_set1_epi16(static_cast<std::int16_t>(2 * c))), all);
  }
}
// The sixteen bytes that Q4_K and Q5_K begin with: d, dmin, and the scales and mins in twelve bytes a, b, c of four
// (see quants/blocks.h). The first four scales (mins) are six bits of a (of b); the others are four bits of c below two of
// a (b).
PLUMB_INLINE void load_head(const std::uint8_t* p, Super& w) {
  const __m128i head = load128(p);
  w.d = _mm_cvtph_ps(head);
  const __m128i acbc = _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(acbc, _mm_setr_epi32(0, 0, 0, 4)),
                                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i ab = _mm_shuffle_epi8(head, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
  const __m128i top = _mm_and_si128(_mm_srli_epi32(ab, 2), _mm_set1_epi8(0x30));
  const __m256i both = _mm256_cvtepu8_epi16(_mm_or_si128(low, top));
  spread_eights(both, w);
  w.mins = _mm256_permutexvar_epi16(_mm256_setr_epi16(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), both);
}
// 32 bytes, in both halves.
PLUMB_INLINE __m512i twice(const std::uint8_t* p) { return _mm512_broadcast_i64x4(load256(p)); }
// The lower 32 bytes shifted right by `low` bits, the upper by `high`: bits cross byte borders and must be masked.
PLUMB_INLINE __m512i shift_halves(__m512i v, int low, int high) {
  return _mm512_srlv_epi32(
      v, _mm512_setr_epi32(low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high));
}
PLUMB_INLINE __m512i rotate_halves(__m512i v, int low, int high) {
  return _mm512_rorv_epi32(
      v, _mm512_setr_epi32(low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high));
}
// (a & mask) | b
PLUMB_INLINE __m512i masked_or(__m512i a, __m512i mask, __m512i b) { return _mm512_ternarylogic_epi32(a, mask, b, 0xea); }

PLUMB_INLINE void load_super(Q4_K, const std::uint8_t* p, Super& w) {
  load_head(p, w);
  const __m512i mask = _mm512_set1_epi8(0x0f);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) w.q[c] = _mm512_and_si512(shift_halves(twice(p + 16 + 32 * c), 0, 4), mask);
}
PLUMB_INLINE void load_super(Q5_K, const std::uint8_t* p, Super& w) {
  load_head(p, w);
  const __m512i mask = _mm512_set1_epi8(0x0f);
  const __m512i bit = _mm512_set1_epi8(0x10);
  const __m512i high = twice(p + 16);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    // Bit 2c (and 2c + 1 in the upper half) to bit 4.
    const __m512i fifth = rotate_halves(high, (2 * c - 4) & 31, (2 * c - 3) & 31);
    w.q[c] = masked_or(fifth, bit, _mm512_and_si512(shift_halves(twice(p + 48 + 32 * c), 0, 4), mask));
  }
}
PLUMB_INLINE void load_super(Q6_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p + 208);
  w.mins = _mm256_cvtepi8_epi16(load128(p + 192));
  spread_sixteens(w.mins, w);
  const __m512i mask = _mm512_set1_epi8(0x0f);
  const __m512i bits = _mm512_set1_epi8(0x30);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m512i qs = load512(p + 64 * h);
    const __m512i high = twice(p + 128 + 32 * h);
    // Bits 0..1 and 2..3 of a byte to bits 4..5; then bits 4..5 and 6..7.
    w.q[2 * h] = masked_or(rotate_halves(high, 28, 30), bits, _mm512_and_si512(qs, mask));
    w.q[2 * h + 1] = masked_or(rotate_halves(high, 0, 2), bits, _mm512_and_si512(_mm512_srli_epi16(qs, 4), mask));
  }
}
PLUMB_INLINE void load_super(Q2_K, const std::uint8_t* p, Super& w) {
  w.d = two_halves(p + 80);
  const __m128i packed = load128(p);
  const __m128i nibble = _mm_set1_epi8(0x0f);
  spread_sixteens(_mm256_cvtepu8_epi16(_mm_and_si128(packed, nibble)), w);
  w.mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
  const __m512i mask = _mm512_set1_epi8(3);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const int shift = 4 * (c % 2);
    w.q[c] = _mm512_and_si512(shift_halves(twice(p + 16 + 32 * (c / 2)), shift, shift + 2), mask);
  }
}
PLUMB_INLINE void load_super(Q3_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p + 108);
  // Scales (see quants/blocks.h): low nibbles of eight bytes, then their high nibbles; top bits from four more bytes.
  const std::uint64_t low = read32(p + 96) | (static_cast<std::uint64_t>(read32(p + 100)) << 32);
  const std::uint32_t top = read32(p + 104);
  const std::uint64_t first = (low & 0x0f0f0f0f0f0f0f0full) | ((top & 0x03030303u) << 4) |
                              (static_cast<std::uint64_t>((top >> 2) & 0x03030303u) << 36);
  const std::uint64_t second = ((low >> 4) & 0x0f0f0f0f0f0f0f0full) | (((top >> 4) & 0x03030303u) << 4) |
                               (static_cast<std::uint64_t>((top >> 6) & 0x03030303u) << 36);
  const __m128i scales = _mm_set_epi64x(static_cast<long long>(second), static_cast<long long>(first));
  w.mins = _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32)));
  spread_sixteens(w.mins, w);
  const __m512i mask = _mm512_set1_epi8(3);
  const __m512i bit = _mm512_set1_epi8(4);
  const __m512i high = twice(p);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const int shift = 4 * (c % 2);
    const __m512i q = _mm512_and_si512(shift_halves(twice(p + 32 + 32 * (c / 2)), shift, shift + 2), mask);
    // Bit 2c (and 2c + 1 in the upper half) to bit 2.
    w.q[c] = masked_or(rotate_halves(high, (2 * c - 2) & 31, (2 * c - 1) & 31), bit, q);
  }
}
PLUMB_INLINE void load_super(IQ4_XS, const std::uint8_t* p, Super& w) {
  w.d = half_value(p);
  const __m256i low =
      _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(read32(p + 4))), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(read16(p + 2)), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
  const __m256i six_bits = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                           _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
  // As 32-bit integers here: products with levels above 127 do not fit pairwise sums of 16 bits.
  const __m256i eight = _mm256_sub_epi32(six_bits, _mm256_set1_epi32(32));
  const __m512i all = _mm512_castsi256_si512(eight);
  const __m512i table = _mm512_broadcast_i32x4(load128(iq4_levels_128));
  const __m512i mask = _mm512_set1_epi8(0x0f);
  const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m256i qs = load256(p + 8 + 32 * c);  // two groups of sixteen bytes
    const __m512i both = _mm512_shuffle_i64x2(_mm512_castsi256_si512(qs), _mm512_castsi256_si512(qs), 0x50);
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
    w.q[c] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srlv_epi32(both, shift), mask));
    w.scales[c] = _mm512_permutexvar_epi32(_mm512_add_epi32(first, _mm512_set1_epi32(2 * c)), all);
  }
  // Each twice, as 16-bit integers.
  w.mins = _mm256_or_si256(_mm256_and_si256(eight, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(eight, 16));
}

// A block's products with one plane, in sixteen sums, less what the format's offset adds (`offsets`: mins times sums).
template <class Format>
PLUMB_INLINE __m512i plane_products(const Super& w, const std::int8_t* q, __m256i offsets) {
  __m512i total = _mm512_setzero_si512();
  if constexpr (!Format::has_min) {
    constexpr int log2_offset = Format::offset == 4 ? 2 : Format::offset == 32 ? 5 : 7;
    static_assert(Format::offset == 1 << log2_offset);
    total = _mm512_sub_epi32(total, _mm512_zextsi256_si512(_mm256_slli_epi32(offsets, log2_offset)));
  }
  __m512i others = _mm512_setzero_si512();  // a second sum, so that additions wait less for each other
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    __m512i& into = c % 2 == 0 ? total : others;
    if constexpr (Format::offset == 128) {
      const __m512i group = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.q[c], load512(q + 64 * c));
      into = _mm512_add_epi32(into, _mm512_mullo_epi32(group, w.scales[c]));
    } else {
      into = _mm512_dpwssd_epi32(into, _mm512_maddubs_epi16(w.q[c], load512(q + 64 * c)), w.scales[c]);
    }
  }
  return _mm512_add_epi32(total, others);
}

template <class Format, int planes>
PLUMB_INLINE void add_super(const Super& w, const X256<planes>& x, __m512& sums, __m256& mins) {
  const auto offsets_of = [&](int plane) __attribute__((always_inline)) {
    return _mm256_madd_epi16(w.mins, _mm256_load_si256(reinterpret_cast<const __m256i*>(x.sum16[plane])));
  };
  __m256i offsets = offsets_of(0);
  __m512 products = _mm512_cvtepi32_ps(plane_products<Format>(w, x.q[0], offsets));
  if constexpr (planes == 2) {
    const __m256i second = offsets_of(1);
    products =
        _mm512_fmadd_ps(products, _mm512_set1_ps(128.0f), _mm512_cvtepi32_ps(plane_products<Format>(w, x.q[1], second)));
    offsets = _mm256_add_epi32(_mm256_slli_epi32(offsets, 7), second);
  }
  const __m128 d = _mm_mul_ps(w.d, _mm_set1_ps(x.scale));
  sums = _mm512_fmadd_ps(products, _mm512_broadcastss_ps(d), sums);
  if constexpr (Format::has_min) {
    mins = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(offsets), _mm256_broadcastss_ps(_mm_movehdup_ps(d)), mins);
  }
}

template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void rows_256(const Dot& job, std::size_t token) {
  const std::size_t n_blocks = job.n_in / 256;
  const X256<planes>* x[tokens];
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X256<planes>>(job, token + t);
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    __m512 sums[tokens];
    __m256 mins[tokens];
    for (std::size_t t = 0; t < tokens; ++t) {
      sums[t] = _mm512_setzero_ps();
      mins[t] = _mm256_setzero_ps();
    }
    for (std::size_t b = 0; b < n_blocks; ++b, p += Format::bytes) {
      for (std::size_t ahead = 0; ahead < Format::bytes; ahead += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + prefetch_bytes + ahead), _MM_HINT_T0);
      }
      Super w;
      load_super(Format{}, p, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_super<Format, planes>(w, x[t][b], sums[t], mins[t]);
    }
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      float total = _mm512_reduce_add_ps(sums[t]);
      if constexpr (Format::has_min) {
        total += sum4(_mm_add_ps(_mm256_castps256_ps128(mins[t]), _mm256_extractf128_ps(mins[t], 1)));
      }
      job.y[(token + t) * job.y_stride + row] = total;
    }
  }
}

// Many tokens: weights of sixteen rows are unpacked once to signed bytes, one vector for each four inputs (a lane a row),
// and multiplied with four inputs of a token in all lanes. There the activations are the unsigned side: they carry +128,
// which `start` takes out.

constexpr std::size_t tile_rows = 16;
constexpr std::size_t tile_tokens = 8;
constexpr std::size_t pack_from = 8;
constexpr std::size_t pack_inputs = 2048;  // inputs packed at a time: 32 KiB of weights

struct Packed {
  std::uint8_t* q;      // [inputs / 4][16 rows][4]
  std::int32_t* start;  // [group][16 rows]: -128 * sum of q
  float* d;             // [group][16 rows]; a group is the inputs of one scale
  float* m;             // [block][16 rows]: m or dmin
  std::int16_t* mins;   // [block][8 pairs of mins][16 rows][2]
};
constexpr std::size_t packed_bytes = tile_rows * pack_inputs + 2 * sizeof(float) * tile_rows * pack_inputs / 16 +
                                     sizeof(float) * tile_rows * pack_inputs / 32 + 2 * tile_rows * pack_inputs / 16;

PLUMB_INLINE Packed packed_in(std::uint8_t* scratch) {
  Packed packed;
  packed.q = scratch;
  packed.start = reinterpret_cast<std::int32_t*>(scratch + tile_rows * pack_inputs);
  packed.d = reinterpret_cast<float*>(packed.start + tile_rows * pack_inputs / 16);
  packed.m = packed.d + tile_rows * pack_inputs / 16;
  packed.mins = reinterpret_cast<std::int16_t*>(packed.m + tile_rows * pack_inputs / 32);
  return packed;
}

// Sixteen rows of sixteen 32-bit words, rows to columns.
PLUMB_INLINE void turn(__m512i v[16]) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  // v[4i + c] now holds columns c, 4 + c, 8 + c, 12 + c of rows 4i .. 4i + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xee);
    a[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    a[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    a[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    a[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = a[i];
}

// Writes `start` for n_groups groups of `inputs` inputs.
PLUMB_INLINE void fill_starts(const Packed& packed, std::size_t n_groups, std::size_t inputs) {
  const __m512i ones = _mm512_set1_epi8(1);
  for (std::size_t g = 0; g < n_groups; ++g) {
    __m512i total = _mm512_setzero_si512();
    for (std::size_t k = 0; k < inputs / 4; ++k) {
      total = _mm512_dpbusd_epi32(total, ones, load512(packed.q + (g * inputs / 4 + k) * 64));
    }
    total = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(total, 7));
    _mm512_store_si512(packed.start + tile_rows * g, total);
  }
}

// Row `row` and the fifteen after it (those past `row_end` repeat the last), groups `first` .. `first + n_groups` of four
// blocks of 32.
template <class Format>
PLUMB_INLINE void pack_128(const Dot& job, std::size_t row, std::size_t first, std::size_t n_groups, const Packed& packed) {
  constexpr int offset = Format::has_min ? 0 : 1 << Format::log2_offset;
  const __m512i offsets = _mm512_set1_epi8(static_cast<char>(offset));
  const std::size_t n_blocks = job.n_in / 32;
  for (std::size_t g = 0; g < n_groups; ++g) {
    __m512i low[tile_rows];
    __m512i high[tile_rows];
    for (std::size_t r = 0; r < tile_rows; ++r) {
      const std::size_t from = row + r < job.row_end ? row + r : job.row_end - 1;
      const std::size_t block = 4 * (first + g);
      const std::uint8_t* p = job.weights + from * job.row_bytes + block * Format::bytes;
      Group w;
      if (block + 4 <= n_blocks) {
        load_group(Format{}, p, w);
      } else {
        Tail<Format> tail;
        Tail<Format>::fill(tail, p, n_blocks - block);
        load_group(Format{}, tail.bytes, w);
      }
      low[r] = _mm512_sub_epi8(w.low, offsets);
      high[r] = _mm512_sub_epi8(w.high, offsets);
      float d[4];
      _mm_storeu_ps(d, w.d);
      for (std::size_t b = 0; b < 4; ++b) packed.d[(4 * g + b) * tile_rows + r] = d[b];
      if constexpr (Format::has_min) {
        _mm_storeu_ps(d, w.m);
        for (std::size_t b = 0; b < 4; ++b) packed.m[(4 * g + b) * tile_rows + r] = d[b];
      }
    }
    turn(low);
    turn(high);
    for (std::size_t b = 0; b < 4; ++b) {
      std::uint8_t* q = packed.q + (4 * g + b) * 8 * 64;
      for (std::size_t k = 0; k < 4; ++k) {
        _mm512_store_si512(q + 64 * k, low[4 * b + k]);
        _mm512_store_si512(q + 64 * (4 + k), high[4 * b + k]);
      }
    }
  }
  fill_starts(packed, 4 * n_groups, 32);
}

PLUMB_INLINE __m512i four_everywhere(const std::int8_t* p) {
  return _mm512_set1_epi32(static_cast<int>(read32(reinterpret_cast<const std::uint8_t*>(p))));
}

// The whole sum of a token from those of its planes.
template <int planes, std::size_t tokens>
PLUMB_INLINE __m512i joined(const __m512i totals[planes][tokens], std::size_t t) {
  if constexpr (planes == 1) return totals[0][t];
  return _mm512_add_epi32(_mm512_slli_epi32(totals[0][t], 7), totals[planes - 1][t]);
}

template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void tile_128(const Dot& job, const Packed& packed, std::size_t token, std::size_t first, std::size_t n_groups,
                           __m512 sums[tokens]) {
  const X128<planes>* x[tokens];
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X128<planes>>(job, token + t) + first;
  for (std::size_t g = 0; g < n_groups; ++g) {
    for (std::size_t b = 0; b < 4; ++b) {
      const std::size_t block = 4 * g + b;
      const std::uint8_t* q = packed.q + block * 8 * 64;
      const __m512i start = load512(packed.start + tile_rows * block);
      __m512i totals[planes][tokens];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
        for (int p = 0; p < planes; ++p) totals[p][t] = start;
      }
#pragma GCC unroll 8
      for (std::size_t k = 0; k < 8; ++k) {
        const __m512i w = load512(q + 64 * k);
        const std::size_t at = k < 4 ? 16 * b + 4 * k : 48 + 16 * b + 4 * k;
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
          for (int p = 0; p < planes; ++p) {
            totals[p][t] = _mm512_dpbusd_epi32(totals[p][t], four_everywhere(x[t][g].q[p] + at), w);
          }
        }
      }
      const __m512 d = _mm512_load_ps(packed.d + tile_rows * block);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
        const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x[t][g].scale[b]));
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(joined<planes, tokens>(totals, t)), scale, sums[t]);
      }
      if constexpr (Format::has_min) {
        const __m512 m = _mm512_load_ps(packed.m + tile_rows * block);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) {
          sums[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(x[t][g].scaled_sum[b]), sums[t]);
        }
      }
    }
  }
}

// Inputs that share a scale.
template <class Format>
constexpr std::size_t scale_inputs() {
  return Format::bytes == Q4_K::bytes || Format::bytes == Q5_K::bytes || Format::bytes == IQ4_XS::bytes ? 32 : 16;
}

// As pack_128, for `n_blocks` blocks of 256.
template <class Format>
PLUMB_INLINE void pack_256(const Dot& job, std::size_t row, std::size_t first, std::size_t n_blocks, const Packed& packed) {
  constexpr std::size_t inputs = scale_inputs<Format>();
  constexpr std::size_t n_scales = 256 / inputs;
  const __m512i offsets = _mm512_set1_epi8(static_cast<char>(Format::offset));
  for (std::size_t b = 0; b < n_blocks; ++b) {
    alignas(64) std::int8_t q[tile_rows][256];
    for (std::size_t r = 0; r < tile_rows; ++r) {
      const std::size_t from = row + r < job.row_end ? row + r : job.row_end - 1;
      Super w;
      load_super(Format{}, job.weights + from * job.row_bytes + (first + b) * Format::bytes, w);
      for (int c = 0; c < 4; ++c) _mm512_store_si512(q[r] + 64 * c, _mm512_sub_epi8(w.q[c], offsets));
      alignas(64) std::int16_t scales[4][32];
      for (int c = 0; c < 4; ++c) _mm512_store_si512(scales[c], w.scales[c]);
      for (std::size_t s = 0; s < n_scales; ++s) {
        // Each vector's scales are spread over 32 places of 16 bits; for IQ4_XS the 32-bit ones have theirs in the lower
        // half.
        const std::int16_t scale = scales[s * inputs / 64][s * inputs % 64 / 2];
        packed.d[(n_scales * b + s) * tile_rows + r] = _mm_cvtss_f32(w.d) * static_cast<float>(scale);
      }
      if constexpr (Format::has_min) {
        packed.m[b * tile_rows + r] = _mm_cvtss_f32(_mm_movehdup_ps(w.d));
        alignas(32) std::int16_t mins[16];
        _mm256_store_si256(reinterpret_cast<__m256i*>(mins), w.mins);
        std::int16_t* to = packed.mins + b * 16 * tile_rows + 2 * r;
        for (std::size_t i = 0; i < 8; ++i) memcpy(to + 2 * tile_rows * i, mins + 2 * i, 4);
      }
    }
    for (std::size_t c = 0; c < 4; ++c) {
      __m512i v[tile_rows];
#pragma GCC unroll 16
      for (std::size_t r = 0; r < tile_rows; ++r) v[r] = load512(q[r] + 64 * c);
      turn(v);
#pragma GCC unroll 16
      for (std::size_t k = 0; k < 16; ++k) _mm512_store_si512(packed.q + ((4 * b + c) * 16 + k) * 64, v[k]);
    }
  }
  fill_starts(packed, n_blocks * n_scales, inputs);
}

template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void tile_256(const Dot& job, const Packed& packed, std::size_t token, std::size_t first, std::size_t n_blocks,
                           __m512 sums[tokens]) {
  constexpr std::size_t inputs = scale_inputs<Format>();
  constexpr std::size_t n_scales = 256 / inputs;
  const X256<planes>* x[tokens];
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X256<planes>>(job, token + t) + first;
  for (std::size_t b = 0; b < n_blocks; ++b) {
    __m512 parts[tokens];
#pragma GCC unroll 8
    for (std::size_t t = 0; t < tokens; ++t) parts[t] = _mm512_setzero_ps();
    if constexpr (Format::has_min) {
      __m512i totals[planes][tokens];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
        for (int p = 0; p < planes; ++p) totals[p][t] = _mm512_setzero_si512();
      }
      for (std::size_t i = 0; i < 8; ++i) {
        const __m512i mins = load512(packed.mins + (b * 8 + i) * 2 * tile_rows);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
          for (int p = 0; p < planes; ++p) {
            const auto* sums16 = reinterpret_cast<const std::int8_t*>(x[t][b].sum16[p] + 2 * i);
            totals[p][t] = _mm512_dpwssd_epi32(totals[p][t], four_everywhere(sums16), mins);
          }
        }
      }
      const __m512 dmin = _mm512_load_ps(packed.m + tile_rows * b);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
        parts[t] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(joined<planes, tokens>(totals, t)), dmin, parts[t]);
      }
    }
    for (std::size_t s = 0; s < n_scales; ++s) {
      const std::size_t group = n_scales * b + s;
      const std::uint8_t* q = packed.q + group * inputs / 4 * 64;
      const __m512i start = load512(packed.start + tile_rows * group);
      __m512i totals[planes][tokens];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
        for (int p = 0; p < planes; ++p) totals[p][t] = start;
      }
#pragma GCC unroll 8
      for (std::size_t k = 0; k < inputs / 4; ++k) {
        const __m512i w = load512(q + 64 * k);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
          for (int p = 0; p < planes; ++p) {
            totals[p][t] = _mm512_dpbusd_epi32(totals[p][t], four_everywhere(x[t][b].q[p] + s * inputs + 4 * k), w);
          }
        }
      }
      const __m512 d = _mm512_load_ps(packed.d + tile_rows * group);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
        parts[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(joined<planes, tokens>(totals, t)), d, parts[t]);
      }
    }
#pragma GCC unroll 8
    for (std::size_t t = 0; t < tokens; ++t) {
      sums[t] = _mm512_fmadd_ps(parts[t], _mm512_set1_ps(x[t][b].scale), sums[t]);
    }
  }
}

// The two families, for the loops over tiles.
template <class Format, int planes>
struct Small {
  static constexpr std::size_t unit = 128;
  template <std::size_t tokens>
  PLUMB_INLINE void rows(const Dot& job, std::size_t token) {
    rows_128<Format, planes, tokens>(job, token);
  }
  PLUMB_INLINE void pack(const Dot& job, std::size_t row, std::size_t first, std::size_t n, const Packed& packed) {
    pack_128<Format>(job, row, first, n, packed);
  }
  template <std::size_t tokens>
  PLUMB_INLINE void tile(const Dot& job, const Packed& packed, std::size_t token, std::size_t first, std::size_t n,
                         __m512 sums[tokens]) {
    tile_128<Format, planes, tokens>(job, packed, token, first, n, sums);
  }
};
template <class Format, int planes>
struct Large {
  static constexpr std::size_t unit = 256;
  template <std::size_t tokens>
  PLUMB_INLINE void rows(const Dot& job, std::size_t token) {
    rows_256<Format, planes, tokens>(job, token);
  }
  PLUMB_INLINE void pack(const Dot& job, std::size_t row, std::size_t first, std::size_t n, const Packed& packed) {
    pack_256<Format>(job, row, first, n, packed);
  }
  template <std::size_t tokens>
  PLUMB_INLINE void tile(const Dot& job, const Packed& packed, std::size_t token, std::size_t first, std::size_t n,
                         __m512 sums[tokens]) {
    tile_256<Format, planes, tokens>(job, packed, token, first, n, sums);
  }
};

template <class Family, std::size_t tokens>
void run_tile(const Dot& job, const Packed& packed, std::size_t row, std::size_t token, std::size_t first, std::size_t n) {
  const std::size_t n_rows = job.row_end - row < tile_rows ? job.row_end - row : tile_rows;
  const auto mask = static_cast<__mmask16>((1u << n_rows) - 1);
  float* y = job.y + token * job.y_stride + row;
  __m512 sums[tokens];
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) {
    sums[t] = first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y + t * job.y_stride);
  }
  Family::template tile<tokens>(job, packed, token, first, n, sums);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) _mm512_mask_storeu_ps(y + t * job.y_stride, mask, sums[t]);
}

template <class Family>
void dot_packed(const Dot& job) {
  const Packed packed = packed_in(job.scratch);
  const std::size_t n_units = (job.n_in + Family::unit - 1) / Family::unit;
  for (std::size_t row = job.row_begin; row < job.row_end; row += tile_rows) {
    for (std::size_t first = 0; first < n_units; first += pack_inputs / Family::unit) {
      const std::size_t left = n_units - first;
      const std::size_t n = left < pack_inputs / Family::unit ? left : pack_inputs / Family::unit;
      Family::pack(job, row, first, n, packed);
      std::size_t token = 0;
      for (; token + tile_tokens <= job.n_tokens; token += tile_tokens) {
        run_tile<Family, tile_tokens>(job, packed, row, token, first, n);
      }
      for (; token + 4 <= job.n_tokens; token += 4) run_tile<Family, 4>(job, packed, row, token, first, n);
      for (; token < job.n_tokens; ++token) run_tile<Family, 1>(job, packed, row, token, first, n);
    }
  }
}

template <class Family>
void dot(const Dot& job) {
  if (job.n_tokens >= pack_from) {
    dot_packed<Family>(job);
    return;
  }
  std::size_t token = 0;
  for (; token + 4 <= job.n_tokens; token += 4) Family::template rows<4>(job, token);
  for (; token + 2 <= job.n_tokens; token += 2) Family::template rows<2>(job, token);
  if (token < job.n_tokens) Family::template rows<1>(job, token);
}

template <int planes>
constexpr KernelTable::Rounded rounded = {
    .round_128 = round_128<planes>,
    .round_256 = round_256<planes>,
    .dot = {dot_float<WeightF32>, dot_float<WeightF16>, dot_float<WeightBF16>, dot<Small<Q4_0, planes>>,
            dot<Small<Q4_1, planes>>, dot<Small<Q5_0, planes>>, dot<Small<Q5_1, planes>>, dot<Small<Q8_0, planes>>,
            dot<Small<IQ4_NL, planes>>, dot<Small<MXFP4, planes>>, dot<Large<Q2_K, planes>>, dot<Large<Q3_K, planes>>,
            dot<Large<Q4_K, planes>>, dot<Large<Q5_K, planes>>, dot<Large<Q6_K, planes>>, dot<Large<IQ4_XS, planes>>},
};

constexpr KernelTable table = {
    .name = "AVX-512 VNNI",
    .packs_from = pack_from,
    .row_tile = 32,
    .scratch_bytes = packed_bytes,
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

const KernelTable& avx512_kernels() { return table; }

}  // namespace plumb::backends::cpu
