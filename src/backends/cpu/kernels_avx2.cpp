// AVX2 with FMA and F16C.
#define PLUMB_LANES 8
#include <immintrin.h>

#include "backends/cpu/portable.h"
#include "backends/cpu/vector.h"

namespace plumb::backends::cpu {
namespace {

PLUMB_INLINE Vf load_f16(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

PLUMB_INLINE __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
PLUMB_INLINE __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
PLUMB_INLINE __m256i pair_of(const std::uint8_t* low, const std::uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(low)), load128(high), 1);
}

template <int planes>
PLUMB_INLINE void fill_sums(X128<planes>& group) {
  portable_sums(group);
}
template <int planes>
PLUMB_INLINE void fill_sums(X256<planes>& block) {
  portable_sums(block);
}

// Products of unsigned weights below 64 and activations, summed in pairs: at most 2 * 63 * 127.
PLUMB_INLINE __m256i pairs_unsigned(__m256i w, __m256i x) { return _mm256_maddubs_epi16(w, x); }
// The same for signed weights, by magnitude and sign: at most 2 * 128 * 127.
PLUMB_INLINE __m256i pairs_signed(__m256i w, __m256i x) {
  return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
PLUMB_INLINE __m256i nibble_mask() { return _mm256_set1_epi8(0x0f); }
PLUMB_INLINE __m256i high_nibbles(__m256i v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble_mask()); }

// Formats with blocks of 32. Four blocks in the order of X128: the first halves of blocks 0 and 1, of 2 and 3, then the
// second halves. Formats with an offset of 128 are signed here (see is_signed), the others unsigned as unpack.h has them.
struct Group {
  __m256i q[4];
  __m128 d, m;
};

template <class Format>
constexpr bool is_signed() {
  return Format::log2_offset == 7;
}

template <std::size_t stride>
PLUMB_INLINE void load_nibbles(const std::uint8_t* p, Group& group) {
  const __m256i first = pair_of(p, p + stride);
  const __m256i second = pair_of(p + 2 * stride, p + 3 * stride);
  group.q[0] = _mm256_and_si256(first, nibble_mask());
  group.q[1] = _mm256_and_si256(second, nibble_mask());
  group.q[2] = high_nibbles(first);
  group.q[3] = high_nibbles(second);
}
template <std::size_t stride>
PLUMB_INLINE __m128 four_halves(const std::uint8_t* p) {
  __m128i h = _mm_cvtsi32_si128(read16(p));
  h = _mm_insert_epi16(h, read16(p + stride), 1);
  h = _mm_insert_epi16(h, read16(p + 2 * stride), 2);
  h = _mm_insert_epi16(h, read16(p + 3 * stride), 3);
  return _mm_cvtph_ps(h);
}
// 0x10 in each byte whose bit is set: 32 bits to 32 bytes.
PLUMB_INLINE __m256i sixteens(std::uint32_t bits) {
  const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
  return _mm256_and_si256(set, _mm256_set1_epi8(0x10));
}
template <std::size_t stride>
PLUMB_INLINE void add_fifth_bits(const std::uint8_t* p, Group& group) {
  const std::uint32_t b[4] = {read32(p), read32(p + stride), read32(p + 2 * stride), read32(p + 3 * stride)};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    group.q[i] = _mm256_or_si256(group.q[i], sixteens((b[2 * i] & 0xffff) | (b[2 * i + 1] << 16)));
    group.q[2 + i] = _mm256_or_si256(group.q[2 + i], sixteens((b[2 * i] >> 16) | (b[2 * i + 1] & 0xffff0000u)));
  }
}
// Looks up sixteen levels that are stored with `offset` added.
PLUMB_INLINE __m256i look_up(const std::uint8_t* levels, int offset, __m256i q) {
  const __m128i table = _mm_sub_epi8(load128(levels), _mm_set1_epi8(static_cast<char>(offset)));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), q);
}

