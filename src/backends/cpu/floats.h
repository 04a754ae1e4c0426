// Products with float weights (F32, F16, BF16), in float32.
#pragma once

#include "backends/cpu/formats.h"

namespace plumb::backends::cpu {
namespace {

constexpr std::size_t page = 4096;

// Prefetches n bytes into level `level` of the cache, since hardware does not prefetch beyond a page. Products that only
// wait for memory are slower with the first level; products that compute as long as they wait are faster.
template <int level>
PLUMB_INLINE void prefetch(const std::uint8_t* p, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 64) __builtin_prefetch(p + i, 0, 4 - level);
}

PLUMB_INLINE const float* float_row(const Dot& job, std::size_t token) {
  return reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(job.x) + token * job.x_stride);
}

// `n` < lanes weights as a vector, zeros after them.
template <class Format>
PLUMB_INLINE Vf weight_part(const std::uint8_t* p, std::size_t n) {
  std::uint8_t bytes[lanes * Format::bytes] = {};
  memcpy(bytes, p, n * Format::bytes);
  return Format::vector(bytes);
}

// Products of `rows` rows with `tokens` tokens. The order of additions depends only on `tokens`.
template <class Format, std::size_t rows, std::size_t tokens>
PLUMB_INLINE void float_rows(const Dot& job, std::size_t row, std::size_t token) {
  constexpr std::size_t chains = tokens == 1 ? 2 : 1;  // independent sums, so that additions wait less for each other
  const std::uint8_t* w[rows];
  const float* x[tokens];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < rows; ++r) w[r] = job.weights + (row + r) * job.row_bytes;
#pragma GCC unroll 4
  for (std::size_t t = 0; t < tokens; ++t) x[t] = float_row(job, token + t);
  Vf sums[rows][tokens][chains] = {};
  std::size_t i = 0;
  for (; i + chains * lanes <= job.n_in; i += chains * lanes) {
    if constexpr (tokens == 1) {
#pragma GCC unroll 4
      for (std::size_t r = 0; r < rows; ++r) {
        prefetch<2>(w[r] + i * Format::bytes + rows * job.row_bytes, chains * lanes * Format::bytes);
      }
    }
#pragma GCC unroll 4
    for (std::size_t c = 0; c < chains; ++c) {
      const std::size_t at = i + c * lanes;
      Vf values[tokens];
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) values[t] = load(x[t] + at);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < rows; ++r) {
        const Vf weight = Format::vector(w[r] + at * Format::bytes);
#pragma GCC unroll 4
        for (std::size_t t = 0; t < tokens; ++t) sums[r][t][c] += weight * values[t];
      }
    }
  }
  for (; i < job.n_in; i += lanes) {
    const std::size_t n = job.n_in - i < lanes ? job.n_in - i : lanes;
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) {
      const Vf weight = weight_part<Format>(w[r] + i * Format::bytes, n);
#pragma GCC unroll 4
      for (std::size_t t = 0; t < tokens; ++t) sums[r][t][0] += weight * load_part(x[t] + i, n);
    }
  }
#pragma GCC unroll 4
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tokens; ++t) {
      Vf total = sums[r][t][0];
#pragma GCC unroll 4
      for (std::size_t c = 1; c < chains; ++c) total += sums[r][t][c];
      job.y[(token + t) * job.y_stride + row + r] = Set::sum(total);
    }
  }
}

template <class Format, std::size_t tokens>
PLUMB_INLINE void float_rows(const Dot& job, std::size_t token) {
  constexpr std::size_t rows = tokens == 4 ? 3 : 4;  // sums in at most 12 registers
  std::size_t row = job.row_begin;
  for (; row + rows <= job.row_end; row += rows) float_rows<Format, rows, tokens>(job, row, token);
  for (; row < job.row_end; ++row) float_rows<Format, 1, tokens>(job, row, token);
}

// For many tokens. The weights of `float_tile_rows` rows are converted once, as vectors over rows, for up to `float_chunk`
// inputs at a time. They stay in the first cache for all tokens. Tokens are multiplied in tiles, whose sums and operands
// fit the registers; the last tile has what is left.
constexpr std::size_t float_tile_rows = 2 * lanes;
constexpr std::size_t float_packed_bytes = std::size_t{16} << 10;
constexpr std::size_t float_chunk = float_packed_bytes / (float_tile_rows * sizeof(float));
constexpr std::size_t float_packs_from = 8;
constexpr std::size_t float_tile_tokens = lanes == 16 ? 12 : 6;

// KernelTable::put_floats. A tile has, for each input, the values of its tokens. (Read from rows, which are often a power
// of two apart, they would share a few sets of the cache.)
void put_floats(const float* x, std::size_t n, std::size_t token, std::size_t n_tokens, float* operands) {
  if (n_tokens < float_packs_from) {
    memcpy(operands + token * n, x, n * sizeof(float));
    return;
  }
  const std::size_t first = token / float_tile_tokens * float_tile_tokens;
  const std::size_t size = n_tokens - first < float_tile_tokens ? n_tokens - first : float_tile_tokens;
  float* to = operands + first * n + (token - first);
  for (std::size_t i = 0; i < n; ++i) to[i * size] = x[i];
}

