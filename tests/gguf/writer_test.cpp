// Files from the Writer read back equal, for random metadata of every type and random tensors. Invalid input is refused.
#include "gguf/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <array>
#include <bit>
#include <csignal>
#include <deque>
#include <fstream>

#include "gguf/raw_file.h"
#include "gguf/temporary_folder.h"

namespace plumb::gguf {
namespace {

using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

bool same(const Array& a, const Array& b) {
  if (a.element != b.element || a.count != b.count || a.strings != b.strings || a.arrays.size() != b.arrays.size())
    return false;
  if (!std::equal(a.raw.begin(), a.raw.end(), b.raw.begin(), b.raw.end())) return false;
  for (std::size_t i = 0; i < a.arrays.size(); ++i) {
    if (!same(a.arrays[i], b.arrays[i])) return false;
  }
  return true;
}

// Compares floats by their bits, so that a NaN equals itself.
bool same(const Value& a, const Value& b) {
  if (a.index() != b.index()) return false;
  return std::visit(
      [&](const auto& x) {
        using T = std::decay_t<decltype(x)>;
        const T& y = std::get<T>(b);
        if constexpr (std::is_same_v<T, Array>) {
          return same(x, y);
        } else if constexpr (std::is_same_v<T, float>) {
          return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
        } else if constexpr (std::is_same_v<T, double>) {
          return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
        } else {
          return x == y;
        }
      },
      a);
}

// Makes random Values. A Value is a view, so their strings and raw bytes are kept here.
class RandomValues {
 public:
  Value value(int depth = 1) {
    const auto type = static_cast<ValueType>(*rc::gen::inRange<std::uint32_t>(0, 13));
    switch (type) {
      case ValueType::u8:
        return *rc::gen::arbitrary<std::uint8_t>();
      case ValueType::i8:
        return *rc::gen::arbitrary<std::int8_t>();
      case ValueType::u16:
        return *rc::gen::arbitrary<std::uint16_t>();
      case ValueType::i16:
        return *rc::gen::arbitrary<std::int16_t>();
      case ValueType::u32:
        return *rc::gen::arbitrary<std::uint32_t>();
      case ValueType::i32:
        return *rc::gen::arbitrary<std::int32_t>();
      case ValueType::u64:
        return *rc::gen::arbitrary<std::uint64_t>();
      case ValueType::i64:
        return *rc::gen::arbitrary<std::int64_t>();
      case ValueType::f32:
        return std::bit_cast<float>(*rc::gen::arbitrary<std::uint32_t>());
      case ValueType::f64:
        return std::bit_cast<double>(*rc::gen::arbitrary<std::uint64_t>());
      case ValueType::boolean:
        return *rc::gen::arbitrary<bool>();
      case ValueType::string:
        return string();
      case ValueType::array:
        return array(depth);
    }
    return false;
  }

  std::string_view string() { return strings_.emplace_back(*rc::gen::arbitrary<std::string>()); }

  Array array(int depth) {
    Array array;
    array.element = static_cast<ValueType>(*rc::gen::inRange<std::uint32_t>(0, 13));
    if (array.element == ValueType::array && depth >= 3) array.element = ValueType::f32;
    array.count = *rc::gen::inRange<std::uint64_t>(0, 6);
    for (std::uint64_t i = 0; i < array.count; ++i) {
      if (array.element == ValueType::string) array.strings.push_back(string());
      if (array.element == ValueType::array) array.arrays.push_back(this->array(depth + 1));
    }
    auto& raw = raw_.emplace_back(array.count * scalar_bytes(array.element));
    for (auto& byte : raw) {
      byte = array.element == ValueType::boolean ? static_cast<std::byte>(*rc::gen::arbitrary<bool>())
                                                 : static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
    }
    array.raw = raw;
    return array;
  }

