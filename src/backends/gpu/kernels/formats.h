// Reads weights of each format. Each format has a struct, which gives weights in groups of 32 along a row, whatever the
// size of the format's block:
//
//   unpack(row, group)          quantized formats: the group as integers, for kernels that multiply integers
//   weights(row, group, n, w)   float formats: the group's 32 weights as float; from index n of the row on they are 0
//
// load_weights() gives the weights of any format as float, exactly as src/quants decodes them (the last bit may differ
// where a compiler fuses a multiplication and a subtraction).
//
// src/quants/blocks.h describes the layouts. The tables below repeat its levels; a test checks that they are equal. `row`
// is the row's first byte. Rows begin at multiples of the block's size, so loads are as wide as that size allows.
#pragma once

#include "backends/gpu/kernels/dialect.h"
#include "quants/format_list.h"

// weight[i] = scale[i / 16] * q(i) - min[i / 16], where q(i) is byte i % 4 of words[i / 4] as a signed integer.
struct Group {
  uint words[8];
  float scale[2];
  float min[2];
};

INLINE uint load_u16(DEVICE const uchar* p) { return *(DEVICE const ushort*)p; }
INLINE float load_half(DEVICE const uchar* p) { return float(as_type<half>(*(DEVICE const ushort*)p)); }
INLINE float low_half(uint word) { return float(as_type<half>(ushort(word & 0xffffu))); }
INLINE float high_half(uint word) { return float(as_type<half>(ushort(word >> 16))); }
// Four bytes at an address that is a multiple of 2.
INLINE uint load_u32_at_2(DEVICE const uchar* p) { return load_u16(p) | (load_u16(p + 2) << 16); }
INLINE uint load_u32_at_4(DEVICE const uchar* p) { return *(DEVICE const uint*)p; }
INLINE uint load_u32_at_1(DEVICE const uchar* p) {
  return uint(p[0]) | (uint(p[1]) << 8) | (uint(p[2]) << 16) | (uint(p[3]) << 24);
}
// Eight words at an address that is a multiple of 16.
INLINE void load_words_at_16(DEVICE const uchar* p, THREAD uint* words) {
  for (uint k = 0; k < 2; ++k) {
    const uint4 v = ((DEVICE const uint4*)p)[k];
    words[4 * k] = v.x;
    words[4 * k + 1] = v.y;
    words[4 * k + 2] = v.z;
    words[4 * k + 3] = v.w;
  }
}

// A group whose weights share one scale and minimum.
INLINE Group scaled_group(float scale, float min) {
  Group g;
  g.scale[0] = g.scale[1] = scale;
  g.min[0] = g.min[1] = min;
  return g;
}

// Spreads nibble-split bytes in words 0..3 to one byte for each weight.
INLINE void split_nibbles(THREAD Group& g) {
  for (uint k = 0; k < 4; ++k) {
    const uint word = g.words[k];
    g.words[k] = word & 0x0f0f0f0fu;
    g.words[k + 4] = (word >> 4) & 0x0f0f0f0fu;
  }
}

// Subtracts a number from each of four unsigned bytes below 128; the results are signed bytes. four_times has the number in
// each byte.
INLINE uint less(uint bytes, uint four_times) { return ((bytes | 0x80808080u) - four_times) ^ 0x80808080u; }
INLINE void subtract(THREAD Group& g, uint four_times) {
  for (uint k = 0; k < 8; ++k) g.words[k] = less(g.words[k], four_times);
}

// Moves bit j of the four lowest bits to bit 4 of byte j.
INLINE uint spread_bit4(uint bits) {
  return ((bits & 1u) << 4) | ((bits & 2u) << 11) | ((bits & 4u) << 18) | ((bits & 8u) << 25);
}

// Adds bit i of `high` as bit 4 of weight i.
INLINE void add_bit4(THREAD Group& g, uint high) {
  for (uint k = 0; k < 8; ++k) g.words[k] |= spread_bit4(high >> (4 * k));
}

INLINE int signed_byte(uint word, uint i) { return int(word << (24u - 8u * i)) >> 24; }

INLINE void decode(THREAD const Group& g, THREAD float* w) {
  for (uint i = 0; i < 32; ++i) w[i] = g.scale[i / 16] * float(signed_byte(g.words[i / 4], i % 4)) - g.min[i / 16];
}