PLUMB_INLINE void load_group(Q4_0, const std::uint8_t* p, Group& group) {
  load_nibbles<Q4_0::bytes>(p + 2, group);
  group.d = four_halves<Q4_0::bytes>(p);
}
PLUMB_INLINE void load_group(Q4_1, const std::uint8_t* p, Group& group) {
  load_nibbles<Q4_1::bytes>(p + 4, group);
  group.d = four_halves<Q4_1::bytes>(p);
  group.m = four_halves<Q4_1::bytes>(p + 2);
}
PLUMB_INLINE void load_group(Q5_0, const std::uint8_t* p, Group& group) {
  load_nibbles<Q5_0::bytes>(p + 6, group);
  add_fifth_bits<Q5_0::bytes>(p + 2, group);
  group.d = four_halves<Q5_0::bytes>(p);
}
PLUMB_INLINE void load_group(Q5_1, const std::uint8_t* p, Group& group) {
  load_nibbles<Q5_1::bytes>(p + 8, group);
  add_fifth_bits<Q5_1::bytes>(p + 4, group);
  group.d = four_halves<Q5_1::bytes>(p);
  group.m = four_halves<Q5_1::bytes>(p + 2);
}
PLUMB_INLINE void load_group(Q8_0, const std::uint8_t* p, Group& group) {
  constexpr std::size_t stride = Q8_0::bytes;
  group.q[0] = pair_of(p + 2, p + stride + 2);
  group.q[1] = pair_of(p + 2 * stride + 2, p + 3 * stride + 2);
  group.q[2] = pair_of(p + 18, p + stride + 18);
  group.q[3] = pair_of(p + 2 * stride + 18, p + 3 * stride + 18);
  group.d = four_halves<stride>(p);
}
PLUMB_INLINE void load_group(IQ4_NL, const std::uint8_t* p, Group& group) {
  load_nibbles<IQ4_NL::bytes>(p + 2, group);
  for (__m256i& q : group.q) q = look_up(iq4_levels_128, 128, q);
  group.d = four_halves<IQ4_NL::bytes>(p);
}
PLUMB_INLINE void load_group(MXFP4, const std::uint8_t* p, Group& group) {
  load_nibbles<MXFP4::bytes>(p + 1, group);
  for (__m256i& q : group.q) q = look_up(mxfp4_levels_16, 0, q);
  group.d = _mm_setr_ps(e8m0_half(p[0]), e8m0_half(p[MXFP4::bytes]), e8m0_half(p[2 * MXFP4::bytes]),
                        e8m0_half(p[3 * MXFP4::bytes]));
}

// Products of half a group (blocks 2 i and 2 i + 1) with one plane.
template <class Format>
PLUMB_INLINE __m256i plane_products(const Group& w, const std::int8_t* q, int i) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i low = load256(q + 32 * i);
  const __m256i high = load256(q + 64 + 32 * i);
  if constexpr (is_signed<Format>()) {
    return _mm256_add_epi32(_mm256_madd_epi16(pairs_signed(w.q[i], low), ones),
                            _mm256_madd_epi16(pairs_signed(w.q[2 + i], high), ones));
  } else {
    return _mm256_madd_epi16(_mm256_add_epi16(pairs_unsigned(w.q[i], low), pairs_unsigned(w.q[2 + i], high)), ones);
  }
}

template <class Format, int planes>
PLUMB_INLINE void add_group(const Group& w, const X128<planes>& x, __m256& sums, __m128& mins) {
  const __m256 scale = _mm256_castps128_ps256(_mm_mul_ps(w.d, _mm_load_ps(x.scale)));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    __m256i total = plane_products<Format>(w, x.q[0], i);
    if constexpr (planes == 2) {
      total = _mm256_add_epi32(_mm256_slli_epi32(total, 7), plane_products<Format>(w, x.q[1], i));
    }
    if constexpr (!is_signed<Format>() && !Format::has_min) {
      total = _mm256_add_epi32(total, _mm256_slli_epi32(load256(x.neg_sum + 8 * i), Format::log2_offset));
    }
    const __m256i blocks = _mm256_setr_epi32(2 * i, 2 * i, 2 * i, 2 * i, 2 * i + 1, 2 * i + 1, 2 * i + 1, 2 * i + 1);
    sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_permutevar8x32_ps(scale, blocks), sums);
  }
  if constexpr (Format::has_min) mins = _mm_fmadd_ps(w.m, _mm_load_ps(x.scaled_sum), mins);
}

