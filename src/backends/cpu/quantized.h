// Products with quantized weights: integers in int32 over a block, then float32 (see kernels.h). For few tokens, a row is
// unpacked in registers. For many tokens, if the instruction set asks for it, `lanes` rows are unpacked once to signed
// bytes: one vector for every four inputs, with a row in each lane. A vector is multiplied with the same four inputs of a
// token in all lanes. There the activations are the unsigned side: they have 128 added, which Packed::start subtracts.
#pragma once

#include "backends/cpu/floats.h"

namespace plumb::backends::cpu {
namespace {

template <class X>
PLUMB_INLINE const X* operands(const Dot& job, std::size_t token) {
  return reinterpret_cast<const X*>(static_cast<const std::uint8_t*>(job.x) + token * job.x_stride);
}

PLUMB_INLINE float sum4(F4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
// The sum over both planes, from the sum of each.
template <int planes>
PLUMB_INLINE Vi joined(const Vi (&totals)[planes]) {
  if constexpr (planes == 1) return totals[0];
  return times(totals[0], 128) + totals[planes - 1];
}

constexpr std::size_t pack_inputs = 2048;  // packed at a time: 32 KiB of weights with 16 lanes

struct Packed {
  std::uint8_t* q;      // [inputs / 4][lanes][4]
  std::int32_t* start;  // [group][lanes]: -128 * sum of q; a group is the inputs of one scale
  float* d;             // [group][lanes]
  float* m;             // [block][lanes]: m or dmin
  std::int16_t* mins;   // [block][8 pairs of mins][lanes][2]
};
constexpr std::size_t most_groups = pack_inputs / 16;
constexpr std::size_t most_blocks = pack_inputs / 32;
constexpr std::size_t packed_bytes =
    lanes * (pack_inputs + 2 * sizeof(float) * most_groups + sizeof(float) * most_blocks + 2 * pack_inputs / 16);

PLUMB_INLINE Packed packed_in(std::uint8_t* scratch) {
  Packed packed;
  packed.q = scratch;
  packed.start = reinterpret_cast<std::int32_t*>(scratch + lanes * pack_inputs);
  packed.d = reinterpret_cast<float*>(packed.start + lanes * most_groups);
  packed.m = packed.d + lanes * most_groups;
  packed.mins = reinterpret_cast<std::int16_t*>(packed.m + lanes * most_blocks);
  return packed;
}

// Writes `start` for n_groups groups of `inputs` inputs.
PLUMB_INLINE void fill_starts(const Packed& packed, std::size_t n_groups, std::size_t inputs) {
  for (std::size_t g = 0; g < n_groups; ++g) {
    Vi total = {};
    for (std::size_t k = 0; k < inputs / 4; ++k) {
      total = Set::dot(total, splat_byte(1), read<Vb>(packed.q + (g * inputs / 4 + k) * vector_bytes));
    }
    total = Vi{} - times(total, 128);
    memcpy(packed.start + lanes * g, &total, sizeof total);
  }
}

// Transposes one vector of each of `lanes` rows to vectors with four inputs of every row, `stride` bytes apart, and
// subtracts `offset`.
PLUMB_INLINE void turn_to(std::uint8_t* to, std::size_t stride, const Vb rows[lanes], std::uint8_t offset) {
  Vu v[lanes];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < lanes; ++r) v[r] = as<Vu>(rows[r] - splat_byte(offset));
  Set::turn(v);
#pragma GCC unroll 16
  for (std::size_t k = 0; k < lanes; ++k) memcpy(to + k * stride, &v[k], sizeof v[k]);
}

template <class Format>
constexpr std::uint8_t packed_offset = is_signed<Format> ? 0 : static_cast<std::uint8_t>(Format::offset);

// Adds the products of 4 n packed inputs with each token's. A token's planes are `plane_bytes` apart.
template <std::size_t n, std::size_t plane_bytes, int planes, std::size_t tokens>
PLUMB_INLINE void add_packed(const std::uint8_t* q, const std::int8_t* const (&x)[tokens], Vi (&totals)[tokens][planes]) {
#pragma GCC unroll 8
  for (std::size_t k = 0; k < n; ++k) {
    const Vb w = read<Vb>(q + vector_bytes * k);
#pragma GCC unroll 8
    for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
      for (int p = 0; p < planes; ++p) {
        totals[t][p] = Set::dot(totals[t][p], splat_four(x[t] + p * plane_bytes + 4 * k), w);
      }
    }
  }
}
template <int planes, std::size_t tokens>
PLUMB_INLINE void start_packed(const std::int32_t* start, Vi (&totals)[tokens][planes]) {
  const Vi value = read<Vi>(start);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
    for (int p = 0; p < planes; ++p) totals[t][p] = value;
  }
}

