// Weights for tests of kernels, of formats that Plumb can read but not write too.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "base/half.h"
#include "quants/format.h"

namespace plumb::backends {

// [n_out, n_in] random weights as bytes of a format: every pattern of bits but in a block's float scales, which stay small
// and finite; float formats: normally distributed.
inline std::vector<std::byte> random_rows(const quants::FormatInfo& info, unsigned n_in, unsigned n_out,
                                          std::mt19937& random) {
  std::vector<std::byte> rows(n_out * info.row_bytes(n_in));
  for (std::byte& b : rows) b = static_cast<std::byte>(random());
  using quants::Format;
  std::vector<unsigned> scales{0};  // where a block's halves lie
  if (info.format == Format::q4_1 || info.format == Format::q5_1 || info.format == Format::q4_k ||
      info.format == Format::q5_k) {
    scales = {0, 2};
  } else if (info.format == Format::q2_k) {
    scales = {80, 82};
  } else if (info.format == Format::q3_k) {
    scales = {108};
  } else if (info.format == Format::q6_k) {
    scales = {208};
  }
  if (info.block_size == 1) {
    std::normal_distribution<float> normal;
    std::vector<float> values(std::size_t{n_in} * n_out);
    for (float& v : values) v = normal(random);
    info.encode(values.data(), rows.data(), values.size());
    return rows;
  }
  std::uniform_real_distribution<float> scale(-0.01F, 0.01F);
  for (std::size_t block = 0; block < rows.size(); block += info.block_bytes) {
    if (info.format == Format::mxfp4) {
      rows[block] = static_cast<std::byte>(110 + random() % 20);  // an exponent
      continue;
    }
    for (const unsigned at : scales) {
      const std::uint16_t half = f32_to_f16(scale(random));
      std::memcpy(&rows[block + at], &half, sizeof half);
    }
  }
  return rows;
}

}  // namespace plumb::backends
