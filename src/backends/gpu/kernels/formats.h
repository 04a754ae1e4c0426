// How a kernel reads each format. One struct a format; all give weights in groups of 32 along a row, whatever the size of
// the format's block:
//   weights(row, group, n, w)   the group's 32 weights as float, exactly as src/quants decodes them (up to the last bit,
//   where a
//                               compiler fuses a multiplication and a subtraction); beyond n they are 0
//   unpack(row, group)          quantized formats: the group as integers, for who multiplies integers
// Layouts are those of src/quants/blocks.h, where they are described; the tables below repeat its levels, which a test
// holds equal. `row` is the row's first byte: rows begin at multiples of the block's size, so a load is as wide as that
// size allows.
#pragma once

#include "backends/gpu/kernels/dialect.h"

// weight[i] = scale[i / 16] * q(i) - min[i / 16], q(i) being byte i % 4 of words[i / 4] as a signed integer.
struct Group {
  uint words[8];
  float scale[2];
  float min[2];
};

INLINE uint load_u16(DEVICE const uchar* p) { return *(DEVICE const ushort*)p; }
INLINE float load_half(DEVICE const uchar* p) { return float(as_type<half>(*(DEVICE const ushort*)p)); }
INLINE float low_half(uint word) { return float(as_type<half>(ushort(word & 0xffffu))); }
INLINE float high_half(uint word) { return float(as_type<half>(ushort(word >> 16))); }
// Four bytes at a multiple of 2.
INLINE uint load_u32_at_2(DEVICE const uchar* p) { return load_u16(p) | (load_u16(p + 2) << 16); }
INLINE uint load_u32_at_4(DEVICE const uchar* p) { return *(DEVICE const uint*)p; }
INLINE uint load_u32_at_1(DEVICE const uchar* p) {
  return uint(p[0]) | (uint(p[1]) << 8) | (uint(p[2]) << 16) | (uint(p[3]) << 24);
}

// Four unsigned bytes below 128, less the same number each, as signed bytes.
INLINE uint less(uint bytes, uint four_times) { return ((bytes | 0x80808080u) - four_times) ^ 0x80808080u; }

// Bit j of the four lowest bits, to bit 4 of byte j.
INLINE uint spread_bit4(uint bits) {
  return ((bits & 1u) << 4) | ((bits & 2u) << 11) | ((bits & 4u) << 18) | ((bits & 8u) << 25);
}

INLINE int signed_byte(uint word, uint i) { return int(word << (24u - 8u * i)) >> 24; }

INLINE void decode(THREAD const Group& g, THREAD float* w) {
  for (uint i = 0; i < 32; ++i) w[i] = g.scale[i / 16] * float(signed_byte(g.words[i / 4], i % 4)) - g.min[i / 16];
}