// Products of packed rows with `tokens` tokens; shared by the formats of a family that are packed alike.
template <bool has_min, int planes>
struct SmallTile {
  using X = X128<planes>;

  template <std::size_t tokens>
  PLUMB_INLINE void tile(const Packed& packed, std::size_t n, const X* const (&x)[tokens], Vf (&sums)[tokens]) {
    for (std::size_t block = 0; block < 4 * n; ++block) {
      const std::size_t b = block % 4;
      Vi totals[tokens][planes];
      start_packed(packed.start + lanes * block, totals);
      const std::int8_t* low[tokens];
      const std::int8_t* high[tokens];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
        low[t] = x[t][block / 4].q[0] + 16 * b;
        high[t] = low[t] + 64;
      }
      const std::uint8_t* q = packed.q + block * 8 * vector_bytes;
      add_packed<4, 128>(q, low, totals);
      add_packed<4, 128>(q + 4 * vector_bytes, high, totals);
      const Vf d = load(packed.d + lanes * block);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) {
        sums[t] += to_float(joined<planes>(totals[t])) * (d * splat(x[t][block / 4].scale[b]));
        if constexpr (has_min) {
          sums[t] += load(packed.m + lanes * block) * splat(x[t][block / 4].scaled_sum[b]);
        }
      }
    }
  }
};
template <bool has_min, std::size_t scale_inputs, int planes>
struct LargeTile {
  using X = X256<planes>;
  static constexpr std::size_t n_scales = 256 / scale_inputs;

  template <std::size_t tokens>
  PLUMB_INLINE void tile(const Packed& packed, std::size_t n, const X* const (&x)[tokens], Vf (&sums)[tokens]) {
    for (std::size_t b = 0; b < n; ++b) {
      Vf parts[tokens] = {};
      if constexpr (has_min) {
        Vi totals[tokens][planes] = {};
        for (std::size_t i = 0; i < 8; ++i) {
          const Vs mins = read<Vs>(packed.mins + (b * 8 + i) * 2 * lanes);
#pragma GCC unroll 8
          for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
            for (int p = 0; p < planes; ++p) {
              totals[t][p] = Set::dot16(totals[t][p], as<Vs>(splat_four(x[t][b].sum16[p] + 2 * i)), mins);
            }
          }
        }
        const Vf dmin = load(packed.m + lanes * b);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) parts[t] -= to_float(joined<planes>(totals[t])) * dmin;
      }
      for (std::size_t s = 0; s < n_scales; ++s) {
        const std::size_t group = n_scales * b + s;
        Vi totals[tokens][planes];
        start_packed(packed.start + lanes * group, totals);
        const std::int8_t* at[tokens];
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) at[t] = x[t][b].q[0] + s * scale_inputs;
        add_packed<scale_inputs / 4, 256>(packed.q + group * (scale_inputs / 4) * vector_bytes, at, totals);
        const Vf d = load(packed.d + lanes * group);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < tokens; ++t) parts[t] += to_float(joined<planes>(totals[t])) * d;
      }
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) sums[t] += parts[t] * splat(x[t][b].scale);
    }
  }
};

// Formats with blocks of 32, four blocks (a group of X128) at a time.
template <class Format, int planes>
struct Small {
  static constexpr std::size_t unit = 128;  // inputs
  using X = X128<planes>;
  using Tile = SmallTile<Format::has_min, planes>;

