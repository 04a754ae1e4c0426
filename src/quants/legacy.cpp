// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: 32 weights share one scale and, in the _1 formats, one minimum.
#include <algorithm>
#include <bit>
#include <cmath>

#include "quants/blocks.h"
#include "quants/codecs.h"
#include "quants/fit.h"

namespace plumb::quants {
namespace {

constexpr std::size_t half_block = small_block / 2;

std::uint32_t high_bits(const std::array<std::uint8_t, 4>& qh) {
  return static_cast<std::uint32_t>(qh[0]) | static_cast<std::uint32_t>(qh[1]) << 8 |
         static_cast<std::uint32_t>(qh[2]) << 16 | static_cast<std::uint32_t>(qh[3]) << 24;
}

// The 5-bit numbers of a block, 0..31.
void unpack_5_bits(const std::array<std::uint8_t, 16>& qs, std::uint32_t high, std::array<std::int32_t, small_block>& q) {
  for (std::uint32_t j = 0; j < half_block; ++j) {
    q[j] = static_cast<std::int32_t>((qs[j] & 0x0fu) | (((high >> j) & 1u) << 4));
    q[j + half_block] = static_cast<std::int32_t>((qs[j] >> 4u) | (((high >> (j + half_block)) & 1u) << 4));
  }
}

using Levels = std::array<std::uint8_t, small_block>;

void pack_4_bits(const Levels& q, std::array<std::uint8_t, 16>& qs) {
  for (std::size_t j = 0; j < half_block; ++j) {
    qs[j] = static_cast<std::uint8_t>((q[j] & 0x0f) | (q[j + half_block] & 0x0f) << 4);
  }
}

void pack_5_bits(const Levels& q, std::array<std::uint8_t, 16>& qs, std::array<std::uint8_t, 4>& qh) {
  pack_4_bits(q, qs);
  qh.fill(0);
  for (std::size_t j = 0; j < small_block; ++j) qh[j / 8] |= static_cast<std::uint8_t>((q[j] >> 4) << (j % 8));
}

// The scale of a block whose levels are -half..half - 1, and those levels plus `half`.
float fit_symmetric(const float* values, int half, fit::Trials trials, Levels& q) {
  std::array<float, small_block> x;
  std::array<float, small_block> w;
  const fit::Range range{static_cast<float>(-half), static_cast<float>(half - 1)};
  fit::load<small_block>(values, fit::largest_half * static_cast<float>(half), x.data());
  w.fill(1.0f);
  const float d = fit::to_half(fit::fit_scale<small_block>(x.data(), w.data(), range, trials));
  for (std::size_t j = 0; j < small_block; ++j) {
    q[j] = static_cast<std::uint8_t>(static_cast<int>(fit::level_of(x[j], {d, 0.0f}, range)) + half);
  }
  return d;
}

// The scale and offset of a block whose levels are 0..high, and those levels.
fit::Scale fit_affine(const float* values, float high, fit::Trials trials, Levels& q) {
  std::array<float, small_block> x;
  std::array<float, small_block> w;
  fit::load<small_block>(values, fit::largest_half, x.data());
  w.fill(1.0f);
  fit::Scale s = fit::fit_scale_offset<small_block>(x.data(), w.data(), high, trials, false);
  s = {fit::to_half(s.scale), fit::to_half(s.offset)};
  for (std::size_t j = 0; j < small_block; ++j) {
    q[j] = static_cast<std::uint8_t>(fit::level_of(x[j], s, {0.0f, high}));
  }
  return s;
}

constexpr fit::Trials trials_4_bits{8, 0.125f};
constexpr fit::Trials trials_5_bits{6, 0.25f};

}  // namespace

void decode_q4_0(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ4_0>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    for (std::size_t j = 0; j < half_block; ++j) {
      values[j] = d * static_cast<float>((block->qs[j] & 0x0f) - 8);
      values[j + half_block] = d * static_cast<float>((block->qs[j] >> 4) - 8);
    }
  }
}

void decode_q4_1(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ4_1>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    const float m = block->m.value();
    for (std::size_t j = 0; j < half_block; ++j) {
      values[j] = d * static_cast<float>(block->qs[j] & 0x0f) + m;
      values[j + half_block] = d * static_cast<float>(block->qs[j] >> 4) + m;
    }
  }
}

void decode_q5_0(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ5_0>(blocks);
  std::array<std::int32_t, small_block> q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    unpack_5_bits(block->qs, high_bits(block->qh), q);
    for (std::size_t j = 0; j < small_block; ++j) values[j] = d * static_cast<float>(q[j] - 16);
  }
}

void decode_q5_1(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ5_1>(blocks);
  std::array<std::int32_t, small_block> q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    const float m = block->m.value();
    unpack_5_bits(block->qs, high_bits(block->qh), q);
    for (std::size_t j = 0; j < small_block; ++j) values[j] = d * static_cast<float>(q[j]) + m;
  }
}

void decode_q8_0(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ8_0>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    for (std::size_t j = 0; j < small_block; ++j) values[j] = static_cast<float>(block->qs[j]) * d;
  }
}

void encode_q4_0(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = blocks_at<BlockQ4_0>(blocks);
  Levels q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    block->d.set(fit_symmetric(values, 8, trials_4_bits, q));
    pack_4_bits(q, block->qs);
  }
}

void encode_q4_1(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = blocks_at<BlockQ4_1>(blocks);
  Levels q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const fit::Scale s = fit_affine(values, 15.0f, trials_4_bits, q);
    block->d.set(s.scale);
    block->m.set(s.offset);
    pack_4_bits(q, block->qs);
  }
}

void encode_q5_0(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = blocks_at<BlockQ5_0>(blocks);
  Levels q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    block->d.set(fit_symmetric(values, 16, trials_5_bits, q));
    pack_5_bits(q, block->qs, block->qh);
  }
}

void encode_q5_1(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = blocks_at<BlockQ5_1>(blocks);
  Levels q;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const fit::Scale s = fit_affine(values, 31.0f, trials_5_bits, q);
    block->d.set(s.scale);
    block->m.set(s.offset);
    pack_5_bits(q, block->qs, block->qh);
  }
}

// The definition of the format's usual encoder: scale = max|w| / 127, halves rounded away from zero, with the division
// done as a multiplication by the float reciprocal of the unrounded scale. Weights beyond what the format can represent are
// clamped.
void encode_q8_0(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = blocks_at<BlockQ8_0>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    float max = 0.0f;
    for (std::size_t j = 0; j < small_block; ++j) max = std::max(max, std::fabs(values[j]));
    const float d = std::min(max / 127.0f, fit::largest_half);
    const float inverse = fit::reciprocal(d);
    block->d.set(d);
    for (std::size_t j = 0; j < small_block; ++j) {
      const float scaled = fit::clamp(values[j] * inverse, -127.0f, 127.0f);
      const float magnitude = std::fabs(scaled);
      const float whole = std::floor(magnitude);
      const float rounded = whole + std::floor(2.0f * (magnitude - whole));
      block->qs[j] = static_cast<std::int8_t>(std::copysign(rounded, scaled));
    }
  }
}

}  // namespace plumb::quants
