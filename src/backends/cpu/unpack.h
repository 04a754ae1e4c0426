// Quantized blocks as plain integers, one function a format: what the kernels of every instruction set compute with where
// they have nothing faster. The layouts are those of quants/blocks.h, read here by byte offset because inline functions of
// shared headers must not be compiled under a kernel file's flags (see kernels.h); blocks.h's structs are checked
// against the sizes and offsets in isa.cpp.
#pragma once

#include <string.h>

#include "backends/cpu/kernels.h"

namespace plumb::backends::cpu {
namespace {

// Four blocks of 32: weight = d * (q - offset) + m, q in the order of X128.
struct Unpacked128 {
  alignas(64) std::uint8_t q[128];
  float d[4];
  float m[4];
};

// A block of 256: weight = d * scale[i / 16] * (q - offset) - dmin * min[i / 16].
struct Unpacked256 {
  alignas(64) std::uint8_t q[256];
  std::int16_t scale[16];
  std::int16_t min[16];
  float d;
  float dmin;
};

static inline std::uint16_t read16(const std::uint8_t* p) {
  std::uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline std::uint32_t read32(const std::uint8_t* p) {
  std::uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline float bits_as_float(std::uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
// binary16 to float, exact (base/half.h says why).
static inline float half(const std::uint8_t* p) {
  const std::uint32_t h = read16(p);
  const std::uint32_t sign = (h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return bits_as_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_as_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

// Formats with blocks of 32. `one` unpacks a block to its place among the four: `low` and `high` get the weights 0..15 and
// 16..31. has_min says whether m is other than zero.
static inline void nibbles(const std::uint8_t* qs, std::uint8_t* low, std::uint8_t* high) {
  for (int i = 0; i < 16; ++i) {
    low[i] = qs[i] & 0x0f;
    high[i] = static_cast<std::uint8_t>(qs[i] >> 4);
  }
}
static inline void fifth_bits(std::uint32_t bits, std::uint8_t* low, std::uint8_t* high) {
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<std::uint8_t>(low[i] | (((bits >> i) & 1u) << 4));
    high[i] = static_cast<std::uint8_t>(high[i] | (((bits >> (i + 16)) & 1u) << 4));
  }
}

struct Q4_0 {
  static constexpr std::size_t bytes = 18;
  static constexpr int log2_offset = 3;
  static constexpr bool has_min = false;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = 0;
    nibbles(p + 2, low, high);
  }
};
struct Q4_1 {
  static constexpr std::size_t bytes = 20;
  static constexpr int log2_offset = -1;
  static constexpr bool has_min = true;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = half(p + 2);
    nibbles(p + 4, low, high);
  }
};
struct Q5_0 {
  static constexpr std::size_t bytes = 22;
  static constexpr int log2_offset = 4;
  static constexpr bool has_min = false;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = 0;
    nibbles(p + 6, low, high);
    fifth_bits(read32(p + 2), low, high);
  }
};
struct Q5_1 {
  static constexpr std::size_t bytes = 24;
  static constexpr int log2_offset = -1;
  static constexpr bool has_min = true;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = half(p + 2);
    nibbles(p + 8, low, high);
    fifth_bits(read32(p + 4), low, high);
  }
};
struct Q8_0 {
  static constexpr std::size_t bytes = 34;
  static constexpr int log2_offset = 7;
  static constexpr bool has_min = false;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = 0;
    for (int i = 0; i < 16; ++i) {
      low[i] = p[2 + i] ^ 0x80;
      high[i] = p[18 + i] ^ 0x80;
    }
  }
};

// Levels of the lookup formats, plus the offset.
constexpr std::uint8_t iq4_levels_128[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr std::uint8_t mxfp4_levels_16[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

struct IQ4_NL {
  static constexpr std::size_t bytes = 18;
  static constexpr int log2_offset = 7;
  static constexpr bool has_min = false;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = half(p);
    *m = 0;
    for (int i = 0; i < 16; ++i) {
      low[i] = iq4_levels_128[p[2 + i] & 0x0f];
      high[i] = iq4_levels_128[p[2 + i] >> 4];
    }
  }
};
// 2^(e - 128), subnormal for e < 2.
static inline float e8m0_half(std::uint32_t e) { return bits_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }
struct MXFP4 {
  static constexpr std::size_t bytes = 17;
  static constexpr int log2_offset = 4;
  static constexpr bool has_min = false;
  static inline void one(const std::uint8_t* p, std::uint8_t* low, std::uint8_t* high, float* d, float* m) {
    *d = e8m0_half(p[0]);
    *m = 0;
    for (int i = 0; i < 16; ++i) {
      low[i] = mxfp4_levels_16[p[1 + i] & 0x0f];
      high[i] = mxfp4_levels_16[p[1 + i] >> 4];
    }
  }
};

// Up to four consecutive blocks; those that are missing have d = m = 0.
template <class Format>
static inline void unpack(const std::uint8_t* p, std::size_t n_blocks, Unpacked128& out) {
  for (std::size_t b = 0; b < n_blocks; ++b) {
    Format::one(p + b * Format::bytes, out.q + 16 * b, out.q + 64 + 16 * b, &out.d[b], &out.m[b]);
  }
  for (std::size_t b = n_blocks; b < 4; ++b) {
    memset(out.q + 16 * b, 0, 16);
    memset(out.q + 64 + 16 * b, 0, 16);
    out.d[b] = 0;
    out.m[b] = 0;
  }
}

// Scales and mins of Q4_K and Q5_K (see quants/blocks.h), each twice: for the two sixteens of a group of 32.
static inline void scales_mins(const std::uint8_t* packed, std::int16_t* scale, std::int16_t* min) {
  for (int i = 0; i < 4; ++i) {
    const int s_low = packed[i] & 0x3f;
    const int m_low = packed[i + 4] & 0x3f;
    const int s_high = (packed[i + 8] & 0x0f) | ((packed[i] >> 2) & 0x30);
    const int m_high = (packed[i + 8] >> 4) | ((packed[i + 4] >> 2) & 0x30);
    scale[2 * i] = scale[2 * i + 1] = static_cast<std::int16_t>(s_low);
    scale[2 * i + 8] = scale[2 * i + 9] = static_cast<std::int16_t>(s_high);
    min[2 * i] = min[2 * i + 1] = static_cast<std::int16_t>(m_low);
    min[2 * i + 8] = min[2 * i + 9] = static_cast<std::int16_t>(m_high);
  }
}

struct Q2_K {
  static constexpr std::size_t bytes = 84;
  static constexpr int offset = 0;
  static constexpr bool has_min = true;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    for (int i = 0; i < 16; ++i) {
      out.scale[i] = p[i] & 0x0f;
      out.min[i] = static_cast<std::int16_t>(p[i] >> 4);
    }
    for (int h = 0; h < 2; ++h) {
      for (int s = 0; s < 4; ++s) {
        for (int j = 0; j < 32; ++j) out.q[128 * h + 32 * s + j] = (p[16 + 32 * h + j] >> (2 * s)) & 3;
      }
    }
    out.d = half(p + 80);
    out.dmin = half(p + 82);
  }
};
struct Q3_K {
  static constexpr std::size_t bytes = 110;
  static constexpr int offset = 4;
  static constexpr bool has_min = false;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    const std::uint8_t* packed = p + 96;
    for (int i = 0; i < 16; ++i) {
      const int low = i < 8 ? packed[i] & 0x0f : packed[i - 8] >> 4;
      const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
      out.scale[i] = static_cast<std::int16_t>((low | (high << 4)) - 32);
      out.min[i] = 0;
    }
    for (int h = 0; h < 2; ++h) {
      for (int s = 0; s < 4; ++s) {
        for (int j = 0; j < 32; ++j) {
          out.q[128 * h + 32 * s + j] =
              static_cast<std::uint8_t>(((p[32 + 32 * h + j] >> (2 * s)) & 3) | (((p[j] >> (4 * h + s)) & 1) << 2));
        }
      }
    }
    out.d = half(p + 108);
    out.dmin = 0;
  }
};
struct Q4_K {
  static constexpr std::size_t bytes = 144;
  static constexpr int offset = 0;
  static constexpr bool has_min = true;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    out.d = half(p);
    out.dmin = half(p + 2);
    scales_mins(p + 4, out.scale, out.min);
    for (int c = 0; c < 4; ++c) {
      for (int j = 0; j < 32; ++j) {
        out.q[64 * c + j] = p[16 + 32 * c + j] & 0x0f;
        out.q[64 * c + 32 + j] = static_cast<std::uint8_t>(p[16 + 32 * c + j] >> 4);
      }
    }
  }
};
struct Q5_K {
  static constexpr std::size_t bytes = 176;
  static constexpr int offset = 0;
  static constexpr bool has_min = true;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    out.d = half(p);
    out.dmin = half(p + 2);
    scales_mins(p + 4, out.scale, out.min);
    for (int c = 0; c < 4; ++c) {
      for (int j = 0; j < 32; ++j) {
        const std::uint8_t qs = p[48 + 32 * c + j];
        const std::uint8_t high = p[16 + j];
        out.q[64 * c + j] = static_cast<std::uint8_t>((qs & 0x0f) | (((high >> (2 * c)) & 1) << 4));
        out.q[64 * c + 32 + j] = static_cast<std::uint8_t>((qs >> 4) | (((high >> (2 * c + 1)) & 1) << 4));
      }
    }
  }
};
struct Q6_K {
  static constexpr std::size_t bytes = 210;
  static constexpr int offset = 32;
  static constexpr bool has_min = false;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    for (int h = 0; h < 2; ++h) {
      for (int j = 0; j < 64; ++j) {
        const std::uint8_t low = p[64 * h + j];
        const std::uint8_t high = p[128 + 32 * h + j % 32];
        out.q[128 * h + j] = static_cast<std::uint8_t>((low & 0x0f) | (((high >> (2 * (j / 32))) & 3) << 4));
        out.q[128 * h + 64 + j] = static_cast<std::uint8_t>((low >> 4) | (((high >> (4 + 2 * (j / 32))) & 3) << 4));
      }
    }
    for (int i = 0; i < 16; ++i) {
      out.scale[i] = static_cast<std::int16_t>((p[192 + i] ^ 0x80) - 128);
      out.min[i] = 0;
    }
    out.d = half(p + 208);
    out.dmin = 0;
  }
};
struct IQ4_XS {
  static constexpr std::size_t bytes = 136;
  static constexpr int offset = 128;
  static constexpr bool has_min = false;
  static inline void unpack(const std::uint8_t* p, Unpacked256& out) {
    const std::uint32_t high = read16(p + 2);
    for (int g = 0; g < 8; ++g) {
      const int low = (p[4 + g / 2] >> (4 * (g % 2))) & 0x0f;
      const int scale = (low | static_cast<int>(((high >> (2 * g)) & 3) << 4)) - 32;
      out.scale[2 * g] = out.scale[2 * g + 1] = static_cast<std::int16_t>(scale);
      out.min[2 * g] = out.min[2 * g + 1] = 0;
      for (int j = 0; j < 16; ++j) {
        out.q[32 * g + j] = iq4_levels_128[p[8 + 16 * g + j] & 0x0f];
        out.q[32 * g + 16 + j] = iq4_levels_128[p[8 + 16 * g + j] >> 4];
      }
    }
    out.d = half(p);
    out.dmin = 0;
  }
};

}  // namespace
}  // namespace plumb::backends::cpu