  // Loads four blocks. If there are fewer, zeros follow them; the activations there are zero too.
  PLUMB_INLINE void load_blocks(const std::uint8_t* p, std::size_t n_blocks, Group& w) {
    if (n_blocks >= 4) {
      Format::load(p, w);
    } else {
      std::uint8_t blocks[4 * Format::bytes] = {};
      memcpy(blocks, p, n_blocks * Format::bytes);
      Format::load(blocks, w);
    }
  }

  struct Sums {
    Vf sums = {};
    F4 mins = {};
  };
  PLUMB_INLINE void add(const Group& w, const X& x, Sums& into) {
    const F4 scale = w.d * read<F4>(x.scale);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < wide_parts; ++i) {
      Vi totals[planes] = {};
      if constexpr (Format::offset != 0 && !is_signed<Format>) {
        totals[planes - 1] = times(read<Vi>(x.neg_sum + i * lanes), Format::offset);
      }
#pragma GCC unroll 2
      for (int p = planes - 1; p >= 0; --p) {
        const std::int8_t* q = x.q[p] + i * vector_bytes;
        totals[p] = Set::dot_halves<Format::offset == 128>(totals[p], w.low.part[i], w.high.part[i], q, q + 64);
      }
      into.sums += to_float(joined<planes>(totals)) * Set::spread(scale, i);
    }
    if constexpr (Format::has_min) into.mins += w.m * read<F4>(x.scaled_sum);
  }
  PLUMB_INLINE float total(const Sums& of) { return Set::sum(of.sums) + (Format::has_min ? sum4(of.mins) : 0.0f); }

  // The product of one row with `tokens` tokens.
  template <std::size_t tokens>
  PLUMB_INLINE void row(const Dot& job, const std::uint8_t* p, const X* const (&x)[tokens], Sums (&sums)[tokens]) {
    const std::size_t n_blocks = job.n_in / 32;
    Group w;
    std::size_t g = 0;
    for (; g < n_blocks / 4; ++g, p += 4 * Format::bytes) {
      prefetch<1>(p + page, 4 * Format::bytes);
      Format::load(p, w);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) add(w, x[t][g], sums[t]);
    }
    if (n_blocks % 4 == 0) return;
    load_blocks(p, n_blocks % 4, w);
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) add(w, x[t][g], sums[t]);
  }

  // Packs units `first` .. `first + n` of the rows from `row` on. Rows past the end repeat the last row.
  PLUMB_INLINE void pack(const Dot& job, std::size_t row, std::size_t first, std::size_t n, const Packed& packed) {
    for (std::size_t g = 0; g < n; ++g) {
      const std::size_t block = 4 * (first + g);
      Vb halves[2][wide_parts][lanes];
      for (std::size_t r = 0; r < lanes; ++r) {
        const std::size_t from = row + r < job.row_end ? row + r : job.row_end - 1;
        Group w;
        load_blocks(job.weights + from * job.row_bytes + block * Format::bytes, job.n_in / 32 - block, w);
        for (std::size_t i = 0; i < wide_parts; ++i) {
          halves[0][i][r] = w.low.part[i];
          halves[1][i][r] = w.high.part[i];
        }
        for (std::size_t b = 0; b < 4; ++b) packed.d[(4 * g + b) * lanes + r] = w.d[b];
        if constexpr (Format::has_min) {
          for (std::size_t b = 0; b < 4; ++b) packed.m[(4 * g + b) * lanes + r] = w.m[b];
        }
      }
      // Word k of a half belongs to block k / 4; a block has eight words.
      for (std::size_t half = 0; half < 2; ++half) {
        for (std::size_t i = 0; i < wide_parts; ++i) {
          alignas(64) std::uint8_t words[lanes][vector_bytes];
          turn_to(words[0], vector_bytes, halves[half][i], packed_offset<Format>);
          for (std::size_t k = 0; k < lanes; ++k) {
            const std::size_t word = i * lanes + k;
            memcpy(packed.q + ((4 * g + word / 4) * 8 + 4 * half + word % 4) * vector_bytes, words[k], vector_bytes);
          }
        }
      }
    }
    fill_starts(packed, 4 * n, 32);
  }
};

