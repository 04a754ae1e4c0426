// MXFP4: 32 E2M1 numbers share one power of two.
#include "quants/blocks.h"
#include "quants/codecs.h"

namespace plumb::quants {

void decode_mxfp4(const std::byte* blocks, float* values, std::size_t n_blocks) {
  const auto* block = blocks_at<BlockMXFP4>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b, ++block, values += small_block) {
    const float d = e8m0_half(block->e);
    for (std::size_t j = 0; j < 16; ++j) {
      values[j] = d * static_cast<float>(mxfp4_levels[block->qs[j] & 0x0f]);
      values[j + 16] = d * static_cast<float>(mxfp4_levels[block->qs[j] >> 4]);
    }
  }
}

}  // namespace plumb::quants
