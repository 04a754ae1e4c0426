// The one table of tensor formats, made from format_list.h. A format is a block layout: `block_size` weights in
// `block_bytes` bytes; a row is a whole number of blocks. Only src/quants and the kernels of src/backends know the layout
// of a block. Codecs are in codecs.h, legacy.cpp, k_quants.cpp and levels.cpp.
//
// Names and type ids are GGUF's. Decoding agrees bit for bit with the PyPI package `gguf`, except for NaN payloads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "quants/format_list.h"

namespace plumb::quants {

// Values are the type ids of the GGUF file format.
enum class Format : std::uint32_t {
#define PLUMB_FORMAT(id, type, NAME, family, writing) id = (type),
  PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT
};

// A format's index in tables with one entry for each format.
constexpr std::size_t index(Format format) {
  enum : std::size_t {
#define PLUMB_FORMAT(id, type, NAME, family, writing) at_##id,
    PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT
  };
  switch (format) {
#define PLUMB_FORMAT(id, type, NAME, family, writing) \
  case Format::id:                                    \
    return at_##id;
    PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT
  }
  return 0;
}

// Decodes n_blocks blocks to n_blocks * block_size floats.
using DecodeFn = void (*)(const std::byte* blocks, float* values, std::size_t n_blocks);
// Encodes n_blocks * block_size floats to n_blocks blocks. Inputs must be finite.
using EncodeFn = void (*)(const float* values, std::byte* blocks, std::size_t n_blocks);

struct FormatInfo {
  Format format;
  std::string_view name;      // as GGUF spells it: "Q4_K"
  std::uint32_t block_size;   // weights in a block
  std::uint32_t block_bytes;  // bytes of a block
  DecodeFn decode;
  EncodeFn encode;  // null where Plumb cannot write the format

  // Bytes of a row of n weights; n must be a multiple of block_size.
  [[nodiscard]] constexpr std::uint64_t row_bytes(std::uint64_t n) const { return n / block_size * block_bytes; }
};

// Every format, in the order of their type ids.
std::span<const FormatInfo> formats();

// The entry of a known format.
const FormatInfo& info(Format format);

// By GGUF type id, or by name in upper or lower case; null for a format that Plumb does not know.
const FormatInfo* find(std::uint32_t type_id);
const FormatInfo* find(std::string_view name);

}  // namespace plumb::quants
