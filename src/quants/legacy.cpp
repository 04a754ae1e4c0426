// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: 32 weights share one scale and, in the _1 formats, one minimum.
#include <algorithm>
#include <bit>
#include <cmath>

#include "quants/codecs.h"
#include "quants/fit.h"

namespace plumb::quants {
namespace {

constexpr std::size_t half_block = small_block / 2;

using Levels = std::array<std::uint8_t, small_block>;

// The 4-bit numbers of a block, 0..15.
Levels unpack_4_bits(const std::array<std::uint8_t, 16>& qs) {
  Levels q;
  for (std::size_t j = 0; j < half_block; ++j) {
    q[j] = qs[j] & 0x0f;
    q[j + half_block] = qs[j] >> 4;
  }
  return q;
}

// The 5-bit numbers of a block, 0..31.
Levels unpack_5_bits(const std::array<std::uint8_t, 16>& qs, const std::array<std::uint8_t, 4>& qh) {
  Levels q = unpack_4_bits(qs);
  const auto high = std::bit_cast<std::uint32_t>(qh);
  for (std::size_t j = 0; j < small_block; ++j) q[j] |= static_cast<std::uint8_t>(((high >> j) & 1u) << 4);
  return q;
}

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

// Sets the scale of a block with levels -half..half - 1. Returns the levels plus `half`.
template <class Block>
Levels fit_symmetric(const float* values, int half, fit::Trials trials, Block& block) {
  std::array<float, small_block> x;
  std::array<float, small_block> w;
  const fit::Range range{static_cast<float>(-half), static_cast<float>(half - 1)};
  fit::load<small_block>(values, fit::largest_half * static_cast<float>(half), x.data());
  w.fill(1.0f);
  const float d = fit::to_half(fit::fit_scale<small_block>(x.data(), w.data(), range, trials));
  block.d.set(d);
  Levels q;
  for (std::size_t j = 0; j < small_block; ++j) {
    q[j] = static_cast<std::uint8_t>(static_cast<int>(fit::level_of(x[j], {d, 0.0f}, range)) + half);
  }
  return q;
}

// Sets the scale and offset of a block with levels 0..high. Returns the levels.
template <class Block>
Levels fit_affine(const float* values, float high, fit::Trials trials, Block& block) {
  // Offset and scale are halves, and a positive scale reaches from the least half to far above the largest. So a block with
  // a weight far below zero is fitted with its signs changed, and one whose weights are all larger than halves with an
  // offset that is the largest half or less.
  const auto [least, most] = std::minmax_element(values, values + small_block);
  const float sign = *least < -fit::largest_half && -*least > *most ? -1.0f : 1.0f;
  const float shift = std::min(sign * *least, sign * *most) > fit::largest_half ? fit::largest_half : 0.0f;
  std::array<float, small_block> x;
  std::array<float, small_block> w;
  for (std::size_t j = 0; j < small_block; ++j)
    x[j] = fit::clamp(sign * values[j], -fit::largest_half, (high + 1.0f) * fit::largest_half) - shift;
  w.fill(1.0f);
  fit::Scale s = fit::fit_scale_offset<small_block>(x.data(), w.data(), high, trials, shift > 0);
  s = {fit::to_half(sign * s.scale), fit::to_half(sign * (s.offset + shift))};
  block.d.set(s.scale);
  block.m.set(s.offset);
  Levels q;
  for (std::size_t j = 0; j < small_block; ++j) {
    q[j] = static_cast<std::uint8_t>(fit::level_of(sign * (x[j] + shift), s, {0.0f, high}));
  }
  return q;
}

constexpr fit::Trials trials_4_bits{8, 0.125f};
constexpr fit::Trials trials_5_bits{6, 0.25f};

void decode_symmetric(const Levels& q, int half, float d, float* values) {
  for (std::size_t j = 0; j < small_block; ++j) values[j] = d * static_cast<float>(q[j] - half);
}
void decode_affine(const Levels& q, float d, float m, float* values) {
  for (std::size_t j = 0; j < small_block; ++j) values[j] = d * static_cast<float>(q[j]) + m;
}

}  // namespace

void decode(const BlockQ4_0& block, float* values) {
  decode_symmetric(unpack_4_bits(block.qs), 8, block.d.value(), values);
}
void decode(const BlockQ4_1& block, float* values) {
  decode_affine(unpack_4_bits(block.qs), block.d.value(), block.m.value(), values);
}
void decode(const BlockQ5_0& block, float* values) {
  decode_symmetric(unpack_5_bits(block.qs, block.qh), 16, block.d.value(), values);
}
void decode(const BlockQ5_1& block, float* values) {
  decode_affine(unpack_5_bits(block.qs, block.qh), block.d.value(), block.m.value(), values);
}
void decode(const BlockQ8_0& block, float* values) {
  const float d = block.d.value();
  for (std::size_t j = 0; j < small_block; ++j) values[j] = static_cast<float>(block.qs[j]) * d;
}

void encode(const float* values, BlockQ4_0& block) {
  pack_4_bits(fit_symmetric(values, 8, trials_4_bits, block), block.qs);
}
void encode(const float* values, BlockQ4_1& block) {
  pack_4_bits(fit_affine(values, 15.0f, trials_4_bits, block), block.qs);
}
void encode(const float* values, BlockQ5_0& block) {
  pack_5_bits(fit_symmetric(values, 16, trials_5_bits, block), block.qs, block.qh);
}
void encode(const float* values, BlockQ5_1& block) {
  pack_5_bits(fit_affine(values, 31.0f, trials_5_bits, block), block.qs, block.qh);
}

// The format's usual encoder: scale = max|w| / 127, halves rounded away from zero. It multiplies by the float reciprocal of
// the unrounded scale instead of dividing. Weights outside the format's range are clamped.
void encode(const float* values, BlockQ8_0& block) {
  float max = 0.0f;
  for (std::size_t j = 0; j < small_block; ++j) max = std::max(max, std::fabs(values[j]));
  const float d = std::min(max / 127.0f, fit::largest_half);
  const float inverse = fit::reciprocal(d);
  block.d.set(d);
  for (std::size_t j = 0; j < small_block; ++j) {
    const float scaled = fit::clamp(values[j] * inverse, -127.0f, 127.0f);
    const float magnitude = std::fabs(scaled);
    const float whole = std::floor(magnitude);
    const float rounded = whole + std::floor(2.0f * (magnitude - whole));
    block.qs[j] = static_cast<std::int8_t>(std::copysign(rounded, scaled));
  }
}

}  // namespace plumb::quants