PLUMB_INLINE float sum4(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
PLUMB_INLINE float sum8(__m256 v) { return sum4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }

template <std::size_t bytes>
PLUMB_INLINE void prefetch(const std::uint8_t* p) {
  constexpr std::size_t ahead = 4096;  // a page of memory: hardware prefetches no further
  for (std::size_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + ahead + i), _MM_HINT_T0);
}

// `tokens` tokens from `token` on, one row at a time.
template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void rows_128(const Dot& job, std::size_t token) {
  const std::size_t n_blocks = job.n_in / 32;
  const X128<planes>* x[tokens];
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X128<planes>>(job, token + t);
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    __m256 sums[tokens];
    __m128 mins[tokens];
    for (std::size_t t = 0; t < tokens; ++t) {
      sums[t] = _mm256_setzero_ps();
      mins[t] = _mm_setzero_ps();
    }
    Group w;
    std::size_t g = 0;
    for (; g < n_blocks / 4; ++g, p += 4 * Format::bytes) {
      prefetch<4 * Format::bytes>(p);
      load_group(Format{}, p, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_group<Format, planes>(w, x[t][g], sums[t], mins[t]);
    }
    if (n_blocks % 4 != 0) {
      // Zeros behind the last blocks, whose activations are zero too.
      std::uint8_t tail[4 * Format::bytes] = {};
      memcpy(tail, p, n_blocks % 4 * Format::bytes);
      load_group(Format{}, tail, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_group<Format, planes>(w, x[t][g], sums[t], mins[t]);
    }
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      float total = sum8(sums[t]);
      if constexpr (Format::has_min) total += sum4(mins[t]);
      job.y[(token + t) * job.y_stride + row] = total;
    }
  }
}

// Formats with blocks of 256: eight vectors of 32 weights (signed for IQ4_XS), sixteen scales, and sixteen mins (or the
// scales again where the format has an offset to take out).
struct Super {
  __m256i q[8];
  alignas(32) std::int16_t scales[16];
  __m256i mins;
  float d, dmin;
};

PLUMB_INLINE float half_value(const std::uint8_t* p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(read16(p)))); }
PLUMB_INLINE void store_scales(__m256i scales, Super& w) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(w.scales), scales);
}
PLUMB_INLINE void load_scales_mins(const std::uint8_t* packed, Super& w) {
  alignas(32) std::int16_t mins[16];
  scales_mins(packed, w.scales, mins);
  w.mins = _mm256_load_si256(reinterpret_cast<const __m256i*>(mins));
}
// v shifted right by `right` bits (left if negative), masked: what crosses a byte's border is masked away.
PLUMB_INLINE __m256i bits_at(__m256i v, int right, int mask) {
  const __m256i shifted =
      right >= 0 ? _mm256_srl_epi32(v, _mm_cvtsi32_si128(right)) : _mm256_sll_epi32(v, _mm_cvtsi32_si128(-right));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(static_cast<char>(mask)));
}

