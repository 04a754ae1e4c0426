// Reads weights for the kernels: one struct for each format, written over Set (plain.h), for all instruction sets. A format
// of floats has vector(), a format with blocks of 32 or 256 has load(). quants/format_list.h lists the formats, and
// quants/blocks.h has the layouts.
#pragma once

#include "backends/cpu/plain.h"
#include "quants/blocks.h"

namespace plumb::backends::cpu {
namespace {

// Floats: `lanes` weights from p on, as float.
struct F32 {
  static constexpr std::size_t bytes = 4;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) { return read<Vf>(p); }
};
struct F16 {
  static constexpr std::size_t bytes = 2;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) { return Set::load_f16(reinterpret_cast<const std::uint16_t*>(p)); }
};
struct BF16 {
  static constexpr std::size_t bytes = 2;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) {
    typedef std::uint16_t Vh __attribute__((vector_size(2 * PLUMB_LANES)));
    return as<Vf>(__builtin_convertvector(read<Vh>(p), Vu) << 16);
  }
};

// Defaults for quantized formats: no offset, no minimum.
template <class B>
struct Quantized {
  using Block = B;
  static constexpr std::size_t bytes = sizeof(Block);
  static constexpr int offset = 0;                 // 0, or a power of two
  static constexpr bool has_min = false;           // excludes an offset
  static constexpr std::size_t scale_inputs = 16;  // weights of a block of 256 that share a scale: 16 or 32
};

// Some instruction sets need bytes with an offset of 128 as signed bytes; xor with `flip` converts them.
constexpr std::uint8_t flip = Set::signed_weights ? 0x80 : 0;
template <class Format>
constexpr bool is_signed = Set::signed_weights&& Format::offset == 128;

struct Table {
  alignas(16) std::uint8_t entries[16];
};
// A format's levels, with its offset added.
consteval Table table_of(const std::array<std::int8_t, 16>& values, int offset) {
  Table table{};
  for (std::size_t i = 0; i < 16; ++i) {
    table.entries[i] = static_cast<std::uint8_t>((values[i] + offset) ^ (offset == 128 ? flip : 0));
  }
  return table;
}
constexpr Table iq4_table = table_of(quants::iq4_levels, 128);
constexpr Table mxfp4_table = table_of(quants::mxfp4_levels, 16);

PLUMB_INLINE Wide operator|(Wide a, const Wide& b) {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < wide_parts; ++i) a.part[i] |= b.part[i];
  return a;
}
PLUMB_INLINE Wide load_wide(const std::uint8_t* p) {
  Wide v;
#pragma GCC unroll 4
  for (std::size_t i = 0; i < wide_parts; ++i) v.part[i] = read<Vb>(p + i * vector_bytes);
  return v;
}
PLUMB_INLINE Wide low_nibbles(Wide v) {
#pragma GCC unroll 4
  for (Vb& part : v.part) part &= splat_byte(0x0f);
  return v;
}
PLUMB_INLINE Wide high_nibbles(Wide v) {
#pragma GCC unroll 4
  for (Vb& part : v.part) part = as<Vb>(as<Vus>(part) >> 4) & splat_byte(0x0f);
  return v;
}
PLUMB_INLINE Wide looked_up(const Table& table, Wide v) {
#pragma GCC unroll 4
  for (Vb& part : v.part) part = Set::look_up(table.entries, part);
  return v;
}

// Formats with blocks of 32: four blocks, weight = d * (q - offset) + m. `low` has the first sixteen q of each block,
// `high` the others, in the order of X128.
struct Group {
  Wide low, high;
  F4 d, m;
};

template <class Format>
PLUMB_INLINE void load_nibbles(const std::uint8_t* p, Group& w) {
  const Wide both = Set::pieces<Format::bytes>(p + offsetof(typename Format::Block, qs));
  w.low = low_nibbles(both);
  w.high = high_nibbles(both);
}
template <class Format>
PLUMB_INLINE void load_d(const std::uint8_t* p, Group& w) {
  w.d = Set::halves<Format::bytes>(p + offsetof(typename Format::Block, d));
}
template <class Format>
PLUMB_INLINE void load_d_m(const std::uint8_t* p, Group& w) {
  static_assert(offsetof(typename Format::Block, m) == offsetof(typename Format::Block, d) + 2);
  Set::half_pairs<Format::bytes>(p + offsetof(typename Format::Block, d), w.d, w.m);
}
template <class Format>
PLUMB_INLINE void add_fifth_bits(const std::uint8_t* p, Group& w) {
  constexpr std::size_t n = 4 / wide_parts;  // blocks a vector
#pragma GCC unroll 4
  for (std::size_t i = 0; i < wide_parts; ++i) {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
#pragma GCC unroll 4
    for (std::size_t b = 0; b < n; ++b) {
      const std::uint64_t bits =
          read<std::uint32_t>(p + offsetof(typename Format::Block, qh) + (n * i + b) * Format::bytes);
      low |= (bits & 0xffff) << (16 * b);
      high |= (bits >> 16) << (16 * b);
    }
    w.low.part[i] |= Set::where(low, 0x10);
    w.high.part[i] |= Set::where(high, 0x10);
  }
}

