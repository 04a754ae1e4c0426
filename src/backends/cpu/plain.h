// The operations that kernels need from an instruction set, written with the compilers' vector extension. A file
// kernels_<isa>.cpp defines PLUMB_LANES (floats in a register: 4, 8 or 16), includes this header, and defines
// `struct Set : Plain<Set>`, which replaces the operations that the instruction set does better. The kernels, in the
// headers that table.h includes, are written over Set.
//
// Everything here has internal linkage (see kernels.h).
#pragma once

#include <string.h>

#include "backends/cpu/kernels.h"

#define PLUMB_INLINE static inline __attribute__((always_inline))

namespace plumb::backends::cpu {
namespace {

constexpr std::size_t lanes = PLUMB_LANES;
constexpr std::size_t vector_bytes = 4 * lanes;

// Registers of float, of signed and unsigned integers of 32 and 16 bits, and of bytes.
typedef float Vf __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::int32_t Vi __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::uint32_t Vu __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::int16_t Vs __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::uint16_t Vus __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::uint8_t Vb __attribute__((vector_size(4 * PLUMB_LANES)));
// One value for each of four blocks of 32, and one for each sixteen weights of a block of 256.
typedef float F4 __attribute__((vector_size(16)));
typedef std::int16_t S16 __attribute__((vector_size(32)));
// Sixteen bytes, and two words of eight.
typedef std::uint8_t B16 __attribute__((vector_size(16)));
typedef std::int8_t C16 __attribute__((vector_size(16)));
typedef std::uint64_t U2 __attribute__((vector_size(16)));

// 64 bytes of weights.
constexpr std::size_t wide_parts = 64 / vector_bytes;
struct Wide {
  Vb part[wide_parts];
};

// The bits of a value as another type of the same size.
template <class To, class From>
PLUMB_INLINE To as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &value, sizeof to);
  return to;
}
template <class T>
PLUMB_INLINE T read(const void* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}

PLUMB_INLINE Vf load(const float* p) { return read<Vf>(p); }
PLUMB_INLINE void store(float* p, Vf v) { memcpy(p, &v, sizeof v); }
PLUMB_INLINE Vf splat(float x) { return x - Vf{}; }
PLUMB_INLINE Vb splat_byte(std::uint8_t x) { return x - Vb{}; }
// Four bytes, in every lane.
PLUMB_INLINE Vb splat_four(const void* p) { return as<Vb>(read<std::uint32_t>(p) - Vu{}); }
// v times a power of two.
PLUMB_INLINE Vi times(Vi v, int power) { return as<Vi>(as<Vu>(v) << __builtin_ctz(static_cast<unsigned>(power))); }
PLUMB_INLINE Vf to_float(Vi v) { return __builtin_convertvector(v, Vf); }

// The end of a row as a full vector: elements past the end read as zero and are not written. A copy of n bytes is much
// slower than a whole vector.
PLUMB_INLINE Vf load_part(const float* p, std::size_t n) {
  if (n == lanes) return load(p);
  float x[lanes] = {};
  memcpy(x, p, n * sizeof(float));
  return load(x);
}
PLUMB_INLINE void store_part(float* p, Vf v, std::size_t n) {
  if (n == lanes) return store(p, v);
  float x[lanes];
  store(x, v);
  memcpy(p, x, n * sizeof(float));
}

// S derives from this, and has the set's name.
template <class S>
struct Plain {
  // Steps of at least this many tokens unpack weights once for all tokens (quantized.h); dot() must then accept any bytes.
  // SIZE_MAX: none do.
  static constexpr std::size_t packs_from = 8;
  // Whether dot() and scaled() take the weights of formats with an offset of 128 as signed bytes, without the offset.
  static constexpr bool signed_weights = false;