// Formats with blocks of 256, a block at a time.
template <class Format, int planes>
struct Large {
  static constexpr std::size_t unit = 256;
  using X = X256<planes>;
  using Tile = LargeTile<Format::has_min, Format::scale_inputs, planes>;
  static constexpr std::size_t n_parts = 4 * wide_parts;
  static constexpr std::size_t n_scales = 256 / Format::scale_inputs;
  static constexpr bool takes_offset = Format::offset != 0 && !is_signed<Format>;

  struct Sums {
    Vf sums = {};
    Vf mins = {};
  };
  // The products with block b of all tokens. They go through the weights vector by vector, to use few registers.
  template <std::size_t tokens>
  PLUMB_INLINE void add(const Super& w, const X* const (&x)[tokens], std::size_t b, Sums (&sums)[tokens]) {
    // Independent sums, so that additions wait less for each other.
    constexpr std::size_t chains = wide_parts == 1 && tokens * planes <= 4 ? 2 : 1;
    Vi offsets[tokens][planes] = {};
    Vi totals[tokens][planes][chains] = {};
    if constexpr (Format::has_min || takes_offset) {
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
        for (int p = 0; p < planes; ++p) {
          offsets[t][p] = Set::dot_sixteens(Format::has_min ? w.mins : w.scales, read<S16>(x[t][b].sum16[p]));
          if constexpr (takes_offset) totals[t][p][0] = Vi{} - times(offsets[t][p], Format::offset);
        }
      }
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < n_parts; ++i) {
      const Vb part = w.q[i / wide_parts].part[i % wide_parts];
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
        for (int p = 0; p < planes; ++p) {
          Vi& total = totals[t][p][i % chains];
          total = Set::dot_scaled<Format::offset == 128>(total, part, x[t][b].q[p] + i * vector_bytes, w.scales, i);
        }
      }
    }
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      Vf all = {};
#pragma GCC unroll 2
      for (int p = 0; p < planes; ++p) {
        Vi total = totals[t][p][0];
        if constexpr (chains == 2) total += totals[t][p][1];
        all = p == 0 ? to_float(total) : all * splat(128.0f) + to_float(total);
      }
      sums[t].sums += all * splat(w.d * x[t][b].scale);
      if constexpr (Format::has_min) sums[t].mins -= to_float(joined<planes>(offsets[t])) * splat(w.dmin * x[t][b].scale);
    }
  }
  PLUMB_INLINE float total(const Sums& of) { return Set::sum(of.sums) + (Format::has_min ? Set::sum(of.mins) : 0.0f); }

  template <std::size_t tokens>
  PLUMB_INLINE void row(const Dot& job, const std::uint8_t* p, const X* const (&x)[tokens], Sums (&sums)[tokens]) {
    for (std::size_t b = 0; b < job.n_in / 256; ++b, p += Format::bytes) {
      prefetch<1>(p + page, Format::bytes);
      Super w;
      Format::load(p, w);
      add(w, x, b, sums);
    }
  }

  PLUMB_INLINE void pack(const Dot& job, std::size_t row, std::size_t first, std::size_t n, const Packed& packed) {
    for (std::size_t b = 0; b < n; ++b) {
      Vb q[n_parts][lanes];
      for (std::size_t r = 0; r < lanes; ++r) {
        const std::size_t from = row + r < job.row_end ? row + r : job.row_end - 1;
        Super w;
        Format::load(job.weights + from * job.row_bytes + (first + b) * Format::bytes, w);
        for (std::size_t i = 0; i < n_parts; ++i) q[i][r] = w.q[i / wide_parts].part[i % wide_parts];
        std::int16_t scales[16];
        memcpy(scales, &w.scales, sizeof scales);
        for (std::size_t s = 0; s < n_scales; ++s) {
          const std::int16_t scale = scales[s * Format::scale_inputs / 16];
          packed.d[(n_scales * b + s) * lanes + r] = w.d * static_cast<float>(scale);
        }
        if constexpr (Format::has_min) {
          packed.m[b * lanes + r] = w.dmin;
          std::int16_t mins[16];
          memcpy(mins, &w.mins, sizeof mins);
          for (std::size_t i = 0; i < 8; ++i) memcpy(packed.mins + ((b * 8 + i) * lanes + r) * 2, mins + 2 * i, 4);
        }
      }
      for (std::size_t i = 0; i < n_parts; ++i) {
        turn_to(packed.q + (b * n_parts + i) * lanes * vector_bytes, vector_bytes, q[i], packed_offset<Format>);
      }
    }
    fill_starts(packed, n * n_scales, Format::scale_inputs);
  }
};

