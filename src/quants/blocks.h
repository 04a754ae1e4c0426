// The block layouts of every quantized format, as in a GGUF file (little-endian, packed). Every struct has alignment 1, so
// that any pointer into a mapped file may be cast to it.
//
// "Nibble-split" means: of n bytes, byte j has weight j in its low four bits and weight j + n in its high four bits.
// Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (facts, not code).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/half.h"

namespace plumb::quants {

// A 16-bit little-endian integer at any address.
struct U16 {
  std::array<std::uint8_t, 2> bytes;

  [[nodiscard]] constexpr std::uint16_t bits() const { return static_cast<std::uint16_t>(bytes[0] | (bytes[1] << 8)); }
  constexpr void set_bits(std::uint16_t value) {
    bytes = {static_cast<std::uint8_t>(value & 0xff), static_cast<std::uint8_t>(value >> 8)};
  }
};

// An IEEE binary16 at any address.
struct Half : U16 {
  [[nodiscard]] constexpr float value() const { return f16_to_f32(bits()); }
  constexpr void set(float value) { set_bits(f32_to_f16(value)); }
};

// Weights in a block of each family of format_list.h.
inline constexpr std::size_t floats_block = 1;
inline constexpr std::size_t small_block = 32;
inline constexpr std::size_t super_block = 256;

struct BlockF32 {
  std::array<std::uint8_t, 4> bytes;
};
struct BlockF16 {
  Half value;
};
struct BlockBF16 {
  U16 value;
};

// w = d * (q - 8), q in 0..15.
struct BlockQ4_0 {
  Half d;
  std::array<std::uint8_t, 16> qs;  // nibble-split
};

// w = d * q + m, q in 0..15.
struct BlockQ4_1 {
  Half d;
  Half m;
  std::array<std::uint8_t, 16> qs;  // nibble-split
};

// w = d * (q - 16), q in 0..31.
struct BlockQ5_0 {
  Half d;
  std::array<std::uint8_t, 4> qh;   // bit j (of 32, little-endian) is bit 4 of weight j
  std::array<std::uint8_t, 16> qs;  // bits 0..3, nibble-split
};

// w = d * q + m, q in 0..31.
struct BlockQ5_1 {
  Half d;
  Half m;
  std::array<std::uint8_t, 4> qh;   // as in Q5_0
  std::array<std::uint8_t, 16> qs;  // as in Q5_0
};

// w = d * q.
struct BlockQ8_0 {
  Half d;
  std::array<std::int8_t, 32> qs;
};

// w = (d * scale) * q - (dmin * min), q in 0..3, one scale and min for every 16 weights.
struct BlockQ2_K {
  std::array<std::uint8_t, 16> scales;  // low nibble: scale, high nibble: min
  std::array<std::uint8_t, 64> qs;      // bits 2s..2s+1 of byte 32h + j: weight 128h + 32s + j
  Half d;
  Half dmin;
};

// w = (d * (scale - 32)) * (q - 4), q in 0..7, one 6-bit scale for every 16 weights.
struct BlockQ3_K {
  std::array<std::uint8_t, 32> hmask;   // bit k of byte j: bit 2 of weight 32k + j
  std::array<std::uint8_t, 64> qs;      // bits 0..1, as in Q2_K
  std::array<std::uint8_t, 12> scales;  // see unpack_scales
  Half d;
};

// w = (d * scale) * q - (dmin * min), q in 0..15, one 6-bit scale and min for every 32 weights.
struct BlockQ4_K {
  Half d;
  Half dmin;
  std::array<std::uint8_t, 12> scales;  // see unpack_scales_mins
  std::array<std::uint8_t, 128> qs;     // four runs of 32 bytes, each nibble-split: 64 weights a run
};

// As Q4_K with q in 0..31.
struct BlockQ5_K {
  Half d;
  Half dmin;
  std::array<std::uint8_t, 12> scales;
  std::array<std::uint8_t, 32> qh;   // bit k of byte j: bit 4 of weight 32k + j
  std::array<std::uint8_t, 128> qs;  // bits 0..3, as in Q4_K
};

// w = (d * scale) * (q - 32), q in 0..63, one signed 8-bit scale for every 16 weights.
struct BlockQ6_K {
  std::array<std::uint8_t, 128> ql;  // bits 0..3: two runs of 64 bytes, each nibble-split: 128 weights a run
  std::array<std::uint8_t, 64> qh;   // bits 4..5: laid out as Q2_K's qs
  std::array<std::int8_t, 16> scales;
  Half d;
};

// w = d * (q - 1), q in 0..2: ternary weights. (A q of 3 is decoded by the same formula.)
struct BlockTQ2_0 {
  std::array<std::uint8_t, 64> qs;  // as in Q2_K
  Half d;
};

// The 16 levels of an IQ4_NL or IQ4_XS nibble.
inline constexpr std::array<std::int8_t, 16> iq4_levels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};

// w = d * iq4_levels[q].
struct BlockIQ4_NL {
  Half d;
  std::array<std::uint8_t, 16> qs;  // nibble-split
};