// The levels of IQ4, and of MXFP4 doubled, four in a word.
CONSTANT_TABLE uint iq4_words[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
CONSTANT_TABLE uint mxfp4_words[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};

// Replaces bytes below 16 by their entries in a table of 16 bytes.
INLINE void look_up(THREAD Group& g, CONSTANT_POINTER(uint) table) {
  for (uint k = 0; k < 8; ++k) {
    uint bytes = 0;
    for (uint i = 0; i < 4; ++i) {
      const uint q = (g.words[k] >> (8u * i)) & 15u;
      bytes |= ((table[q >> 2] >> (8u * (q & 3u))) & 255u) << (8u * i);
    }
    g.words[k] = bytes;
  }
}

// Float formats, whose rows may have any length. Rows of a multiple of 8 elements begin at multiples of 16 bytes: their
// whole groups are loaded 16 bytes at a time.
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
// Formats with 16 bits for each weight; Format::value() converts them to float.
template <class Format>
INLINE void load_16_bits(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
  DEVICE const ushort* values = (DEVICE const ushort*)row + 32 * group;
  if (n % 8 == 0 && 32 * group + 32 <= n) {
    for (uint k = 0; k < 2; ++k) {
      uint words[8];
      load_words_at_16((DEVICE const uchar*)values + 32 * k, words);
      for (uint i = 0; i < 16; ++i) w[16 * k + i] = Format::value((words[i / 2] >> (i % 2 * 16)) & 0xffffu);
    }
  } else {
    for (uint i = 0; i < 32; ++i) w[i] = 32 * group + i < n ? Format::value(values[i]) : 0.0f;
  }
}
struct f16_format {
  static INLINE_MEMBER float value(uint bits) { return float(as_type<half>(ushort(bits))); }
  static INLINE_MEMBER void weights(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
    load_16_bits<f16_format>(row, group, n, w);
  }
};
struct bf16_format {
  static INLINE_MEMBER float value(uint bits) { return as_type<float>(bits << 16); }
  static INLINE_MEMBER void weights(DEVICE const uchar* row, uint group, uint n, THREAD float* w) {
    load_16_bits<bf16_format>(row, group, n, w);
  }
};

struct q4_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 18 * group;
    Group g = scaled_group(load_half(block), 0.0f);
    LOAD_WORDS_AT_2(block + 2, 4, g.words);
    split_nibbles(g);
    subtract(g, 0x08080808u);
    return g;
  }
};
struct q4_1_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 20 * group;
    Group g = scaled_group(load_half(block), -load_half(block + 2));
    for (uint k = 0; k < 4; ++k) g.words[k] = load_u32_at_4(block + 4 + 4 * k);
    split_nibbles(g);
    return g;
  }
};
struct q5_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 22 * group;
    Group g = scaled_group(load_half(block), 0.0f);
    LOAD_WORDS_AT_2(block + 6, 4, g.words);
    split_nibbles(g);
    add_bit4(g, load_u32_at_2(block + 2));
    subtract(g, 0x10101010u);
    return g;
  }
};
struct q5_1_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 24 * group;
    Group g = scaled_group(load_half(block), -load_half(block + 2));
    for (uint k = 0; k < 4; ++k) g.words[k] = load_u32_at_4(block + 8 + 4 * k);
    split_nibbles(g);
    add_bit4(g, load_u32_at_4(block + 4));
    return g;
  }
};
struct q8_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 34 * group;
    Group g = scaled_group(load_half(block), 0.0f);
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
// The scale and min of group i of a Q4_K or Q5_K block. `header` is the block's first 16 bytes: d, dmin, and 12 bytes with
// the scales and mins in 6 bits each.
INLINE Group affine_group(uint4 header, uint i) {
  const uint shift = 8 * (i & 3u);
  const uint a = header.y >> shift;
  const uint b = header.z >> shift;
  const uint c = header.w >> shift;
  const uint scale = i < 4 ? a & 63u : (c & 15u) | ((a >> 2) & 0x30u);
  const uint min = i < 4 ? b & 63u : ((c >> 4) & 15u) | ((b >> 2) & 0x30u);
  return scaled_group(low_half(header.x) * float(scale), high_half(header.x) * float(min));
}
// Two groups of each of the next three formats have their bits in the same bytes. load(row, pair) reads the bytes of a pair
// of groups, and part() makes its first or second group of them: a kernel that needs both reads them once.
struct q4_k_format {
  struct Loaded {
    uint4 header;
    uint words[8];
    uint in_block;  // of the first group
  };
  static INLINE_MEMBER Loaded load(DEVICE const uchar* row, uint pair) {
    DEVICE const uchar* block = row + 144 * (pair >> 2);
    Loaded l;
    l.header = *(DEVICE const uint4*)block;
    l.in_block = 2 * (pair & 3u);
    load_words_at_16(block + 16 + 32 * (pair & 3u), l.words);
    return l;
  }
  static INLINE_MEMBER Group part(THREAD const Loaded& l, uint i) {
    Group g = affine_group(l.header, l.in_block + i);
    for (uint k = 0; k < 8; ++k) g.words[k] = (l.words[k] >> (4 * i)) & 0x0f0f0f0fu;
    return g;
  }
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    const Loaded l = load(row, group >> 1);
    return part(l, group & 1u);
  }
};
struct q5_k_format {
  struct Loaded {
    uint4 header;
    uint lows[8], highs[8];
    uint in_block;  // of the first group
  };
  static INLINE_MEMBER Loaded load(DEVICE const uchar* row, uint pair) {
    DEVICE const uchar* block = row + 176 * (pair >> 2);
    Loaded l;
    l.header = *(DEVICE const uint4*)block;
    l.in_block = 2 * (pair & 3u);
    load_words_at_16(block + 48 + 32 * (pair & 3u), l.lows);
    load_words_at_16(block + 16, l.highs);
    return l;
  }
  static INLINE_MEMBER Group part(THREAD const Loaded& l, uint i) {
    Group g = affine_group(l.header, l.in_block + i);
    for (uint k = 0; k < 8; ++k) {
      const uint high = (l.highs[k] >> (l.in_block + i)) & 0x01010101u;
      g.words[k] = ((l.lows[k] >> (4 * i)) & 0x0f0f0f0fu) | (high << 4);
    }
    return g;
  }
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    const Loaded l = load(row, group >> 1);
    return part(l, group & 1u);
  }
};
// A run has 128 weights in 64 bytes: groups 0 and 1 are the low nibbles, groups 2 and 3 the high ones. Groups 0 and 2, and
// 1 and 3, are pairs.
struct q6_k_format {
  struct Loaded {
    float d;
    uint scales[2];
    uint lows[8], highs[8];
    uint in_run;  // of the first group: 0 or 1
  };
  static INLINE_MEMBER Loaded load(DEVICE const uchar* row, uint pair) {
    DEVICE const uchar* block = row + 210 * (pair >> 2);
    const uint run = (pair >> 1) & 1u;
    Loaded l;
    l.in_run = pair & 1u;
    l.d = load_half(block + 208);
    l.scales[0] = load_u16(block + 192 + 2 * (4 * run + l.in_run));
    l.scales[1] = load_u16(block + 192 + 2 * (4 * run + l.in_run + 2));
    LOAD_WORDS_AT_2(block + 64 * run + 32 * l.in_run, 8, l.lows);
    LOAD_WORDS_AT_2(block + 128 + 32 * run, 8, l.highs);
    return l;
  }
  static INLINE_MEMBER Group part(THREAD const Loaded& l, uint i) {
    Group g;
    const uint scales = i == 0 ? l.scales[0] : l.scales[1];
    for (uint k = 0; k < 2; ++k) {
      g.scale[k] = l.d * float(signed_byte(scales, k));
      g.min[k] = 0.0f;
    }
    for (uint k = 0; k < 8; ++k) {
      const uint low = (l.lows[k] >> (4 * i)) & 0x0f0f0f0fu;
      const uint high = (l.highs[k] >> (2 * (l.in_run + 2 * i))) & 0x03030303u;
      g.words[k] = less(low | (high << 4), 0x20202020u);
    }
    return g;
  }
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    const Loaded l = load(row, 2 * (group >> 2) + (group & 1u));
    return part(l, (group >> 1) & 1u);
  }
};
struct tq2_0_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 66 * (group >> 3);
    const uint in_block = group & 7u;
    Group g = scaled_group(load_half(block + 64), 0.0f);
    LOAD_WORDS_AT_2(block + 32 * (in_block >> 2), 8, g.words);
    for (uint k = 0; k < 8; ++k) g.words[k] = (g.words[k] >> (2 * (in_block & 3u))) & 0x03030303u;
    subtract(g, 0x01010101u);
    return g;
  }
};
struct iq4_nl_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 18 * group;
    Group g = scaled_group(load_half(block), 0.0f);
    LOAD_WORDS_AT_2(block + 2, 4, g.words);
    split_nibbles(g);
    look_up(g, iq4_words);
    return g;
  }
};
struct iq4_xs_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 136 * (group >> 3);
    const uint in_block = group & 7u;
    const uint low = (uint(block[4 + (in_block >> 1)]) >> (4 * (in_block & 1u))) & 15u;
    const uint high = (load_u16(block + 2) >> (2 * in_block)) & 3u;
    Group g = scaled_group(load_half(block) * float(int(low | (high << 4)) - 32), 0.0f);
    for (uint k = 0; k < 4; ++k) g.words[k] = load_u32_at_4(block + 8 + 16 * in_block + 4 * k);
    split_nibbles(g);
    look_up(g, iq4_words);
    return g;
  }
};
struct mxfp4_format {
  static INLINE_MEMBER Group unpack(DEVICE const uchar* row, uint group) {
    DEVICE const uchar* block = row + 17 * group;
    const uint e = block[0];
    Group g = scaled_group(as_type<float>(e < 2 ? 0x00200000u << e : (e - 1u) << 23), 0.0f);
    for (uint k = 0; k < 4; ++k) g.words[k] = load_u32_at_1(block + 1 + 4 * k);
    split_nibbles(g);
    look_up(g, mxfp4_words);
    return g;
  }
};

// The 32 weights of a group as float, for any format.
template <class Format>
INLINE void load_weights(DEVICE const uchar* row, uint group, uint, THREAD float* w) {
  const Group g = Format::unpack(row, group);
  decode(g, w);
}
#define PLUMB_LOAD_small(format)
#define PLUMB_LOAD_super(format)
#define PLUMB_LOAD_floats(format)                                                                                 \
  template <>                                                                                                     \
  INLINE_SPECIALIZATION void load_weights<format>(DEVICE const uchar* row, uint group, uint n, THREAD float* w) { \
    format::weights(row, group, n, w);                                                                            \
  }
#define PLUMB_LOAD(id, type, NAME, family, writing) PLUMB_LOAD_##family(id##_format)
PLUMB_FORMATS(PLUMB_LOAD)
