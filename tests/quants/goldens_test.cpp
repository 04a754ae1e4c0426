// Decoding, and the encodings that are plain rounding, against the PyPI package `gguf` (tools/make_quant_goldens.py).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/half.h"
#include "quants/format.h"
#include "quants/print.h"

namespace plumb::quants {
namespace {

std::vector<std::byte> read_golden(const std::string& name) {
  std::ifstream in(std::string(PLUMB_TEST_DATA) + "/quants/" + name, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << name;
  const std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::byte> bytes(chars.size());
  if (!chars.empty()) std::memcpy(bytes.data(), chars.data(), chars.size());
  return bytes;
}

std::vector<float> floats_of(const std::byte* bytes, std::size_t n) {
  std::vector<float> values(n);
  std::memcpy(values.data(), bytes, n * sizeof(float));
  return values;
}

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

class Golden : public testing::TestWithParam<FormatInfo> {};

TEST_P(Golden, DecodesBitForBit) {
  const FormatInfo& format = GetParam();
  const std::vector<std::byte> golden = read_golden(std::string(format.name) + ".decode.bin");
  const std::size_t bytes_both = format.block_bytes + format.block_size * sizeof(float);
  ASSERT_GT(golden.size(), 0u);
  ASSERT_EQ(golden.size() % bytes_both, 0u);
  const std::size_t n_blocks = golden.size() / bytes_both;
  const std::vector<float> expected =
      floats_of(golden.data() + n_blocks * format.block_bytes, n_blocks * format.block_size);

  std::vector<float> actual(expected.size());
  format.decode(golden.data(), actual.data(), n_blocks);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(bits(actual[i]), bits(expected[i])) << "value " << i << ": " << actual[i] << " is not " << expected[i];
  }

  // The same from an odd address, as a tensor of a mapped file may lie.
  std::vector<std::byte> shifted(n_blocks * format.block_bytes + 1);
  std::memcpy(shifted.data() + 1, golden.data(), n_blocks * format.block_bytes);
  std::vector<float> again(expected.size());
  format.decode(shifted.data() + 1, again.data(), n_blocks);
  EXPECT_EQ(std::memcmp(actual.data(), again.data(), actual.size() * sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, Golden, testing::ValuesIn(formats().begin(), formats().end()), name_of);

TEST(Goldens, AreAllOfFormatsInTheList) {
  for (const auto& entry : std::filesystem::directory_iterator(std::string(PLUMB_TEST_DATA) + "/quants")) {
    const std::string file = entry.path().filename();
    const std::string name = file.substr(0, file.find('.'));
    EXPECT_NE(find(std::string_view(name)), nullptr) << file << ": format_list.h has no row for " << name;
  }
}

class EncodeGolden : public testing::TestWithParam<const char*> {};

TEST_P(EncodeGolden, EncodesBitForBit) {
  const FormatInfo& format = *find(std::string_view(GetParam()));
  const std::vector<std::byte> golden = read_golden(std::string(format.name) + ".encode.bin");
  const std::size_t bytes_both = format.block_bytes + format.block_size * sizeof(float);
  ASSERT_GT(golden.size(), 0u);
  ASSERT_EQ(golden.size() % bytes_both, 0u);
  const std::size_t n_blocks = golden.size() / bytes_both;
  const std::vector<float> values = floats_of(golden.data(), n_blocks * format.block_size);

  std::vector<std::byte> actual(n_blocks * format.block_bytes);
  format.encode(values.data(), actual.data(), n_blocks);
  const std::byte* expected = golden.data() + values.size() * sizeof(float);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i], expected[i]) << "byte " << i % format.block_bytes << " of block " << i / format.block_bytes;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, EncodeGolden, testing::Values("F16", "BF16", "Q8_0"),
                         [](const auto& param) { return std::string(param.param); });

TEST(Float16, EveryPatternDecodesAsTheScalarConversion) {
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  std::vector<float> values(patterns.size());
  info(Format::f16).decode(reinterpret_cast<const std::byte*>(patterns.data()), values.data(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float expected = f16_to_f32(patterns[i]);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(bits(values[i]), bits(expected)) << i;
    }
  }
}

}  // namespace
}  // namespace plumb::quants