// Products of `lanes` packed rows with `tokens` tokens; added to y unless `first` is the first unit.
template <class Tile, std::size_t tokens>
void run_tile(const Dot& job, const Packed& packed, std::size_t row, std::size_t token, std::size_t first, std::size_t n) {
  const std::size_t n_rows = job.row_end - row < lanes ? job.row_end - row : lanes;
  float* y = job.y + token * job.y_stride + row;
  const typename Tile::X* x[tokens];
  Vf sums[tokens];
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) {
    x[t] = operands<typename Tile::X>(job, token + t) + first;
    sums[t] = first == 0 ? Vf{} : load_part(y + t * job.y_stride, n_rows);
  }
  Tile::tile(packed, n, x, sums);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) store_part(y + t * job.y_stride, sums[t], n_rows);
}

template <class Family>
PLUMB_INLINE void dot_packed(const Dot& job) {
  constexpr std::size_t tile_tokens = 8;
  const Packed packed = packed_in(job.scratch);
  const std::size_t n_units = (job.n_in + Family::unit - 1) / Family::unit;
  for (std::size_t row = job.row_begin; row < job.row_end; row += lanes) {
    for (std::size_t first = 0; first < n_units; first += pack_inputs / Family::unit) {
      const std::size_t left = n_units - first;
      const std::size_t n = left < pack_inputs / Family::unit ? left : pack_inputs / Family::unit;
      Family::pack(job, row, first, n, packed);
      std::size_t token = 0;
      for (; token + tile_tokens <= job.n_tokens; token += tile_tokens) {
        run_tile<typename Family::Tile, tile_tokens>(job, packed, row, token, first, n);
      }
      for (; token + 4 <= job.n_tokens; token += 4) run_tile<typename Family::Tile, 4>(job, packed, row, token, first, n);
      for (; token < job.n_tokens; ++token) run_tile<typename Family::Tile, 1>(job, packed, row, token, first, n);
    }
  }
}

// The outer loop is over tokens, the inner over rows: the rows of one call stay in the cache for all tokens.
template <class Family, std::size_t tokens>
PLUMB_INLINE void dot_rows(const Dot& job, std::size_t token) {
  const typename Family::X* x[tokens];
  for (std::size_t t = 0; t < tokens; ++t) x[t] = operands<typename Family::X>(job, token + t);
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    typename Family::Sums sums[tokens];
    Family::row(job, job.weights + row * job.row_bytes, x, sums);
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) job.y[(token + t) * job.y_stride + row] = Family::total(sums[t]);
  }
}

template <class Family>
void dot_quantized(const Dot& job) {
  if constexpr (Set::packs_from != SIZE_MAX) {
    if (job.n_tokens >= Set::packs_from) return dot_packed<Family>(job);
  }
  std::size_t token = 0;
  if constexpr (lanes > 4) {  // these sets have enough registers
    for (; token + 4 <= job.n_tokens; token += 4) dot_rows<Family, 4>(job, token);
  }
  for (; token + 2 <= job.n_tokens; token += 2) dot_rows<Family, 2>(job, token);
  if (token < job.n_tokens) dot_rows<Family, 1>(job, token);
}

}  // namespace
}  // namespace plumb::backends::cpu
