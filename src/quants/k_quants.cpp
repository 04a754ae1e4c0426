// Q2_K to Q6_K: super-blocks of 256 weights in groups of 16 or 32, whose scales (and mins) are small integers times one
// binary16 scale (and min) of the super-block.
#include <array>

#include "quants/blocks.h"
#include "quants/codecs.h"

namespace plumb::quants {
namespace {

constexpr std::size_t n_groups_16 = super_block / 16;
constexpr std::size_t n_groups_32 = super_block / 32;

}  // namespace

void decode_q2_k(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ2_K>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    const float dmin = block->dmin.value();
    for (std::size_t g = 0; g < n_groups_16; ++g) {
      const float scale = d * static_cast<float>(block->scales[g] & 0x0f);
      const float min = dmin * static_cast<float>(block->scales[g] >> 4);
      const std::uint8_t* qs = block->qs.data() + 32 * (g / 8) + 16 * (g % 2);
      const std::size_t shift = 2 * (g % 8 / 2);
      for (std::size_t j = 0; j < 16; ++j) values[16 * g + j] = scale * static_cast<float>((qs[j] >> shift) & 3) - min;
    }
  }
}

void decode_q3_k(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ3_K>(blocks);
  std::array<std::int8_t, n_groups_16> scales;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    unpack_scales(block->scales, scales);
    for (std::size_t g = 0; g < n_groups_16; ++g) {
      const float scale = d * static_cast<float>(scales[g]);
      const std::uint8_t* qs = block->qs.data() + 32 * (g / 8) + 16 * (g % 2);
      const std::uint8_t* high = block->hmask.data() + 16 * (g % 2);
      const std::size_t shift = 2 * (g % 8 / 2);
      const std::size_t bit = g / 2;
      for (std::size_t j = 0; j < 16; ++j) {
        const int q = ((qs[j] >> shift) & 3) + 4 * ((high[j] >> bit) & 1) - 4;
        values[16 * g + j] = scale * static_cast<float>(q);
      }
    }
  }
}

void decode_q4_k(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ4_K>(blocks);
  std::array<std::uint8_t, n_groups_32> scales;
  std::array<std::uint8_t, n_groups_32> mins;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    const float dmin = block->dmin.value();
    unpack_scales_mins(block->scales, scales, mins);
    for (std::size_t g = 0; g < n_groups_32; ++g) {
      const float scale = d * static_cast<float>(scales[g]);
      const float min = dmin * static_cast<float>(mins[g]);
      const std::uint8_t* qs = block->qs.data() + 32 * (g / 2);
      const std::size_t shift = 4 * (g % 2);
      for (std::size_t j = 0; j < 32; ++j) values[32 * g + j] = scale * static_cast<float>((qs[j] >> shift) & 0x0f) - min;
    }
  }
}

void decode_q5_k(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ5_K>(blocks);
  std::array<std::uint8_t, n_groups_32> scales;
  std::array<std::uint8_t, n_groups_32> mins;
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    const float dmin = block->dmin.value();
    unpack_scales_mins(block->scales, scales, mins);
    for (std::size_t g = 0; g < n_groups_32; ++g) {
      const float scale = d * static_cast<float>(scales[g]);
      const float min = dmin * static_cast<float>(mins[g]);
      const std::uint8_t* qs = block->qs.data() + 32 * (g / 2);
      const std::size_t shift = 4 * (g % 2);
      for (std::size_t j = 0; j < 32; ++j) {
        const int q = ((qs[j] >> shift) & 0x0f) + 16 * ((block->qh[j] >> g) & 1);
        values[32 * g + j] = scale * static_cast<float>(q) - min;
      }
    }
  }
}

void decode_q6_k(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockQ6_K>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    for (std::size_t g = 0; g < n_groups_16; ++g) {
      const float scale = d * static_cast<float>(block->scales[g]);
      const std::uint8_t* ql = block->ql.data() + 64 * (g / 8) + 16 * (g % 4);
      const std::size_t low_shift = 4 * (g % 8 / 4);
      const std::uint8_t* qh = block->qh.data() + 32 * (g / 8) + 16 * (g % 2);
      const std::size_t high_shift = 2 * (g % 8 / 2);
      for (std::size_t j = 0; j < 16; ++j) {
        const int q = ((ql[j] >> low_shift) & 0x0f) + 16 * ((qh[j] >> high_shift) & 3) - 32;
        values[16 * g + j] = scale * static_cast<float>(q);
      }
    }
  }
}

}  // namespace plumb::quants