// Nibbles, with a fifth bit in blocks that have `qh`, and a minimum in blocks that have `m`.
template <class B, int subtracted>
struct Nibbles : Quantized<B> {
  static constexpr int offset = subtracted;
  static constexpr bool has_min = requires(B block) { block.m; };
  PLUMB_INLINE void load(const std::uint8_t* p, Group& w) {
    load_nibbles<Nibbles>(p, w);
    if constexpr (requires(B block) { block.qh; }) add_fifth_bits<Nibbles>(p, w);
    if constexpr (has_min) {
      load_d_m<Nibbles>(p, w);
    } else {
      load_d<Nibbles>(p, w);
    }
  }
};
using Q4_0 = Nibbles<quants::BlockQ4_0, 8>;
using Q4_1 = Nibbles<quants::BlockQ4_1, 0>;
using Q5_0 = Nibbles<quants::BlockQ5_0, 16>;
using Q5_1 = Nibbles<quants::BlockQ5_1, 0>;

struct Q8_0 : Quantized<quants::BlockQ8_0> {
  static constexpr int offset = 128;
  PLUMB_INLINE void load(const std::uint8_t* p, Group& w) {
    w.low = Set::pieces<bytes>(p + offsetof(Block, qs));
    w.high = Set::pieces<bytes>(p + offsetof(Block, qs) + 16);
#pragma GCC unroll 4
    for (Vb& part : w.low.part) part ^= splat_byte(0x80 ^ flip);
#pragma GCC unroll 4
    for (Vb& part : w.high.part) part ^= splat_byte(0x80 ^ flip);
    load_d<Q8_0>(p, w);
  }
};
struct IQ4_NL : Quantized<quants::BlockIQ4_NL> {
  static constexpr int offset = 128;
  PLUMB_INLINE void load(const std::uint8_t* p, Group& w) {
    load_nibbles<IQ4_NL>(p, w);
    w.low = looked_up(iq4_table, w.low);
    w.high = looked_up(iq4_table, w.high);
    load_d<IQ4_NL>(p, w);
  }
};
struct MXFP4 : Quantized<quants::BlockMXFP4> {
  static constexpr int offset = 16;
  // The same as quants::e8m0_half, which must not be compiled here (see kernels.h).
  PLUMB_INLINE float scale(const std::uint8_t* p) {
    const std::uint32_t e = p[offsetof(Block, e)];
    return as<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  }
  PLUMB_INLINE void load(const std::uint8_t* p, Group& w) {
    load_nibbles<MXFP4>(p, w);
    w.low = looked_up(mxfp4_table, w.low);
    w.high = looked_up(mxfp4_table, w.high);
    w.d = F4{scale(p), scale(p + bytes), scale(p + 2 * bytes), scale(p + 3 * bytes)};
  }
};

// Formats with blocks of 256: weight = d * scale[i / 16] * (q - offset) - dmin * min[i / 16], q in order.
struct Super {
  Wide q[4];
  S16 scales;
  S16 mins;
  float d, dmin;
};

PLUMB_INLINE S16 each_twice(std::uint64_t bytes) {
  const B16 v = as<B16>(U2{bytes, 0});
  return Set::wider(__builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
}
template <class Format>
PLUMB_INLINE void load_d_dmin(const std::uint8_t* p, Super& w) {
  w.d = Set::half(p + offsetof(typename Format::Block, d));
  w.dmin = Set::half(p + offsetof(typename Format::Block, dmin));
}
// quants::unpack_scales_mins, eight at a time.
template <class Format>
PLUMB_INLINE void load_scales_mins(const std::uint8_t* p, Super& w) {
  const std::uint8_t* packed = p + offsetof(typename Format::Block, scales);
  const auto a = read<std::uint32_t>(packed);
  const auto b = read<std::uint32_t>(packed + 4);
  const auto c = read<std::uint32_t>(packed + 8);
  const std::uint64_t upper_scales = (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u);
  const std::uint64_t upper_mins = ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u);
  w.scales = each_twice((a & 0x3f3f3f3fu) | (upper_scales << 32));
  w.mins = each_twice((b & 0x3f3f3f3fu) | (upper_mins << 32));
}

