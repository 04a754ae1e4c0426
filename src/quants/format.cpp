#include "quants/format.h"

#include <algorithm>
#include <array>

#include "quants/codecs.h"

namespace plumb::quants {
namespace {

template <class Block, std::size_t n>
void decode_blocks(const std::byte* blocks, float* values, std::size_t n_blocks) {
  static_assert(alignof(Block) == 1);
  const auto* block = reinterpret_cast<const Block*>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b) decode(block[b], values + n * b);
}

template <class Block, std::size_t n>
void encode_blocks(const float* values, std::byte* blocks, std::size_t n_blocks) {
  auto* block = reinterpret_cast<Block*>(blocks);
  for (std::size_t b = 0; b < n_blocks; ++b) encode(values + n * b, block[b]);
}

#define PLUMB_ENCODER_written(Block, n) encode_blocks<Block, n>
#define PLUMB_ENCODER_read_only(Block, n) nullptr
#define PLUMB_FORMAT(id, type, NAME, family, writing)    \
  FormatInfo{Format::id,                                 \
             #NAME,                                      \
             family##_block,                             \
             sizeof(Block##NAME),                        \
             decode_blocks<Block##NAME, family##_block>, \
             PLUMB_ENCODER_##writing(Block##NAME, family##_block)},
constexpr std::array table = {PLUMB_FORMATS(PLUMB_FORMAT)};
#undef PLUMB_FORMAT

constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

}  // namespace

std::span<const FormatInfo> formats() { return table; }

const FormatInfo& info(Format format) { return table[index(format)]; }

const FormatInfo* find(std::uint32_t type_id) {
  const auto* entry = std::find_if(table.begin(), table.end(), [type_id](const FormatInfo& candidate) {
    return static_cast<std::uint32_t>(candidate.format) == type_id;
  });
  return entry == table.end() ? nullptr : entry;
}

const FormatInfo* find(std::string_view name) {
  const auto* entry = std::find_if(table.begin(), table.end(), [name](const FormatInfo& candidate) {
    return std::equal(name.begin(), name.end(), candidate.name.begin(), candidate.name.end(),
                      [](char a, char b) { return upper(a) == b; });
  });
  return entry == table.end() ? nullptr : entry;
}

}  // namespace plumb::quants
