// Decodes and encodes one block, for each format. format.cpp makes its table from these functions.
//
// Decoders do the same float32 operations as the PyPI package `gguf`, in the same order and without fused multiply-adds
// (src/quants/CMakeLists.txt turns contraction off), so that results agree bit for bit.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "quants/blocks.h"
#include "quants/format_list.h"

namespace plumb::quants {

// Formats that Plumb only reads have no encoder.
#define PLUMB_FORMAT(id, type, NAME, family, writing)   \
  void decode(const Block##NAME& block, float* values); \
  void encode(const float* values, Block##NAME& block);
PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT

inline void decode(const BlockF32& block, float* values) { std::memcpy(values, &block, sizeof *values); }
inline void encode(const float* values, BlockF32& block) { std::memcpy(&block, values, sizeof *values); }

// The same as f16_to_f32, without branches: the scaling aligns the exponent, also of subnormals, and is exact.
inline void decode(const BlockF16& block, float* values) {
  const std::uint16_t half = block.value.bits();
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const std::uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  *values = std::bit_cast<float>((magnitude >= 0x0f800000u ? special : finite) | sign);
}
inline void encode(const float* values, BlockF16& block) { block.value.set(*values); }

inline void decode(const BlockBF16& block, float* values) { *values = bf16_to_f32(block.value.bits()); }
inline void encode(const float* values, BlockBF16& block) { block.value.set_bits(f32_to_bf16(*values)); }

}  // namespace plumb::quants
