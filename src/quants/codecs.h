// The decoders and encoders of every family, for the table in format.cpp. Each has the signature of DecodeFn or EncodeFn.
//
// Decoders do the float operations of the PyPI package `gguf` in its order, in float32 and without contraction to fused
// multiply-adds (src/quants/CMakeLists.txt sees to it), so that results agree bit for bit.
#pragma once

#include <cstddef>

#include "quants/format_list.h"

namespace plumb::quants {

// Formats that are only read have no encoder.
#define PLUMB_FORMAT(id, type, NAME, family, writing)                             \
  void decode_##id(const std::byte* blocks, float* values, std::size_t n_blocks); \
  void encode_##id(const float* values, std::byte* blocks, std::size_t n_blocks);
PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT

template <class Block>
const Block* blocks_at(const std::byte* bytes) {
  static_assert(alignof(Block) == 1);
  return reinterpret_cast<const Block*>(bytes);
}

template <class Block>
Block* blocks_at(std::byte* bytes) {
  static_assert(alignof(Block) == 1);
  return reinterpret_cast<Block*>(bytes);
}

}  // namespace plumb::quants