PLUMB_INLINE void load_super(Q4_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p);
  w.dmin = half_value(p + 2);
  load_scales_mins(p + 4, w);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m256i qs = load256(p + 16 + 32 * c);
    w.q[2 * c] = _mm256_and_si256(qs, nibble_mask());
    w.q[2 * c + 1] = high_nibbles(qs);
  }
}
PLUMB_INLINE void load_super(Q5_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p);
  w.dmin = half_value(p + 2);
  load_scales_mins(p + 4, w);
  const __m256i high = load256(p + 16);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m256i qs = load256(p + 48 + 32 * c);
    w.q[2 * c] = _mm256_or_si256(_mm256_and_si256(qs, nibble_mask()), bits_at(high, 2 * c - 4, 0x10));
    w.q[2 * c + 1] = _mm256_or_si256(high_nibbles(qs), bits_at(high, 2 * c - 3, 0x10));
  }
}
PLUMB_INLINE void load_super(Q6_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p + 208);
  w.mins = _mm256_cvtepi8_epi16(load128(p + 192));
  store_scales(w.mins, w);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m256i first = load256(p + 64 * h);
    const __m256i second = load256(p + 64 * h + 32);
    const __m256i high = load256(p + 128 + 32 * h);
    w.q[4 * h] = _mm256_or_si256(_mm256_and_si256(first, nibble_mask()), bits_at(high, -4, 0x30));
    w.q[4 * h + 1] = _mm256_or_si256(_mm256_and_si256(second, nibble_mask()), bits_at(high, -2, 0x30));
    w.q[4 * h + 2] = _mm256_or_si256(high_nibbles(first), bits_at(high, 0, 0x30));
    w.q[4 * h + 3] = _mm256_or_si256(high_nibbles(second), bits_at(high, 2, 0x30));
  }
}
PLUMB_INLINE void load_super(Q2_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p + 80);
  w.dmin = half_value(p + 82);
  const __m128i packed = load128(p);
  const __m128i nibble = _mm_set1_epi8(0x0f);
  store_scales(_mm256_cvtepu8_epi16(_mm_and_si128(packed, nibble)), w);
  w.mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) w.q[g] = bits_at(load256(p + 16 + 32 * (g / 4)), 2 * (g % 4), 3);
}
PLUMB_INLINE void load_super(Q3_K, const std::uint8_t* p, Super& w) {
  w.d = half_value(p + 108);
  const std::uint8_t* packed = p + 96;
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? packed[i] & 0x0f : packed[i - 8] >> 4;
    const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
    w.scales[i] = static_cast<std::int16_t>((low | (high << 4)) - 32);
  }
  w.mins = _mm256_load_si256(reinterpret_cast<const __m256i*>(w.scales));
  const __m256i high = load256(p);
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    w.q[g] = _mm256_or_si256(bits_at(load256(p + 32 + 32 * (g / 4)), 2 * (g % 4), 3), bits_at(high, g - 2, 4));
  }
}
PLUMB_INLINE void load_super(IQ4_XS, const std::uint8_t* p, Super& w) {
  w.d = half_value(p);
  const std::uint32_t high = read16(p + 2);
  const std::uint32_t low = read32(p + 4);
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const int scale = static_cast<int>(((low >> (4 * g)) & 15) | (((high >> (2 * g)) & 3) << 4)) - 32;
    w.scales[2 * g] = w.scales[2 * g + 1] = static_cast<std::int16_t>(scale);
    const __m128i qs = load128(p + 8 + 16 * g);
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(qs), _mm_srli_epi16(qs, 4), 1);
    w.q[g] = look_up(iq4_levels_128, 128, _mm256_and_si256(both, nibble_mask()));
  }
}

// A block's products with one plane, in eight sums, less what the format's offset adds (`offsets`: mins times sums).
template <class Format>
PLUMB_INLINE __m256i plane_products(const Super& w, const std::int8_t* q, __m256i offsets) {
  constexpr bool is_signed_format = Format::offset == 128;
  __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m256i values = load256(q + 32 * g);
    const __m256i pairs = is_signed_format ? pairs_signed(w.q[g], values) : pairs_unsigned(w.q[g], values);
    const __m256i scale = _mm256_set_m128i(_mm_set1_epi16(w.scales[2 * g + 1]), _mm_set1_epi16(w.scales[2 * g]));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
  }
  if constexpr (!is_signed_format && !Format::has_min) {
    constexpr int log2_offset = Format::offset == 4 ? 2 : 5;
    static_assert(Format::offset == 1 << log2_offset);
    total = _mm256_sub_epi32(total, _mm256_slli_epi32(offsets, log2_offset));
  }
  return total;
}