struct Q2_K : Quantized<quants::BlockQ2_K> {
  static constexpr bool has_min = true;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    load_d_dmin<Q2_K>(p, w);
    const B16 packed = read<B16>(p + offsetof(Block, scales));
    w.scales = Set::wider(packed & std::uint8_t{0x0f});
    w.mins = Set::wider(packed >> 4);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      w.q[c] = Set::bits(p + offsetof(Block, qs) + 32 * (c / 2), 4 * (c % 2), 4 * (c % 2) + 2, 3);
    }
  }
};
struct Q3_K : Quantized<quants::BlockQ3_K> {
  static constexpr int offset = 4;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    w.d = Set::half(p + offsetof(Block, d));
    // quants::unpack_scales, eight at a time.
    const auto low = read<std::uint64_t>(p + offsetof(Block, scales));
    const auto top = read<std::uint32_t>(p + offsetof(Block, scales) + 8);
    const auto bits = [&](int at) __attribute__((always_inline)) {
      return std::uint64_t{(top >> at) & 0x03030303u} << 4 | std::uint64_t{(top >> (at + 2)) & 0x03030303u} << 36;
    };
    const U2 scales{(low & 0x0f0f0f0f0f0f0f0full) | bits(0), ((low >> 4) & 0x0f0f0f0f0f0f0f0full) | bits(4)};
    w.scales = Set::wider(as<C16>(scales)) - std::int16_t{32};
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      w.q[c] = Set::bits(p + offsetof(Block, qs) + 32 * (c / 2), 4 * (c % 2), 4 * (c % 2) + 2, 3) |
               Set::bits(p + offsetof(Block, hmask), 2 * c - 2, 2 * c - 1, 4);
    }
  }
};
struct Q4_K : Quantized<quants::BlockQ4_K> {
  static constexpr std::size_t scale_inputs = 32;
  static constexpr bool has_min = true;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    load_d_dmin<Q4_K>(p, w);
    load_scales_mins<Q4_K>(p, w);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) w.q[c] = Set::bits(p + offsetof(Block, qs) + 32 * c, 0, 4, 0x0f);
  }
};
struct Q5_K : Quantized<quants::BlockQ5_K> {
  static constexpr std::size_t scale_inputs = 32;
  static constexpr bool has_min = true;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    load_d_dmin<Q5_K>(p, w);
    load_scales_mins<Q5_K>(p, w);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      w.q[c] = Set::bits(p + offsetof(Block, qs) + 32 * c, 0, 4, 0x0f) |
               Set::bits(p + offsetof(Block, qh), 2 * c - 4, 2 * c - 3, 0x10);
    }
  }
};
struct Q6_K : Quantized<quants::BlockQ6_K> {
  static constexpr int offset = 32;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    w.d = Set::half(p + offsetof(Block, d));
    w.scales = Set::wider(read<C16>(p + offsetof(Block, scales)));
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const Wide both = load_wide(p + offsetof(Block, ql) + 64 * h);
      const std::uint8_t* high = p + offsetof(Block, qh) + 32 * h;
      w.q[2 * h] = low_nibbles(both) | Set::bits(high, -4, -2, 0x30);
      w.q[2 * h + 1] = high_nibbles(both) | Set::bits(high, 0, 2, 0x30);
    }
  }
};
struct TQ2_0 : Quantized<quants::BlockTQ2_0> {
  static constexpr std::size_t scale_inputs = 32;
  static constexpr int offset = 1;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    w.d = Set::half(p + offsetof(Block, d));
    w.scales = S16{} + std::int16_t{1};
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      w.q[c] = Set::bits(p + offsetof(Block, qs) + 32 * (c / 2), 4 * (c % 2), 4 * (c % 2) + 2, 3);
    }
  }
};
struct IQ4_XS : Quantized<quants::BlockIQ4_XS> {
  static constexpr std::size_t scale_inputs = 32;
  static constexpr int offset = 128;
  PLUMB_INLINE void load(const std::uint8_t* p, Super& w) {
    w.d = Set::half(p + offsetof(Block, d));
    const std::uint32_t low = read<std::uint32_t>(p + offsetof(Block, scales_l));
    const std::uint32_t high = read<std::uint16_t>(p + offsetof(Block, scales_h));
    typedef std::uint32_t U8 __attribute__((vector_size(32)));
    const U8 scales = (((low - U8{}) >> U8{0, 4, 8, 12, 16, 20, 24, 28} & 15u) |
                       ((high - U8{}) >> U8{0, 2, 4, 6, 8, 10, 12, 14} & 3u) << 4) -
                      32u;
    w.scales = as<S16>((scales & 0xffffu) | scales << 16);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) w.q[c] = looked_up(iq4_table, Set::nibble_pairs(p + offsetof(Block, qs) + 32 * c));
  }
};

}  // namespace
}  // namespace plumb::backends::cpu
