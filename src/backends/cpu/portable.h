// Quantized dot products in plain C++ over unpack.h, for instruction sets and formats without a kernel of their own.
#pragma once

#include "backends/cpu/unpack.h"

namespace plumb::backends::cpu {
namespace {

static inline void portable_sums(Q8x128& group) {
  for (int lane = 0; lane < 16; ++lane) {
    int total = 0;
    for (int i = 0; i < 4; ++i) total += group.q[4 * lane + i] + group.q[64 + 4 * lane + i];
    group.neg_sum[lane] = -total;
  }
}
static inline void portable_sums(Q8x256& block) {
  for (int g = 0; g < 16; ++g) {
    int total = 0;
    for (int i = 0; i < 16; ++i) total += block.q[16 * g + i];
    block.sum16[g] = static_cast<std::int16_t>(total);
  }
  for (int g = 0; g < 8; ++g) block.sum32[g] = static_cast<std::int16_t>(block.sum16[2 * g] + block.sum16[2 * g + 1]);
}

constexpr std::size_t portable_tokens = 8;  // tokens that share one unpacking

template <class Format>
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
          const auto& x =
              reinterpret_cast<const Q8x128*>(static_cast<const std::uint8_t*>(job.x) + (token + t) * job.x_stride)[b / 4];
          for (int k = 0; k < 4; ++k) {
            std::int32_t total = 0;
            for (int i = 0; i < 16; ++i) total += w.q[16 * k + i] * x.q[16 * k + i];
            for (int i = 64; i < 80; ++i) total += w.q[16 * k + i] * x.q[16 * k + i];
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

template <class Format>
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
          const auto& x =
              reinterpret_cast<const Q8x256*>(static_cast<const std::uint8_t*>(job.x) + (token + t) * job.x_stride)[b];
          std::int32_t total = 0;
          std::int32_t mins = 0;
          for (int g = 0; g < 16; ++g) {
            std::int32_t group = 0;
            for (int i = 0; i < 16; ++i) group += w.q[16 * g + i] * x.q[16 * g + i];
            total += w.scale[g] * (group - Format::offset * x.sum16[g]);
            if constexpr (Format::has_min) mins += w.min[g] * x.sum16[g];
          }
          sums[t] += w.d * x.scale * static_cast<float>(total);
          if constexpr (Format::has_min) sums[t] -= w.dmin * x.scale * static_cast<float>(mins);
        }
      }
      for (std::size_t t = 0; t < n; ++t) job.y[(token + t) * job.y_stride + row] = sums[t];
    }
  }
}

}  // namespace
}  // namespace plumb::backends::cpu
