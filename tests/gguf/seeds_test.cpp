// The fuzzer's seeds are valid files that reach every part of the parser.
// To write them again, for instance for a new format: PLUMB_WRITE_SEEDS=1 gguf_tests --gtest_filter='Seeds.*'
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "gguf/file.h"
#include "gguf/raw_file.h"

namespace plumb::gguf {
namespace {

using test::RawFile;

RawFile every_value() {
  RawFile file;
  file.header(2, 0, 13);
  file.key("u8", ValueType::u8, std::uint8_t{1}).key("i8", ValueType::i8, std::int8_t{-1});
  file.key("u16", ValueType::u16, std::uint16_t{1}).key("i16", ValueType::i16, std::int16_t{-1});
  file.key("u32", ValueType::u32, std::uint32_t{1}).key("i32", ValueType::i32, std::int32_t{-1});
  file.key("u64", ValueType::u64, std::uint64_t{1}).key("i64", ValueType::i64, std::int64_t{-1});
  file.key("f32", ValueType::f32, 0.5F).key("f64", ValueType::f64, 0.25);
  file.key("bool", ValueType::boolean, std::uint8_t{1}).key("string", "text");
  file.string("array", "array").type("type", ValueType::array).type("element", ValueType::i32);
  return file.number("count", std::uint64_t{2}).number("0", std::int32_t{-7}).number("1", std::int32_t{7});
}

RawFile every_format() {
  RawFile file;
  file.header(3, quants::formats().size(), 1).key("general.alignment", ValueType::u32, std::uint32_t{8});
  std::uint64_t offset = 0;
  for (const auto& format : quants::formats()) {
    file.tensor(std::string(format.name), {format.block_size, 2}, static_cast<std::uint32_t>(format.format), offset);
    offset += (format.row_bytes(format.block_size) * 2 + 7) / 8 * 8;
  }
  return file.data(offset, 8);
}

RawFile shard() {
  RawFile file;
  file.header(3, 0, 3);
  file.key("split.no", ValueType::u16, std::uint16_t{0}).key("split.count", ValueType::u16, std::uint16_t{1});
  return file.key("split.tensors.count", ValueType::i32, std::int32_t{0});
}

class Seeds : public ::testing::TestWithParam<std::pair<std::string, RawFile>> {};

TEST_P(Seeds, AreValidAndNoPrefixIs) {
  const auto& [name, raw] = GetParam();
  const std::string path = PLUMB_SOURCE "/fuzz/seeds/gguf/" + name;
  if (std::getenv("PLUMB_WRITE_SEEDS") != nullptr) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(raw.bytes.data()), static_cast<std::streamsize>(raw.bytes.size()));
  }
  const auto made = File::from_memory(raw.bytes, name);
  ASSERT_TRUE(made) << made.error().message;
  // What fills up the last tensor's data to the alignment may be missing.
  std::size_t end = made->tensors().empty() ? raw.bytes.size() : 0;
  for (const Tensor& tensor : made->tensors()) end = std::max<std::size_t>(end, tensor.file_offset + tensor.data.size());
  for (std::size_t n = 0; n < end; ++n) {
    // A copy of exactly these bytes, so that AddressSanitizer sees a read past the end.
    const std::vector<std::byte> prefix(raw.bytes.begin(), raw.bytes.begin() + static_cast<std::ptrdiff_t>(n));
    EXPECT_FALSE(File::from_memory(prefix, "prefix")) << n << " bytes";
  }
  const auto committed = File::open(path);
  EXPECT_TRUE(committed) << committed.error().message;
}

INSTANTIATE_TEST_SUITE_P(All, Seeds,
                         ::testing::Values(std::pair("sample.gguf", test::sample()),
                                           std::pair("values.gguf", every_value()),
                                           std::pair("formats.gguf", every_format()), std::pair("shard.gguf", shard())),
                         [](const auto& test) { return test.param.first.substr(0, test.param.first.find('.')); });

}  // namespace
}  // namespace plumb::gguf
