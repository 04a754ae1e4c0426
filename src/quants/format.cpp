#include "quants/format.h"

#include <algorithm>
#include <array>

#include "quants/blocks.h"
#include "quants/codecs.h"

namespace plumb::quants {
namespace {

template <class Block>
constexpr std::uint32_t bytes_of = static_cast<std::uint32_t>(sizeof(Block));

constexpr std::array<FormatInfo, 16> table = {{
    {Format::f32, "F32", 1, 4, decode_f32, encode_f32},
    {Format::f16, "F16", 1, 2, decode_f16, encode_f16},
    {Format::q4_0, "Q4_0", small_block, bytes_of<BlockQ4_0>, decode_q4_0, encode_q4_0},
    {Format::q4_1, "Q4_1", small_block, bytes_of<BlockQ4_1>, decode_q4_1, encode_q4_1},
    {Format::q5_0, "Q5_0", small_block, bytes_of<BlockQ5_0>, decode_q5_0, encode_q5_0},
    {Format::q5_1, "Q5_1", small_block, bytes_of<BlockQ5_1>, decode_q5_1, encode_q5_1},
    {Format::q8_0, "Q8_0", small_block, bytes_of<BlockQ8_0>, decode_q8_0, encode_q8_0},
    {Format::q2_k, "Q2_K", super_block, bytes_of<BlockQ2_K>, decode_q2_k, nullptr},
    {Format::q3_k, "Q3_K", super_block, bytes_of<BlockQ3_K>, decode_q3_k, nullptr},
    {Format::q4_k, "Q4_K", super_block, bytes_of<BlockQ4_K>, decode_q4_k, encode_q4_k},
    {Format::q5_k, "Q5_K", super_block, bytes_of<BlockQ5_K>, decode_q5_k, encode_q5_k},
    {Format::q6_k, "Q6_K", super_block, bytes_of<BlockQ6_K>, decode_q6_k, encode_q6_k},
    {Format::iq4_nl, "IQ4_NL", small_block, bytes_of<BlockIQ4_NL>, decode_iq4_nl, nullptr},
    {Format::iq4_xs, "IQ4_XS", super_block, bytes_of<BlockIQ4_XS>, decode_iq4_xs, nullptr},
    {Format::bf16, "BF16", 1, 2, decode_bf16, encode_bf16},
    {Format::mxfp4, "MXFP4", small_block, bytes_of<BlockMXFP4>, decode_mxfp4, nullptr},
}};

constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

}  // namespace

std::span<const FormatInfo> formats() { return table; }

const FormatInfo& info(Format format) { return *find(static_cast<std::uint32_t>(format)); }

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
