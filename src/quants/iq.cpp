// IQ4_NL and IQ4_XS: four bits choose one of sixteen unevenly spaced levels.
#include "quants/blocks.h"
#include "quants/codecs.h"

namespace plumb::quants {

void decode_iq4_nl(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockIQ4_NL>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = block->d.value();
    for (std::size_t j = 0; j < 16; ++j) {
      values[j] = d * static_cast<float>(iq4_levels[block->qs[j] & 0x0f]);
      values[j + 16] = d * static_cast<float>(iq4_levels[block->qs[j] >> 4]);
    }
  }
}

void decode_iq4_xs(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockIQ4_XS>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += super_block) {
    const float d = block->d.value();
    for (std::size_t g = 0; g < super_block / 32; ++g) {
      const int low = (block->scales_l[g / 2] >> (4 * (g % 2))) & 0x0f;
      const int high = (block->scales_h.bits() >> (2 * g)) & 3;
      const float scale = d * static_cast<float>((low | (high << 4)) - 32);
      const std::uint8_t* qs = block->qs.data() + 16 * g;
      for (std::size_t j = 0; j < 16; ++j) {
        values[32 * g + j] = scale * static_cast<float>(iq4_levels[qs[j] & 0x0f]);
        values[32 * g + j + 16] = scale * static_cast<float>(iq4_levels[qs[j] >> 4]);
      }
    }
  }
}

}  // namespace plumb::quants
