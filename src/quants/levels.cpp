// IQ4_NL, IQ4_XS and MXFP4: four bits select one of sixteen unevenly spaced levels.
#include "quants/codecs.h"

namespace plumb::quants {
namespace {

// 32 weights, nibble-split.
void decode_levels(const std::uint8_t* qs, const std::array<std::int8_t, 16>& levels, float d, float* values) {
  std::array<float, 16> scaled;
  for (std::size_t q = 0; q < 16; ++q) scaled[q] = d * static_cast<float>(levels[q]);
  for (std::size_t j = 0; j < 16; ++j) {
    values[j] = scaled[qs[j] & 0x0f];
    values[j + 16] = scaled[qs[j] >> 4];
  }
}

}  // namespace

void decode(const BlockIQ4_NL& block, float* values) {
  decode_levels(block.qs.data(), iq4_levels, block.d.value(), values);
}

void decode(const BlockIQ4_XS& block, float* values) {
  const float d = block.d.value();
  for (std::size_t g = 0; g < super_block / 32; ++g) {
    const int low = (block.scales_l[g / 2] >> (4 * (g % 2))) & 0x0f;
    const int high = (block.scales_h.bits() >> (2 * g)) & 3;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    decode_levels(block.qs.data() + 16 * g, iq4_levels, scale, values + 32 * g);
  }
}

void decode(const BlockMXFP4& block, float* values) {
  decode_levels(block.qs.data(), mxfp4_levels, e8m0_half(block.e), values);
}

}  // namespace plumb::quants