// w = (d * (scale - 32)) * iq4_levels[q], one 6-bit scale for every 32 weights.
struct BlockIQ4_XS {
  Half d;
  U16 scales_h;                          // bits 2g..2g+1: bits 4..5 of scale g
  std::array<std::uint8_t, 4> scales_l;  // bits 0..3: scale 2i in the low, 2i + 1 in the high nibble of byte i
  std::array<std::uint8_t, 128> qs;      // eight runs of 16 bytes, each nibble-split: 32 weights a run
};

// The E2M1 values of an MXFP4 nibble, doubled so that they are integers; e8m0_half halves the scale.
// OCP Microscaling Formats (MX) Specification v1.0.
inline constexpr std::array<std::int8_t, 16> mxfp4_levels = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// w = e8m0_half(e) * mxfp4_levels[q].
struct BlockMXFP4 {
  std::uint8_t e;
  std::array<std::uint8_t, 16> qs;  // nibble-split
};

// Half of the scale that an E8M0 byte encodes: 2^(e - 128), subnormal for e < 2. 255 is NaN in the MX specification, but
// 2^127 here, as in ggml.
constexpr float e8m0_half(std::uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<std::uint32_t>(e - 1) << 23);
}

// The eight 6-bit scales and mins of Q4_K and Q5_K. The low six bits of bytes 0..3 are scales 0..3, those of bytes 4..7
// mins 0..3. Bytes 8..11 have bits 0..3 of scales 4..7 (low nibble) and of mins 4..7 (high nibble); their bits 4..5 are the
// top two bits of bytes 0..3 (scales) and 4..7 (mins).
constexpr void unpack_scales_mins(const std::array<std::uint8_t, 12>& packed, std::array<std::uint8_t, 8>& scales,
                                  std::array<std::uint8_t, 8>& mins) {
  for (std::size_t i = 0; i < 4; ++i) {
    scales[i] = packed[i] & 0x3f;
    mins[i] = packed[i + 4] & 0x3f;
    scales[i + 4] = static_cast<std::uint8_t>((packed[i + 8] & 0x0f) | ((packed[i] >> 2) & 0x30));
    mins[i + 4] = static_cast<std::uint8_t>((packed[i + 8] >> 4) | ((packed[i + 4] >> 2) & 0x30));
  }
}

// The inverse: values in 0..63.
constexpr void pack_scales_mins(const std::array<std::uint8_t, 8>& scales, const std::array<std::uint8_t, 8>& mins,
                                std::array<std::uint8_t, 12>& packed) {
  for (std::size_t i = 0; i < 4; ++i) {
    packed[i] = static_cast<std::uint8_t>(scales[i] | ((scales[i + 4] & 0x30) << 2));
    packed[i + 4] = static_cast<std::uint8_t>(mins[i] | ((mins[i + 4] & 0x30) << 2));
    packed[i + 8] = static_cast<std::uint8_t>((scales[i + 4] & 0x0f) | ((mins[i + 4] & 0x0f) << 4));
  }
}

// The sixteen 6-bit scales of Q3_K; 0..63 mean -32..31. Bits 0..3 of scale i are the low (i < 8) or high nibble of byte
// i % 8; bits 4..5 are bits 2(i / 4) and 2(i / 4) + 1 of byte 8 + i % 4.
constexpr void unpack_scales(const std::array<std::uint8_t, 12>& packed, std::array<std::int8_t, 16>& scales) {
  for (std::size_t i = 0; i < 16; ++i) {
    const int low = i < 8 ? packed[i] & 0x0f : packed[i - 8] >> 4;
    const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
    scales[i] = static_cast<std::int8_t>((low | (high << 4)) - 32);
  }
}

static_assert(sizeof(BlockQ4_0) == 18 && alignof(BlockQ4_0) == 1);
static_assert(sizeof(BlockQ4_1) == 20 && alignof(BlockQ4_1) == 1);
static_assert(sizeof(BlockQ5_0) == 22 && alignof(BlockQ5_0) == 1);
static_assert(sizeof(BlockQ5_1) == 24 && alignof(BlockQ5_1) == 1);
static_assert(sizeof(BlockQ8_0) == 34 && alignof(BlockQ8_0) == 1);
static_assert(sizeof(BlockQ2_K) == 84 && alignof(BlockQ2_K) == 1);
static_assert(sizeof(BlockQ3_K) == 110 && alignof(BlockQ3_K) == 1);
static_assert(sizeof(BlockQ4_K) == 144 && alignof(BlockQ4_K) == 1);
static_assert(sizeof(BlockQ5_K) == 176 && alignof(BlockQ5_K) == 1);
static_assert(sizeof(BlockQ6_K) == 210 && alignof(BlockQ6_K) == 1);
static_assert(sizeof(BlockTQ2_0) == 66 && alignof(BlockTQ2_0) == 1);
static_assert(sizeof(BlockIQ4_NL) == 18 && alignof(BlockIQ4_NL) == 1);
static_assert(sizeof(BlockIQ4_XS) == 136 && alignof(BlockIQ4_XS) == 1);
static_assert(sizeof(BlockMXFP4) == 17 && alignof(BlockMXFP4) == 1);

}  // namespace plumb::quants