 private:
  std::deque<std::string> strings_;
  std::deque<std::vector<std::byte>> raw_;
};

struct Expected {
  std::string name;
  quants::Format format;
  std::vector<std::uint64_t> dims;
  std::vector<std::byte> bytes;
};

std::vector<Expected> random_tensors() {
  std::vector<Expected> tensors;
  const auto formats = quants::formats();
  const int n = *rc::gen::inRange(0, 6);
  for (int i = 0; i < n; ++i) {
    const auto& format = formats[*rc::gen::inRange<std::size_t>(0, formats.size())];
    Expected tensor{"blk." + std::to_string(i) + *rc::gen::arbitrary<std::string>(), format.format, {}, {}};
    const auto n_dims = *rc::gen::inRange<std::size_t>(format.block_size == 1 ? 0 : 1, max_dims + 1);
    std::uint64_t elements = 1;
    for (std::size_t d = 0; d < n_dims; ++d) {
      tensor.dims.push_back(*rc::gen::inRange<std::uint64_t>(1, 4) * (d == 0 ? format.block_size : 1));
      elements *= tensor.dims.back();
    }
    tensor.bytes.resize(format.row_bytes(elements));
    auto state = *rc::gen::arbitrary<std::uint32_t>();
    for (auto& byte : tensor.bytes) byte = static_cast<std::byte>((state = state * 1664525U + 1013904223U) >> 24U);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

RC_GTEST_PROP(Writer, WhatIsWrittenReadsBackEqual, ()) {
  RandomValues random;
  std::vector<std::pair<std::string, Value>> metadata;
  const int n_keys = *rc::gen::inRange(0, 12);
  for (int i = 0; i < n_keys; ++i) {
    metadata.emplace_back(std::to_string(i) + *rc::gen::arbitrary<std::string>(), random.value());
  }
  const auto tensors = random_tensors();

  Writer writer;
  for (const auto& [key, value] : metadata) writer.set(key, value);
  for (const auto& tensor : tensors) {
    if (*rc::gen::arbitrary<bool>()) {
      writer.add_tensor(tensor.name, tensor.format, tensor.dims, tensor.bytes);
    } else {
      writer.add_tensor(tensor.name, tensor.format, tensor.dims, [&tensor](std::span<std::byte> bytes) -> Result<void> {
        RC_ASSERT(bytes.size() == tensor.bytes.size());
        std::copy(tensor.bytes.begin(), tensor.bytes.end(), bytes.begin());
        return {};
      });
    }
  }
  const auto bytes = writer.to_memory();
  RC_ASSERT(bytes.has_value());
  const auto file = File::from_memory(*bytes, "written");
  RC_ASSERT(file.has_value());
  RC_ASSERT(file->version() == 3U);
  RC_ASSERT(file->alignment() == 32U);
  RC_ASSERT(file->metadata().size() == metadata.size());
  for (std::size_t i = 0; i < metadata.size(); ++i) {
    RC_ASSERT(file->metadata()[i].first == metadata[i].first);
    RC_ASSERT(same(file->metadata()[i].second, metadata[i].second));
  }
  RC_ASSERT(file->tensors().size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& read = file->tensors()[i];
    RC_ASSERT(read.name == tensors[i].name);
    RC_ASSERT(read.format == tensors[i].format);
    RC_ASSERT(read.n_dims == tensors[i].dims.size());
    RC_ASSERT(std::equal(tensors[i].dims.begin(), tensors[i].dims.end(), read.dims.begin()));
    RC_ASSERT(std::equal(read.data.begin(), read.data.end(), tensors[i].bytes.begin(), tensors[i].bytes.end()));
  }
}

constexpr std::array<std::uint64_t, 2> dims_8x2 = {8, 2};

Writer small_writer(std::span<const std::byte> bytes) {
  Writer writer;
  writer.set("general.architecture", std::string_view("test"));
  writer.set("n", std::uint32_t{5});
  writer.add_tensor("t", quants::Format::f32, dims_8x2, bytes);
  return writer;
}

std::vector<std::byte> content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto raw = std::as_bytes(std::span(text));
  return {raw.begin(), raw.end()};
}

std::size_t n_files(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

class WriterFiles : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(64, std::byte{7});
};

TEST_F(WriterFiles, FileAndMemoryAreTheSameBytes) {
  const auto path = folder_.path() / "out.gguf";
  const Writer writer = small_writer(bytes_);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> steps;
  const auto written =
      writer.write(path, [&](std::uint64_t done, std::uint64_t total) { steps.emplace_back(done, total); });
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(content(path), writer.to_memory().value());
  EXPECT_EQ(n_files(folder_.path()), 1U);
  EXPECT_EQ(steps, (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{64, 64}}));
}

TEST_F(WriterFiles, ReplacesAFileThatIsItsOwnSource) {
  const auto path = folder_.path() / "out.gguf";
  ASSERT_TRUE(small_writer(bytes_).write(path));
  const auto source = File::open(path).value();
  Writer writer;
  for (const auto& [key, value] : source.metadata()) writer.set(std::string(key), value);
  writer.add_tensor("again", quants::Format::f32, dims_8x2, source.tensor("t")->data);
  const auto written = writer.write(path);
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(source.tensor("t")->data[63], std::byte{7});
  const auto copy = File::open(path).value();
  EXPECT_NE(copy.tensor("again"), nullptr);
  EXPECT_EQ(copy.get_uint("n").value(), 5U);
}

TEST_F(WriterFiles, FollowsLinksAndLeavesDevicesAlone) {
  const auto target = folder_.write("target.gguf", {});
  const auto link = folder_.path() / "link.gguf";
  std::filesystem::create_symlink(target, link);
  ASSERT_TRUE(small_writer(bytes_).write(link));
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(File::open(target));

  const auto pipe = folder_.path() / "pipe.gguf";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(small_writer(bytes_).write(pipe).error().message,
              AllOf(HasSubstr(pipe.string()), HasSubstr("no regular file")));
  EXPECT_THAT(small_writer(bytes_).write(folder_.path()).error().message, HasSubstr("no regular file"));
}

TEST_F(WriterFiles, AFolderThatIsNotThereIsNamed) {
  const auto path = folder_.path() / "none" / "out.gguf";
  EXPECT_THAT(small_writer(bytes_).write(path).error().message, AllOf(HasSubstr(path.string()), HasSubstr("No such file")));
}

// A limit on file size stands in for a full disk: write() fails at the same place.
TEST_F(WriterFiles, AFullDiskLeavesNothingBehindAndTheOldFileInPlace) {
  const auto path = folder_.write("out.gguf", bytes_);
  const std::vector<std::byte> large(1 << 20);
  const std::array<std::uint64_t, 1> dims = {large.size() / 4};
  Writer writer;
  writer.add_tensor("large", quants::Format::f32, dims, large);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 1 << 16;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto written = writer.write(path);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message,
              AllOf(HasSubstr(path.string()), HasSubstr("cannot write"), HasSubstr("File too large")));
  EXPECT_EQ(n_files(folder_.path()), 1U);
  EXPECT_EQ(content(path), bytes_);
}

TEST_F(WriterFiles, AProducerThatFailsStopsIt) {
  Writer writer;
  writer.add_tensor("t", quants::Format::f32, dims_8x2,
                    [](std::span<std::byte>) -> Result<void> { return fail("no weights"); });
  const auto path = folder_.path() / "out.gguf";
  EXPECT_THAT(writer.write(path).error().message,
              AllOf(HasSubstr(path.string()), HasSubstr("\"t\""), HasSubstr("no weights")));
  EXPECT_EQ(n_files(folder_.path()), 0U);
  EXPECT_THAT(writer.to_memory().error().message, HasSubstr("no weights"));
}

TEST(WriterMetadata, SetReplacesInPlaceAndEraseRemoves) {
  Writer writer;
  writer.set("a", std::uint32_t{1});
  writer.set("b", true);
  writer.set("c", 1.5F);
  writer.set("a", std::string_view("new"));
  writer.set("general.alignment", std::uint32_t{64});
  writer.erase("b");
  writer.erase("never there");
  const auto bytes = writer.to_memory().value();
  const auto file = File::from_memory(bytes, "x").value();
  ASSERT_EQ(file.metadata().size(), 2U);
  EXPECT_EQ(file.metadata()[0].first, "a");
  EXPECT_EQ(file.get_string("a").value(), "new");
  EXPECT_EQ(file.get_float("c").value(), 1.5);
  EXPECT_EQ(file.alignment(), 32U);
}

TEST(WriterMetadata, ArraysFromMemory) {
  const std::vector<std::string_view> strings = {"x", "", "yz"};
  const std::vector<float> floats = {1.0F, -2.5F};
  const std::vector<std::int32_t> integers = {3, -4, 5};
  Writer writer;
  writer.set("strings", array_of(strings));
  writer.set("floats", array_of(floats));
  writer.set("integers", array_of(integers));
  const auto bytes = writer.to_memory().value();
  const auto file = File::from_memory(bytes, "x").value();
  EXPECT_EQ(file.get_array("strings", ValueType::string).value()->strings, strings);
  EXPECT_EQ(file.get_array("floats", ValueType::f32).value()->at<float>(1), -2.5F);
  EXPECT_EQ(file.get_array("integers", ValueType::i32).value()->at<std::int32_t>(1), -4);
}

TEST(WriterErrors, NameTheItem) {
  const std::vector<std::byte> bytes(64);
  const auto message = [](const Writer& writer) {
    const auto result = writer.to_memory();
    return result ? std::string("no error") : result.error().message;
  };
  const auto tensor = [&](quants::Format format, std::vector<std::uint64_t> dims) {
    Writer writer;
    writer.add_tensor("t", format, dims, bytes);
    return message(writer);
  };
  EXPECT_EQ(tensor(quants::Format::f32, {16}), "no error");
  EXPECT_THAT(tensor(quants::Format::f32, {15}),
              AllOf(HasSubstr("\"t\""), HasSubstr("64 bytes were given"), HasSubstr("60")));
  EXPECT_THAT(tensor(quants::Format::q8_0, {33}), AllOf(HasSubstr("\"t\""), HasSubstr("blocks of 32 (Q8_0)")));
  EXPECT_THAT(tensor(quants::Format::q8_0, {}), AllOf(HasSubstr("\"t\""), HasSubstr("blocks of 32 (Q8_0)")));
  EXPECT_THAT(tensor(quants::Format::f32, {1, 1, 1, 1, 16}), HasSubstr("5 dimensions"));
  EXPECT_THAT(tensor(quants::Format::f32, {16, 0}), HasSubstr("64 bytes were given, but its dimensions and F32 need 0"));
  EXPECT_THAT(tensor(quants::Format::f32, {1ULL << 40, 1ULL << 40}), HasSubstr("too large"));

  Writer twice;
  twice.add_tensor("t", quants::Format::f32, dims_8x2, bytes);
  twice.add_tensor("t", quants::Format::f32, dims_8x2, bytes);
  EXPECT_THAT(message(twice), HasSubstr("\"t\" was added twice"));

  Writer wrong_count;
  const std::vector<float> floats = {1, 2};
  Array array = array_of(floats);
  array.count = 3;
  wrong_count.set("a", array);
  EXPECT_THAT(message(wrong_count), AllOf(HasSubstr("\"a\""), HasSubstr("3 elements, but holds 2")));

  Array deep = array_of(floats);
  for (int i = 0; i < max_array_depth; ++i) {
    Array outer;
    outer.element = ValueType::array;
    outer.count = 1;
    outer.arrays.push_back(deep);
    deep = outer;
  }
  Writer nested;
  nested.set("deep", deep);
  EXPECT_THAT(message(nested), AllOf(HasSubstr("\"deep\""), HasSubstr("nested deeper")));
}

}  // namespace
}  // namespace plumb::gguf