// The levels of IQ4 and (doubled) MXFP4, four to a word.
CONSTANT_TABLE uint iq4_words[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
CONSTANT_TABLE uint mxfp4_words[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};

// Four nibbles, one a byte, looked up in a table of 16 bytes.
INLINE uint look_up(CONSTANT_POINTER(uint) table, uint nibbles) {
  uint bytes = 0;
  for (uint i = 0; i < 4; ++i) {
    const uint q = (nibbles >> (8u * i)) & 15u;
    bytes |= ((table[q >> 2] >> (8u * (q & 3u))) & 255u) << (8u * i);
  }
  return bytes;
}

// Float formats, whose rows may have any length: whole groups of rows of a multiple of 8 elements, which begin at multiples
// of 16 bytes, are loaded 16 bytes at a time.
struct f32_format {
  static INLINE_MEMBER void weights(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
    DEVICE const float* values = (DEVICE const float*)row + 32 * group;
    if (n % 8 == 0 && 32 * group + 32 <= n) {
      for (uint k = 0; k < 8; ++k) {
        const float4 v = ((DEVICE const float4*)values)[k];
        w[4 * k] = v.x;
        w[4 * k + 1] = v.y;
        w[4 * k + 2] = v.z;
        w[4 * k + 3] = v.w;
      }
    } else {
      for (uint i = 0; i < 32; ++i) w[i] = 32 * group + i < n ? values[i] : 0.0f;
    }
  }
};
struct f16_format {
  static INLINE_MEMBER void weights(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
    DEVICE const half* values = (DEVICE const half*)row + 32 * group;
    if (n % 8 == 0 && 32 * group + 32 <= n) {
      for (uint k = 0; k < 4; ++k) {
        const uint4 v = ((DEVICE const uint4*)values)[k];
        const uint words[4] = {v.x, v.y, v.z, v.w};
        for (uint i = 0; i < 4; ++i) {
          w[8 * k + 2 * i] = low_half(words[i]);
          w[8 * k + 2 * i + 1] = high_half(words[i]);
        }
      }
    } else {
      for (uint i = 0; i < 32; ++i) w[i] = 32 * group + i < n ? float(values[i]) : 0.0f;
    }
  }
};
struct bf16_format {
  static INLINE_MEMBER void weights(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
    DEVICE const ushort* values = (DEVICE const ushort*)row + 32 * group;
    if (n % 8 == 0 && 32 * group + 32 <= n) {
      for (uint k = 0; k < 4; ++k) {
        const uint4 v = ((DEVICE const uint4*)values)[k];
        const uint words[4] = {v.x, v.y, v.z, v.w};
        for (uint i = 0; i < 4; ++i) {
          w[8 * k + 2 * i] = as_type<float>(words[i] << 16);
          w[8 * k + 2 * i + 1] = as_type<float>(words[i] & 0xffff0000u);
        }
      }
    } else {
      for (uint i = 0; i < 32; ++i) w[i] = 32 * group + i < n ? as_type<float>(uint(values[i]) << 16) : 0.0f;
    }
  }
};

struct q4_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 18 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = 0.0f;
    uint words[4];
    LOAD_WORDS_AT_2(block + 2, 4, words);
    for (uint k = 0; k < 4; ++k) {
      const uint word = words[k];
      g.words[k] = less(word & 0x0f0f0f0fu, 0x08080808u);
      g.words[k + 4] = less((word >> 4) & 0x0f0f0f0fu, 0x08080808u);
    }
    return g;
  }
};
struct q4_1_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 20 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = -load_half(block + 2);
    for (uint k = 0; k < 4; ++k) {
      const uint word = load_u32_at_4(block + 4 + 4 * k);
      g.words[k] = word & 0x0f0f0f0fu;
      g.words[k + 4] = (word >> 4) & 0x0f0f0f0fu;
    }
    return g;
  }
};
struct q5_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 22 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = 0.0f;
    const uint high = load_u32_at_2(block + 2);
    uint words[4];
    LOAD_WORDS_AT_2(block + 6, 4, words);
    for (uint k = 0; k < 4; ++k) {
      const uint word = words[k];
      g.words[k] = less((word & 0x0f0f0f0fu) | spread_bit4(high >> (4 * k)), 0x10101010u);
      g.words[k + 4] = less(((word >> 4) & 0x0f0f0f0fu) | spread_bit4(high >> (4 * k + 16)), 0x10101010u);
    }
    return g;
  }
};
struct q5_1_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 24 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = -load_half(block + 2);
    const uint high = load_u32_at_4(block + 4);
    for (uint k = 0; k < 4; ++k) {
      const uint word = load_u32_at_4(block + 8 + 4 * k);
      g.words[k] = (word & 0x0f0f0f0fu) | spread_bit4(high >> (4 * k));
      g.words[k + 4] = ((word >> 4) & 0x0f0f0f0fu) | spread_bit4(high >> (4 * k + 16));
    }
    return g;
  }
};
struct q8_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 34 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = 0.0f;
    LOAD_WORDS_AT_2(block + 2, 8, g.words);
    return g;
  }
};
struct q2_k_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 84 * (group >> 3);
    const uint in_block = group & 7u;
    const float d = load_half(block + 80);
    const float dmin = load_half(block + 82);
    Group g;
    for (uint k = 0; k < 2; ++k) {
      const uint packed = block[2 * in_block + k];
      g.scale[k] = d * float(packed & 15u);
      g.min[k] = dmin * float(packed >> 4);
    }
    const uint shift = 2 * (in_block & 3u);
    for (uint k = 0; k < 8; ++k) {
      g.words[k] = (load_u32_at_4(block + 16 + 32 * (in_block >> 2) + 4 * k) >> shift) & 0x03030303u;
    }
    return g;
  }
};
struct q3_k_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 110 * (group >> 3);
    const uint in_block = group & 7u;
    const float d = load_half(block + 108);
    Group g;
    for (uint k = 0; k < 2; ++k) {
      const uint i = 2 * in_block + k;
      const uint low = (uint(block[96 + (i & 7u)]) >> (i < 8 ? 0u : 4u)) & 15u;
      const uint high = (uint(block[104 + (i & 3u)]) >> (2 * (i >> 2))) & 3u;
      g.scale[k] = d * float(int(low | (high << 4)) - 32);
      g.min[k] = 0.0f;
    }
    const uint shift = 2 * (in_block & 3u);
    uint lows[8], highs[8];
    LOAD_WORDS_AT_2(block + 32 + 32 * (in_block >> 2), 8, lows);
    LOAD_WORDS_AT_2(block, 8, highs);
    for (uint k = 0; k < 8; ++k) {
      const uint low = (lows[k] >> shift) & 0x03030303u;
      const uint high = (highs[k] >> in_block) & 0x01010101u;
      g.words[k] = less(low | (high << 2), 0x04040404u);
    }
    return g;
  }
};
// The 6-bit scale and min of group i of a Q4_K or Q5_K block; `header` is the block's first 16 bytes: d, dmin, 12 packed
// ones.
INLINE void load_scale_min(uint4 header, uint i, THREAD uint& scale, THREAD uint& min) {
  const uint shift = 8 * (i & 3u);
  const uint a = header.y >> shift;
  const uint b = header.z >> shift;
  const uint c = header.w >> shift;
  scale = i < 4 ? a & 63u : (c & 15u) | ((a >> 2) & 0x30u);
  min = i < 4 ? b & 63u : ((c >> 4) & 15u) | ((b >> 2) & 0x30u);
}
struct q4_k_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 144 * (group >> 3);
    const uint in_block = group & 7u;
    const uint4 header = *(DEVICE const uint4*)block;
    uint scale, min;
    load_scale_min(header, in_block, scale, min);
    Group g;
    g.scale[0] = g.scale[1] = low_half(header.x) * float(scale);
    g.min[0] = g.min[1] = high_half(header.x) * float(min);
    DEVICE const uint4* qs = (DEVICE const uint4*)(block + 16 + 32 * (in_block >> 1));
    const uint shift = 4 * (in_block & 1u);
    const uint4 a = qs[0];
    const uint4 b = qs[1];
    g.words[0] = (a.x >> shift) & 0x0f0f0f0fu;
    g.words[1] = (a.y >> shift) & 0x0f0f0f0fu;
    g.words[2] = (a.z >> shift) & 0x0f0f0f0fu;
    g.words[3] = (a.w >> shift) & 0x0f0f0f0fu;
    g.words[4] = (b.x >> shift) & 0x0f0f0f0fu;
    g.words[5] = (b.y >> shift) & 0x0f0f0f0fu;
    g.words[6] = (b.z >> shift) & 0x0f0f0f0fu;
    g.words[7] = (b.w >> shift) & 0x0f0f0f0fu;
    return g;
  }
};
struct q5_k_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 176 * (group >> 3);
    const uint in_block = group & 7u;
    const uint4 header = *(DEVICE const uint4*)block;
    uint scale, min;
    load_scale_min(header, in_block, scale, min);
    Group g;
    g.scale[0] = g.scale[1] = low_half(header.x) * float(scale);
    g.min[0] = g.min[1] = high_half(header.x) * float(min);
    const uint shift = 4 * (in_block & 1u);
    for (uint k = 0; k < 8; ++k) {
      const uint low = (load_u32_at_4(block + 48 + 32 * (in_block >> 1) + 4 * k) >> shift) & 0x0f0f0f0fu;
      const uint high = (load_u32_at_4(block + 16 + 4 * k) >> in_block) & 0x01010101u;
      g.words[k] = low | (high << 4);
    }
    return g;
  }
};
struct q6_k_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 210 * (group >> 3);
    const uint in_block = group & 7u;
    const float d = load_half(block + 208);
    Group g;
    for (uint k = 0; k < 2; ++k) {
      g.scale[k] = d * float(signed_byte(block[192 + 2 * in_block + k], 0));
      g.min[k] = 0.0f;
    }
    // 128 weights a run: groups 0 and 1 are the low nibbles of its 64 bytes, groups 2 and 3 the high ones.
    const uint run = in_block >> 2;
    const uint in_run = in_block & 3u;
    uint lows[8], highs[8];
    LOAD_WORDS_AT_2(block + 64 * run + 32 * (in_run & 1u), 8, lows);
    LOAD_WORDS_AT_2(block + 128 + 32 * run, 8, highs);
    for (uint k = 0; k < 8; ++k) {
      const uint low = (lows[k] >> (4 * (in_run >> 1))) & 0x0f0f0f0fu;
      const uint high = (highs[k] >> (2 * in_run)) & 0x03030303u;
      g.words[k] = less(low | (high << 4), 0x20202020u);
    }
    return g;
  }
};
struct iq4_nl_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 18 * group;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block);
    g.min[0] = g.min[1] = 0.0f;
    uint words[4];
    LOAD_WORDS_AT_2(block + 2, 4, words);
    for (uint k = 0; k < 4; ++k) {
      const uint word = words[k];
      g.words[k] = look_up(iq4_words, word & 0x0f0f0f0fu);
      g.words[k + 4] = look_up(iq4_words, (word >> 4) & 0x0f0f0f0fu);
    }
    return g;
  }
};
struct iq4_xs_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 136 * (group >> 3);
    const uint in_block = group & 7u;
    const uint low = (uint(block[4 + (in_block >> 1)]) >> (4 * (in_block & 1u))) & 15u;
    const uint high = (load_u16(block + 2) >> (2 * in_block)) & 3u;
    Group g;
    g.scale[0] = g.scale[1] = load_half(block) * float(int(low | (high << 4)) - 32);
    g.min[0] = g.min[1] = 0.0f;
    for (uint k = 0; k < 4; ++k) {
      const uint word = load_u32_at_4(block + 8 + 16 * in_block + 4 * k);
      g.words[k] = look_up(iq4_words, word & 0x0f0f0f0fu);
      g.words[k + 4] = look_up(iq4_words, (word >> 4) & 0x0f0f0f0fu);
    }
    return g;
  }
};
struct mxfp4_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 17 * group;
    const uint e = block[0];
    Group g;
    g.scale[0] = g.scale[1] = as_type<float>(e < 2 ? 0x00200000u << e : (e - 1u) << 23);
    g.min[0] = g.min[1] = 0.0f;
    for (uint k = 0; k < 4; ++k) {
      const uint word = load_u32_at_1(block + 1 + 4 * k);
      g.words[k] = look_up(mxfp4_words, word & 0x0f0f0f0fu);
      g.words[k + 4] = look_up(mxfp4_words, (word >> 4) & 0x0f0f0f0fu);
    }
    return g;
  }
};

// The 32 weights of a group as float, of any format.
template <class Format>
INLINE void load_weights(DEVICE const uchar* row, uint group, uint, THREAD float* w) {
  const Group g = Format::unpack(row, group);
  decode(g, w);
}
#define PLUMB_FLOAT_FORMAT(format)                                                                                \
  template <>                                                                                                     \
  INLINE_SPECIALIZATION void load_weights<format>(DEVICE const uchar* row, uint group, uint n, THREAD float* w) { \
    format::weights(row, group, n, w);                                                                            \
  }
PLUMB_FLOAT_FORMAT(f32_format)
PLUMB_FLOAT_FORMAT(f16_format)
PLUMB_FLOAT_FORMAT(bf16_format)
