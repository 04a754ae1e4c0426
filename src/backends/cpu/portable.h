// Quantized dot products in plain C++ over unpack.h, for instruction sets and formats without a kernel of their own.
#pragma once

#include "backends/cpu/unpack.h"

namespace plumb::backends::cpu {
namespace {

// The integer that element `i` stands for.
template <int planes, class X>
static inline std::int32_t value_at(const X& x, int i) {
  std::int32_t value = x.q[0][i];
  if constexpr (planes == 2) value = value * 128 + x.q[1][i];
  return value;
}

template <int planes>
static inline void portable_sums(X128<planes>& group) {
  for (int lane = 0; lane < 16; ++lane) {
    int total = 0;
    for (int i = 4 * lane; i < 4 * lane + 4; ++i) total += value_at<planes>(group, i) + value_at<planes>(group, 64 + i);
    group.neg_sum[lane] = -total;
  }
}
template <int planes>
static inline void portable_sums(X256<planes>& block) {
  for (int p = 0; p < planes; ++p) {
    for (int g = 0; g < 16; ++g) {
      int total = 0;
      for (int i = 0; i < 16; ++i) total += block.q[p][16 * g + i];
      block.sum16[p][g] = static_cast<std::int16_t>(total);
    }
  }
}

template <class X>
static inline const X* operands(const Dot& job, std::size_t token) {
  return reinterpret_cast<const X*>(static_cast<const std::uint8_t*>(job.x) + token * job.x_stride);
}

constexpr std::size_t portable_tokens = 8;  // tokens that share one unpacking

template <class Format, int planes>
void portable_dot_128(const Dot& job) {
  const std::size_t n_blocks = job.n_in / 32;
  Unpacked128 w;
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    for (std::size_t token = 0; token < job.n_tokens; token += portable_tokens) {
      const std::size_t n = job.n_tokens - token < portable_tokens ? job.n_tokens - token : portable_tokens;
      float sums[portable_tokens] = {};
      for (std::size_t b = 0; b < n_blocks; b += 4) {
        unpack<Format>(p + b * Format::bytes, n_blocks - b < 4 ? n_blocks - b : 4, w);
        for (std::size_t t = 0; t < n; ++t) {
          const auto& x = operands<X128<planes>>(job, token + t)[b / 4];
          for (int k = 0; k < 4; ++k) {
            std::int32_t total = 0;
            for (int i = 0; i < 16; ++i) total += w.q[16 * k + i] * value_at<planes>(x, 16 * k + i);
            for (int i = 64; i < 80; ++i) total += w.q[16 * k + i] * value_at<planes>(x, 16 * k + i);
            if constexpr (!Format::has_min) {
              for (int i = 0; i < 4; ++i) total += x.neg_sum[4 * k + i] * (1 << Format::log2_offset);
            }
            sums[t] += w.d[k] * x.scale[k] * static_cast<float>(total);
            if constexpr (Format::has_min) sums[t] += w.m[k] * x.scaled_sum[k];
          }
        }
      }
      for (std::size_t t = 0; t < n; ++t) job.y[(token + t) * job.y_stride + row] = sums[t];
    }
  }
}

template <class Format, int planes>
void portable_dot_256(const Dot& job) {
  const std::size_t n_blocks = job.n_in / 256;
  Unpacked256 w;
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    const std::uint8_t* p = job.weights + row * job.row_bytes;
    for (std::size_t token = 0; token < job.n_tokens; token += portable_tokens) {
      const std::size_t n = job.n_tokens - token < portable_tokens ? job.n_tokens - token : portable_tokens;
      float sums[portable_tokens] = {};
      for (std::size_t b = 0; b < n_blocks; ++b) {
        Format::unpack(p + b * Format::bytes, w);
        for (std::size_t t = 0; t < n; ++t) {
          const auto& x = operands<X256<planes>>(job, token + t)[b];
          for (int plane = 0; plane < planes; ++plane) {
            std::int32_t total = 0;
            std::int32_t mins = 0;
            for (int g = 0; g < 16; ++g) {
              std::int32_t group = 0;
              for (int i = 0; i < 16; ++i) group += w.q[16 * g + i] * x.q[plane][16 * g + i];
              total += w.scale[g] * (group - Format::offset * x.sum16[plane][g]);
              if constexpr (Format::has_min) mins += w.min[g] * x.sum16[plane][g];
            }
            const float scale = plane + 1 == planes ? x.scale : 128.0f * x.scale;
            sums[t] += w.d * scale * static_cast<float>(total);
            if constexpr (Format::has_min) sums[t] -= w.dmin * scale * static_cast<float>(mins);
          }
        }
      }
      for (std::size_t t = 0; t < n; ++t) job.y[(token + t) * job.y_stride + row] = sums[t];
    }
  }
}

}  // namespace
}  // namespace plumb::backends::cpu