// Packs inputs `start` .. `start + n` of the rows from `row` on. Rows past the end repeat the last row.
template <class Format>
PLUMB_INLINE void pack_floats(const Dot& job, std::size_t row, std::size_t start, std::size_t n, float* packed) {
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t i = 0; i < n; i += lanes) {
      Vu v[lanes];
#pragma GCC unroll 16
      for (std::size_t r = 0; r < lanes; ++r) {
        const std::size_t from = row + half * lanes + r < job.row_end ? row + half * lanes + r : job.row_end - 1;
        const std::uint8_t* w = job.weights + from * job.row_bytes + (start + i) * Format::bytes;
        v[r] = as<Vu>(n - i >= lanes ? Format::vector(w) : weight_part<Format>(w, n - i));
      }
      Set::turn(v);
#pragma GCC unroll 16
      for (std::size_t k = 0; k < lanes; ++k) store(packed + (i + k) * float_tile_rows + half * lanes, as<Vf>(v[k]));
    }
  }
}

// Products of `n_rows` packed rows with a tile of `tokens` tokens; added to y where start > 0.
template <std::size_t tokens>
void float_tile(const Dot& job, const float* packed, std::size_t row, std::size_t n_rows, std::size_t token,
                std::size_t start, std::size_t n) {
  const float* x = static_cast<const float*>(job.x) + token * job.n_in + start * tokens;
  float* const y = job.y + token * job.y_stride + row;
#pragma GCC unroll 12
  for (std::size_t t = 0; t < tokens; ++t) {
    __builtin_prefetch(y + t * job.y_stride, 1);
    if (lanes > 8) __builtin_prefetch(y + t * job.y_stride + lanes, 1);
  }
  Vf sums[tokens][2] = {};
  for (std::size_t i = 0; i < n; ++i) {
    const Vf low = load(packed + i * float_tile_rows);
    const Vf high = load(packed + i * float_tile_rows + lanes);
#pragma GCC unroll 12
    for (std::size_t t = 0; t < tokens; ++t) {
      const Vf value = splat(x[i * tokens + t]);
      sums[t][0] += low * value;
      sums[t][1] += high * value;
    }
  }
#pragma GCC unroll 12
  for (std::size_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      if (n_rows <= half * lanes) continue;
      const std::size_t here = n_rows - half * lanes < lanes ? n_rows - half * lanes : lanes;
      float* const to = y + t * job.y_stride + half * lanes;
      store_part(to, start == 0 ? sums[t][half] : load_part(to, here) + sums[t][half], here);
    }
  }
}

// The last tile, of 1 to `most` tokens.
template <std::size_t most>
void last_float_tile(const Dot& job, const float* packed, std::size_t row, std::size_t n_rows, std::size_t token,
                     std::size_t start, std::size_t n) {
  if (job.n_tokens - token == most) return float_tile<most>(job, packed, row, n_rows, token, start, n);
  if constexpr (most > 1) last_float_tile<most - 1>(job, packed, row, n_rows, token, start, n);
}

template <class Format>
PLUMB_INLINE void floats_packed(const Dot& job) {
  auto* packed = reinterpret_cast<float*>(job.scratch);
  for (std::size_t row = job.row_begin; row < job.row_end; row += float_tile_rows) {
    const std::size_t n_rows = job.row_end - row < float_tile_rows ? job.row_end - row : float_tile_rows;
    for (std::size_t start = 0; start < job.n_in; start += float_chunk) {
      const std::size_t n = job.n_in - start < float_chunk ? job.n_in - start : float_chunk;
      pack_floats<Format>(job, row, start, n, packed);
      std::size_t token = 0;
      for (; token + float_tile_tokens <= job.n_tokens; token += float_tile_tokens) {
        float_tile<float_tile_tokens>(job, packed, row, n_rows, token, start, n);
      }
      if (token < job.n_tokens) last_float_tile<float_tile_tokens - 1>(job, packed, row, n_rows, token, start, n);
    }
  }
}

template <class Format>
void dot_floats(const Dot& job) {
  if (job.n_tokens >= float_packs_from) {
    floats_packed<Format>(job);
    return;
  }
  std::size_t token = 0;
  for (; token + 4 <= job.n_tokens; token += 4) float_rows<Format, 4>(job, token);
  for (; token + 2 <= job.n_tokens; token += 2) float_rows<Format, 2>(job, token);
  if (token < job.n_tokens) float_rows<Format, 1>(job, token);
}

}  // namespace
}  // namespace plumb::backends::cpu
