// Weights for tests of kernels, also in formats that Plumb can only read.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "base/half.h"
#include "quants/blocks.h"
#include "quants/format.h"

namespace plumb::backends {

// The offsets of half floats in a format's blocks: scales and minima.
inline std::vector<std::size_t> halves_of(quants::Format format) {
  const auto of_block = []<class Block>(const Block& block) {
    const auto place = [&block](const auto& field) {
      return static_cast<std::size_t>(reinterpret_cast<const char*>(&field) - reinterpret_cast<const char*>(&block));
    };
    std::vector<std::size_t> halves;
    if constexpr (requires { block.d; }) halves.push_back(place(block.d));
    if constexpr (requires { block.m; }) halves.push_back(place(block.m));
    if constexpr (requires { block.dmin; }) halves.push_back(place(block.dmin));
    return halves;
  };
#define PLUMB_FORMAT(id, type, NAME, family, writing) \
  if (format == quants::Format::id) return of_block(quants::Block##NAME{});
  PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT
  return {};
}

// [n_out, n_in] random weights as bytes of a format. Quantized formats have any bit pattern, but their float scales are
// small and finite. Float formats are normally distributed.
inline std::vector<std::byte> random_rows(const quants::FormatInfo& info, unsigned n_in, unsigned n_out,
                                          std::mt19937& random) {
  std::vector<std::byte> rows(n_out * info.row_bytes(n_in));
  for (std::byte& b : rows) b = static_cast<std::byte>(random());
  if (info.block_size == 1) {
    std::normal_distribution<float> normal;
    std::vector<float> values(std::size_t{n_in} * n_out);
    for (float& v : values) v = normal(random);
    info.encode(values.data(), rows.data(), values.size());
    return rows;
  }
  const std::vector<std::size_t> halves = halves_of(info.format);
  std::uniform_real_distribution<float> scale(-0.01F, 0.01F);
  for (std::size_t block = 0; block < rows.size(); block += info.block_bytes) {
    if (info.format == quants::Format::mxfp4) {
      rows[block] = static_cast<std::byte>(110 + random() % 20);  // an exponent
      continue;
    }
    for (const std::size_t at : halves) {
      const std::uint16_t half = f32_to_f16(scale(random));
      std::memcpy(&rows[block + at], &half, sizeof half);
    }
  }
  return rows;
}

}  // namespace plumb::backends