template <class Format, int planes>
PLUMB_INLINE void add_super(const Super& w, const X256<planes>& x, __m256& sums, __m256& mins) {
  const auto offsets_of = [&](int plane) __attribute__((always_inline)) {
    if constexpr (Format::offset == 128) return _mm256_setzero_si256();
    return _mm256_madd_epi16(w.mins, load256(x.sum16[plane]));
  };
  __m256i offsets = offsets_of(0);
  __m256 products = _mm256_cvtepi32_ps(plane_products<Format>(w, x.q[0], offsets));
  if constexpr (planes == 2) {
    const __m256i second = offsets_of(1);
    products =
        _mm256_fmadd_ps(products, _mm256_set1_ps(128.0f), _mm256_cvtepi32_ps(plane_products<Format>(w, x.q[1], second)));
    offsets = _mm256_add_epi32(_mm256_slli_epi32(offsets, 7), second);
  }
  if constexpr (Format::has_min) {
    mins = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(offsets), _mm256_set1_ps(w.dmin * x.scale), mins);
  }
  sums = _mm256_fmadd_ps(products, _mm256_set1_ps(w.d * x.scale), sums);
}

template <class Format, int planes, std::size_t tokens>
PLUMB_INLINE void rows_256(const Dot& job, std::size_t token) {
  const std::size_t n_blocks = job.n_in / 256;
  const X256<planes>* x[tokens];
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<X256<planes>>(job, token + t);
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    __m256 sums[tokens];
    __m256 mins[tokens];
    for (std::size_t t = 0; t < tokens; ++t) sums[t] = mins[t] = _mm256_setzero_ps();
    for (std::size_t b = 0; b < n_blocks; ++b, p += Format::bytes) {
      prefetch<Format::bytes>(p);
      Super w;
      load_super(Format{}, p, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add_super<Format, planes>(w, x[t][b], sums[t], mins[t]);
    }
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      job.y[(token + t) * job.y_stride + row] = sum8(sums[t]) + (Format::has_min ? sum8(mins[t]) : 0.0f);
    }
  }
}

// Tokens outside, rows inside: the rows of one call stay in the cache for all tokens.
template <class Format, int planes>
void dot_128(const Dot& job) {
  std::size_t token = 0;
  for (; token + 4 <= job.n_tokens; token += 4) rows_128<Format, planes, 4>(job, token);
  for (; token < job.n_tokens; ++token) rows_128<Format, planes, 1>(job, token);
}
template <class Format, int planes>
void dot_256(const Dot& job) {
  std::size_t token = 0;
  for (; token + 4 <= job.n_tokens; token += 4) rows_256<Format, planes, 4>(job, token);
  for (; token < job.n_tokens; ++token) rows_256<Format, planes, 1>(job, token);
}

template <int planes>
constexpr KernelTable::Rounded rounded = {
    .round_128 = round_128<planes>,
    .round_256 = round_256<planes>,
    .dot = {dot_float<WeightF32>, dot_float<WeightF16>, dot_float<WeightBF16>, dot_128<Q4_0, planes>, dot_128<Q4_1, planes>,
            dot_128<Q5_0, planes>, dot_128<Q5_1, planes>, dot_128<Q8_0, planes>, dot_128<IQ4_NL, planes>,
            dot_128<MXFP4, planes>, dot_256<Q2_K, planes>, dot_256<Q3_K, planes>, dot_256<Q4_K, planes>,
            dot_256<Q5_K, planes>, dot_256<Q6_K, planes>, dot_256<IQ4_XS, planes>},
};

constexpr KernelTable table = {
    .name = "AVX2",
    .packs_from = SIZE_MAX,
    .row_tile = 16,
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

const KernelTable& avx2_kernels() { return table; }

}  // namespace plumb::backends::cpu