  // Convert `lanes` values from binary16, exactly, and to binary16, rounded to nearest even.
  PLUMB_INLINE Vf load_f16(const std::uint16_t* p) {
    // Moves exponent and mantissa into place and scales by 2^112, which is right for subnormals too. Infinities and NaN
    // then get their exponent.
    typedef std::uint16_t Vh __attribute__((vector_size(2 * PLUMB_LANES)));
    const Vu wide = __builtin_convertvector(read<Vh>(p), Vu);
    const Vu magnitude = (wide & 0x7fffu) << 13;
    Vu value = as<Vu>(as<Vf>(magnitude) * splat(0x1p112f));
    value = magnitude >= (0x7c00u << 13) ? value | 0x7f800000u : value;
    return as<Vf>(value | ((wide & 0x8000u) << 16));
  }
  PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v) {
    const Vu all = as<Vu>(v);
    for (std::size_t i = 0; i < lanes; ++i) {
      const std::uint32_t bits = all[i];
      const std::uint32_t sign = (bits >> 16) & 0x8000u;
      const std::uint32_t magnitude = bits & 0x7fffffffu;
      std::uint32_t half_bits;
      if (magnitude > 0x7f800000u) {
        half_bits = 0x7e00u;
      } else if (magnitude >= 0x477ff000u) {
        half_bits = 0x7c00u;
      } else if (magnitude < 0x38800000u) {
        // Subnormal or zero: adding 0.5 aligns the mantissa so that the addition rounds at 2^-24.
        half_bits = as<std::uint32_t>(as<float>(magnitude) + 0.5f) - 0x3f000000u;
      } else {
        half_bits = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
      }
      p[i] = static_cast<std::uint16_t>(sign | half_bits);
    }
  }

  // One binary16; one in each of four blocks of `stride` bytes; and these with their neighbours.
  PLUMB_INLINE float half(const std::uint8_t* p) {
    const std::uint32_t h = read<std::uint16_t>(p);
    const std::uint32_t magnitude = (h & 0x7fffu) << 13;
    const std::uint32_t value = as<std::uint32_t>(as<float>(magnitude) * 0x1p112f);
    return as<float>((magnitude >= (0x7c00u << 13) ? value | 0x7f800000u : value) | ((h & 0x8000u) << 16));
  }
  template <std::size_t stride>
  PLUMB_INLINE F4 halves(const std::uint8_t* p) {
    return F4{half(p), half(p + stride), half(p + 2 * stride), half(p + 3 * stride)};
  }
  template <std::size_t stride>
  PLUMB_INLINE void half_pairs(const std::uint8_t* p, F4& first, F4& second) {
    first = S::template halves<stride>(p);
    second = S::template halves<stride>(p + 2);
  }

  PLUMB_INLINE S16 wider(B16 v) { return __builtin_convertvector(v, S16); }
  PLUMB_INLINE S16 wider(C16 v) { return __builtin_convertvector(v, S16); }

  // The lanes added pairwise: i with i + n/2, and so on.
  PLUMB_INLINE float sum(Vf v) {
    float x[lanes];
    store(x, v);
#pragma GCC unroll 4
    for (std::size_t half = lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (std::size_t i = 0; i < half; ++i) x[i] += x[i + half];
    }
    return x[0];
  }

  // Sixteen bytes of each of four blocks.
  template <std::size_t stride>
  PLUMB_INLINE Wide pieces(const std::uint8_t* p) {
    std::uint8_t bytes[64];
#pragma GCC unroll 4
    for (std::size_t b = 0; b < 4; ++b) memcpy(bytes + 16 * b, p + b * stride, 16);
    return read<Wide>(bytes);
  }
  // The same 32 bytes twice: shifted right by `low` bits (left if negative), and by `high` bits. The mask must remove all
  // bits that crossed a byte's border.
  PLUMB_INLINE Wide bits(const std::uint8_t* p, int low, int high, std::uint8_t mask) {
    Wide r;
    if constexpr (vector_bytes == 64) {
      std::uint8_t twice[64];
      memcpy(twice, p, 32);
      memcpy(twice + 32, p, 32);
      Vu both = shift(read<Vu>(twice), low);
      const Vu upper = shift(read<Vu>(twice), high);
      for (std::size_t lane = 8; lane < lanes; ++lane) both[lane] = upper[lane];
      r.part[0] = as<Vb>(both);
    } else {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < wide_parts; ++i) {
        r.part[i] = as<Vb>(shift(read<Vu>(p + i * vector_bytes % 32), i * vector_bytes < 32 ? low : high));
      }
    }
    for (Vb& part : r.part) part &= splat_byte(mask);
    return r;
  }
  PLUMB_INLINE Vu shift(Vu v, int right) { return right >= 0 ? v >> right : v << -right; }
  // The low nibbles of sixteen bytes, then their high nibbles; then the same for the next sixteen bytes.
  PLUMB_INLINE Wide nibble_pairs(const std::uint8_t* p) {
    Wide r;
#pragma GCC unroll 4
    for (std::size_t i = 0; i < wide_parts; ++i) {
      B16 q[vector_bytes / 16];
#pragma GCC unroll 4
      for (std::size_t k = 0; k < vector_bytes / 16; ++k) {
        const std::size_t quarter = i * (vector_bytes / 16) + k;
        q[k] = read<B16>(p + quarter / 2 * 16);
        q[k] = quarter % 2 == 0 ? q[k] & std::uint8_t{0x0f} : q[k] >> 4;
      }
      r.part[i] = read<Vb>(q);
    }
    return r;
  }
  // `value` in each byte whose bit is set.
  PLUMB_INLINE Vb where(std::uint64_t bits, std::uint8_t value) {
    std::uint8_t bytes[vector_bytes];
    for (std::size_t i = 0; i < vector_bytes; ++i) bytes[i] = (bits >> i) & 1 ? value : 0;
    return read<Vb>(bytes);
  }
  // For each byte of `index`, all below 16, its entry in a table of sixteen.
  PLUMB_INLINE Vb look_up(const std::uint8_t* table, Vb index) {
    std::uint64_t words[vector_bytes / 8];
    memcpy(words, &index, sizeof words);
    for (std::uint64_t& word : words) {
      std::uint64_t found = 0;
#pragma GCC unroll 8
      for (int at = 0; at < 64; at += 8) found |= std::uint64_t{table[(word >> at) & 0x0f]} << at;
      word = found;
    }
    return read<Vb>(words);
  }

  // Adds to each lane the products of its four unsigned and its four signed bytes.
  PLUMB_INLINE Vi dot(Vi total, Vb u, Vb s) {
    return S::dot16(S::dot16(total, even(u), signed_even(s)), odd(u), signed_odd(s));
  }
  PLUMB_INLINE Vs even(Vb u) { return as<Vs>(as<Vus>(u) & std::uint16_t{0xff}); }
  PLUMB_INLINE Vs odd(Vb u) { return as<Vs>(as<Vus>(u) >> 8); }
  PLUMB_INLINE Vs signed_even(Vb s) { return as<Vs>(as<Vus>(s) << 8) >> 8; }
  PLUMB_INLINE Vs signed_odd(Vb s) { return as<Vs>(s) >> 8; }
  // The same for pairs of 16-bit integers.
  PLUMB_INLINE Vi dot16(Vi total, Vs a, Vs b) {
    const auto low = [](Vs v) __attribute__((always_inline)) { return as<Vi>(as<Vu>(v) << 16) >> 16; };
    const auto high = [](Vs v) __attribute__((always_inline)) { return as<Vi>(v) >> 16; };
    return total + low(a) * low(b) + high(a) * high(b);
  }
  // dot() of the two halves of a group's weights. Weights of small blocks are below 64 or, with an offset of 128, below 256
  // (or signed, see signed_weights).
  template <bool offset_128>
  PLUMB_INLINE Vi dot_halves(Vi total, Vb low, Vb high, const std::int8_t* x_low, const std::int8_t* x_high) {
    return S::dot(S::dot(total, low, read<Vb>(x_low)), high, read<Vb>(x_high));
  }
  // Adds the products of vector `part` of a block's weights, each times the scale of its sixteen.
  template <bool offset_128>
  PLUMB_INLINE Vi dot_scaled(Vi total, Vb w, const std::int8_t* x, S16 scales, std::size_t part) {
    // Weights are below 256 and scales at most 128: their products fit 16 bits.
    std::int16_t scale[2 * lanes];
#pragma GCC unroll 32
    for (std::size_t i = 0; i < 2 * lanes; ++i) scale[i] = scales[(part * lanes + i / 2) / 4];
    const Vs even_weights = even(w) * read<Vs>(scale);
    const Vs odd_weights = odd(w) * read<Vs>(scale);
    const Vb s = read<Vb>(x);
    return S::dot16(S::dot16(total, even_weights, signed_even(s)), odd_weights, signed_odd(s));
  }
  // The sums of products of sixteen integers, spread over lanes in any way.
  PLUMB_INLINE Vi dot_sixteens(S16 a, S16 b) {
    constexpr std::size_t n = lanes < 8 ? 16 : 2 * lanes;
    std::int16_t x[n] = {};
    std::int16_t y[n] = {};
    memcpy(x, &a, sizeof a);
    memcpy(y, &b, sizeof b);
    Vi total = {};
#pragma GCC unroll 2
    for (std::size_t i = 0; i < n; i += 2 * lanes) total = S::dot16(total, read<Vs>(x + i), read<Vs>(y + i));
    return total;
  }
  // Each block's value in the lanes that have its sums in vector `part`: four lanes for each block.
  PLUMB_INLINE Vf spread(F4 of_blocks, std::size_t part) {
    Vf r;
    for (std::size_t lane = 0; lane < lanes; ++lane) r[lane] = of_blocks[(part * lanes + lane) / 4];
    return r;
  }
  // Transposes `lanes` rows of `lanes` 32-bit words.
  PLUMB_INLINE void turn(Vu v[lanes]) {
    std::uint32_t rows[lanes][lanes];
    std::uint32_t columns[lanes][lanes];
    memcpy(rows, v, sizeof rows);
    for (std::size_t i = 0; i < lanes; ++i) {
      for (std::size_t j = 0; j < lanes; ++j) columns[i][j] = rows[j][i];
    }
    memcpy(v, columns, sizeof columns);
  }
};

}  // namespace
}  // namespace plumb::backends::cpu
