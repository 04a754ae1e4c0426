// The parts of a File: metadata, typed look-ups, tensors; mapped files, split sets, and files above 4 GiB.
#include "gguf/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <fstream>

#include "gguf/raw_file.h"
#include "gguf/temporary_folder.h"
#include "gguf/writer.h"

namespace plumb::gguf {
namespace {

using test::RawFile;
using test::sample;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

void write_at(const std::filesystem::path& path, std::uint64_t offset, std::span<const std::byte> bytes) {
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(offset));
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

TEST(File, HandsOutWhatTheFileHolds) {
  const RawFile raw = sample();
  const auto file = File::from_memory(raw.bytes, "sample");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version(), 3U);
  EXPECT_EQ(file->alignment(), 32U);
  EXPECT_EQ(file->label(), "sample");
  EXPECT_EQ(file->n_shards(), 1U);
  EXPECT_EQ(file->size_bytes(), raw.bytes.size());
  ASSERT_EQ(file->metadata().size(), 7U);
  EXPECT_EQ(file->metadata()[0].first, "general.architecture");
  EXPECT_EQ(file->metadata()[6].first, "last");
  EXPECT_EQ(file->get_string("general.architecture").value(), "test");
  EXPECT_TRUE(file->get_bool("flag").value());
  EXPECT_EQ(file->get_uint("last").value(), std::uint64_t{1} << 40);
  const Array& names = *file->get_array("names", ValueType::string).value();
  EXPECT_EQ(names.strings, (std::vector<std::string_view>{"zero", "one"}));
  const Array& nested = *file->get_array("nested", ValueType::array).value();
  ASSERT_EQ(nested.arrays.size(), 1U);
  EXPECT_EQ(nested.arrays[0].element, ValueType::u16);
  EXPECT_EQ(nested.arrays[0].at<std::uint16_t>(1), 8U);
  const Array& flags = *file->get_array("flags", ValueType::boolean).value();
  EXPECT_FALSE(flags.at<bool>(0));
  EXPECT_TRUE(flags.at<bool>(1));

  ASSERT_EQ(file->tensors().size(), 2U);
  const Tensor* q = file->tensor("q");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q, &file->tensors()[1]);
  EXPECT_EQ(q->format, quants::Format::q8_0);
  EXPECT_EQ(q->n_dims, 2U);
  EXPECT_EQ(q->dims, (std::array<std::uint64_t, 4>{32, 2, 1, 1}));
  EXPECT_EQ(q->n_elements(), 64U);
  EXPECT_EQ(q->n_rows(), 2U);
  EXPECT_EQ(q->file_offset, raw.at.at("data") + 64);
  EXPECT_EQ(q->data.data(), raw.bytes.data() + q->file_offset);
  EXPECT_EQ(q->data.size(), 68U);
  EXPECT_EQ(file->tensor("w")->data.size(), 32U);
  EXPECT_EQ(file->tensor("x"), nullptr);
  EXPECT_EQ(file->find("x"), nullptr);
}

TEST(File, StringsAndArraysAreViewsOfTheBytes) {
  const RawFile raw = sample();
  const auto file = File::from_memory(raw.bytes, "sample").value();
  const auto inside = [&](const void* data) {
    const auto* byte = static_cast<const std::byte*>(data);
    return byte >= raw.bytes.data() && byte < raw.bytes.data() + raw.bytes.size();
  };
  EXPECT_TRUE(inside(file.metadata()[0].first.data()));
  EXPECT_TRUE(inside(file.get_string("general.architecture")->data()));
  EXPECT_TRUE(inside(file.get_array("names", ValueType::string).value()->strings[1].data()));
  EXPECT_TRUE(inside(file.get_array("flags", ValueType::boolean).value()->raw.data()));
  EXPECT_TRUE(inside(file.tensor("w")->name.data()));
}

TEST(File, Version2ReadsAlike) {
  RawFile raw = sample();
  raw.overwrite("version", 2U);
  const auto file = File::from_memory(raw.bytes, "two");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version(), 2U);
  EXPECT_EQ(file->tensors().size(), 2U);
}

TEST(File, MayBeEmptyOfBoth) {
  RawFile raw;
  raw.header(3, 0, 0);
  const auto file = File::from_memory(raw.bytes, "nothing");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(file->metadata().empty());
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->alignment(), 32U);
}

TEST(File, ScalarsAndFourDimensions) {
  RawFile raw;
  raw.header(3, 2, 0).tensor("scalar", {}, 0, 0).tensor("four", {2, 3, 4, 5}, 1, 32).data(32 + 240);
  const auto file = File::from_memory(raw.bytes, "dims");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->tensor("scalar")->n_elements(), 1U);
  EXPECT_EQ(file->tensor("scalar")->data.size(), 4U);
  EXPECT_EQ(file->tensor("four")->n_rows(), 60U);
}

TEST(File, AlignmentMovesTheData) {
  for (const std::uint32_t alignment : {8U, 64U, 4096U}) {
    RawFile raw;
    raw.header(3, 2, 1).key("general.alignment", ValueType::u32, alignment);
    raw.tensor("a", {1}, 0, 0).tensor("b", {1}, 0, alignment).data(alignment + 4, alignment);
    const auto file = File::from_memory(raw.bytes, "aligned");
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->alignment(), alignment);
    EXPECT_EQ(file->tensor("a")->file_offset, raw.at.at("data"));
    EXPECT_EQ(file->tensor("b")->file_offset, raw.at.at("data") + alignment);
  }
}

TEST(File, TensorsMayLieInAnyOrder) {
  RawFile raw;
  raw.header(3, 2, 0).tensor("later", {8}, 0, 32).tensor("earlier", {8}, 0, 0).data(64);
  EXPECT_TRUE(File::from_memory(raw.bytes, "order"));
}

TEST(File, IntegersConvertWhereTheyFit) {
  RawFile raw;
  raw.header(3, 0, 11);
  raw.key("u8", ValueType::u8, std::uint8_t{200}).key("i8", ValueType::i8, std::int8_t{-1});
  raw.key("u16", ValueType::u16, std::uint16_t{60000}).key("i16", ValueType::i16, std::int16_t{12});
  raw.key("i32", ValueType::i32, std::int32_t{-7}).key("i64", ValueType::i64, std::int64_t{1} << 62);
  raw.key("u64", ValueType::u64, ~std::uint64_t{0});
  raw.key("f32", ValueType::f32, 0.1F).key("f64", ValueType::f64, 1e300);
  raw.key("flag", ValueType::boolean, std::uint8_t{1}).key("text", "7\n");
  const auto file = File::from_memory(raw.bytes, "numbers").value();
  EXPECT_EQ(file.get_uint("u8").value(), 200U);
  EXPECT_EQ(file.get_uint("u16").value(), 60000U);
  EXPECT_EQ(file.get_uint("i16").value(), 12U);
  EXPECT_EQ(file.get_uint("i64").value(), std::uint64_t{1} << 62);
  EXPECT_EQ(file.get_uint("u64").value(), ~std::uint64_t{0});
  EXPECT_EQ(file.get_float("f32").value(), static_cast<double>(0.1F));
  EXPECT_EQ(file.get_float("f64").value(), 1e300);

  const auto message = [](const auto& result) { return result ? std::string("no error") : result.error().message; };
  EXPECT_EQ(message(file.get_uint("i8")), "numbers: key \"i8\" must be a non-negative integer, but is i8 -1");
  EXPECT_THAT(message(file.get_uint("i32")), HasSubstr("i32 -7"));
  EXPECT_THAT(message(file.get_uint("f32")), HasSubstr("f32 0.1"));
  EXPECT_THAT(message(file.get_uint("flag")), HasSubstr("bool true"));
  EXPECT_EQ(file.get_float("u8").value(), 200.0);
  EXPECT_EQ(file.get_float("i32").value(), -7.0);
  EXPECT_FALSE(file.get_float("i64"));  // beyond 2^53 a double does not hold every integer
  EXPECT_THAT(message(file.get_float("u64")), HasSubstr("\"u64\" must be a number, but is u64 18446744073709551615"));
  EXPECT_THAT(message(file.get_float("flag")), HasSubstr("must be a number"));
  EXPECT_THAT(message(file.get_bool("u8")), HasSubstr("must be a bool"));
  EXPECT_THAT(message(file.get_string("u8")), HasSubstr("must be a string"));
  EXPECT_THAT(message(file.get_bool("text")), HasSubstr("string \"7\\x0a\""));
  EXPECT_THAT(message(file.get_array("text", ValueType::f32)), HasSubstr("must be an array of f32"));
  EXPECT_EQ(message(file.get_uint("none")), "numbers: the key \"none\" is missing");
}

template <class T>
RawFile& array(RawFile& raw, const std::string& key, ValueType element, std::initializer_list<T> values) {
  raw.string(key, key).type(key + ".type", ValueType::array).type(key + ".element", element);
  raw.number(key + ".count", std::uint64_t{values.size()});
  for (const T value : values) raw.number("", value);
  return raw;
}

TEST(File, ArraysOfEqualValuesAreOneValue) {
  RawFile raw;
  raw.header(3, 0, 6);
  array(raw, "equal", ValueType::i16, {std::int16_t{2}, std::int16_t{2}, std::int16_t{2}});
  array(raw, "one", ValueType::f32, {0.5F});
  array(raw, "flags", ValueType::boolean, {std::uint8_t{0}, std::uint8_t{0}});
  array(raw, "differ", ValueType::u32, {2U, 2U, 3U});
  array(raw, "none", ValueType::u32, std::initializer_list<std::uint32_t>{});
  array(raw, "wide", ValueType::u64, {std::uint64_t{1}, ~std::uint64_t{0}});
  const auto file = File::from_memory(raw.bytes, "arrays").value();
  EXPECT_EQ(file.get_uint("equal").value(), 2U);
  EXPECT_EQ(file.get_float("equal").value(), 2.0);
  EXPECT_EQ(file.get_float("one").value(), 0.5);
  EXPECT_EQ(file.get_bool("flags").value(), false);
  EXPECT_EQ(file.get_uint("differ").error().message,
            "arrays: key \"differ\" must be a non-negative integer, but is array of 3 u32");
  EXPECT_FALSE(file.get_uint("none"));

  EXPECT_EQ(file.get_integers("equal").value(), (std::vector<std::int64_t>{2, 2, 2}));
  EXPECT_EQ(file.get_integers("differ").value(), (std::vector<std::int64_t>{2, 2, 3}));
  EXPECT_EQ(file.get_numbers("differ").value(), (std::vector<double>{2, 2, 3}));
  EXPECT_EQ(file.get_numbers("one").value(), (std::vector<double>{0.5}));
  EXPECT_TRUE(file.get_integers("none").value().empty());
  EXPECT_EQ(file.get_integers("wide").error().message,
            "arrays: key \"wide\" must be an array of integers, but its element 1 is u64 18446744073709551615");
  EXPECT_THAT(file.get_integers("one").error().message, HasSubstr("its element 0 is f32 0.5"));
  EXPECT_THAT(file.get_numbers("flags").error().message, HasSubstr("its element 0 is bool false"));
}

TEST(File, ADimensionMayBeZero) {
  RawFile raw;
  raw.header(3, 3, 0).tensor("a", {8}, 0, 0).tensor("zero", {4, 0}, 0, 32).tensor("inside", {0, 3}, 8, 0).data(32);
  const auto file = File::from_memory(raw.bytes, "zeros");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->tensor("zero")->n_elements(), 0U);
  EXPECT_TRUE(file->tensor("zero")->data.empty());
  EXPECT_EQ(file->tensor("a")->data.size(), 32U);
  Writer writer;
  writer.add_tensor("zero", quants::Format::f32, std::vector<std::uint64_t>{4, 0}, std::span<const std::byte>());
  const std::vector<std::byte> written = writer.to_memory().value();
  EXPECT_EQ(File::from_memory(written, "again")->tensor("zero")->dims[1], 0U);
}

TEST(File, TheAlignmentMayHaveAnyWidth) {
  for (const ValueType type : {ValueType::u8, ValueType::i64}) {
    RawFile raw;
    raw.header(3, 0, 1);
    if (type == ValueType::u8) raw.key("general.alignment", type, std::uint8_t{64});
    if (type == ValueType::i64) raw.key("general.alignment", type, std::int64_t{64});
    EXPECT_EQ(File::from_memory(raw.bytes, "x")->alignment(), 64U);
  }
}

TEST(File, ArraysOfAnotherElementAreRefused) {
  const RawFile raw = sample();
  const auto file = File::from_memory(raw.bytes, "sample").value();
  const auto array = file.get_array("names", ValueType::i32);
  ASSERT_FALSE(array);
  EXPECT_EQ(array.error().message, "sample: key \"names\" must be an array of i32, but is array of 2 string");
}

TEST(File, MapsAPathAndCopiesShareIt) {
  const TemporaryFolder folder;
  const RawFile raw = sample();
  const auto path = folder.write("sample.gguf", raw.bytes);
  auto opened = File::open(path);
  ASSERT_TRUE(opened) << opened.error().message;
  const File copy = *opened;
  const std::byte* data = opened->tensor("w")->data.data();
  opened = fail("gone");
  EXPECT_EQ(copy.label(), path.string());
  EXPECT_EQ(copy.tensor("w")->data.data(), data);
  EXPECT_EQ(std::memcmp(data, raw.bytes.data() + raw.at.at("data"), 32), 0);
}

TEST(File, PathsThatCannotBeMappedAreNamed) {
  const TemporaryFolder folder;
  const auto message = [](const std::filesystem::path& path) {
    const auto file = File::open(path);
    return file ? std::string("no error") : file.error().message;
  };
  const auto missing = folder.path() / "missing.gguf";
  EXPECT_THAT(message(missing), AllOf(HasSubstr(missing.string()), HasSubstr("No such file")));
  EXPECT_THAT(message(folder.path()), AllOf(HasSubstr(folder.path().string()), HasSubstr("is a folder")));
  EXPECT_THAT(message(folder.write("empty.gguf", {})), HasSubstr("0 bytes"));
  const auto pipe = folder.path() / "pipe.gguf";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(message(pipe), HasSubstr("no regular file"));
}

TEST(File, DataAbove4GiB) {
  const TemporaryFolder folder;
  // Two tensors: the first is a hole of 5 GiB, the second lies after it.
  constexpr std::uint64_t hole = std::uint64_t{5} << 30;
  RawFile raw;
  raw.header(3, 2, 0).tensor("hole", {1 << 20, hole >> 22}, 0, 0).tensor("behind", {4}, 0, hole).data(0);
  const std::uint64_t start = raw.at.at("data");
  const auto path = folder.write("large.gguf", raw.bytes);
  std::error_code error;
  std::filesystem::resize_file(path, start + hole + 16, error);
  if (error) GTEST_SKIP() << "File.DataAbove4GiB: cannot make a sparse file here: " << error.message();
  const std::array<float, 4> values = {1, 2, 3, 4};
  write_at(path, start + hole, std::as_bytes(std::span(values)));
  const auto file = File::open(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->size_bytes(), start + hole + 16);
  const Tensor& behind = *file->tensor("behind");
  EXPECT_EQ(behind.file_offset, start + hole);
  EXPECT_EQ(std::memcmp(behind.data.data(), values.data(), 16), 0);
  EXPECT_EQ(file->tensor("hole")->data.size(), hole);

  std::filesystem::resize_file(path, start + hole + 15);
  const auto cut = File::open(path);
  ASSERT_FALSE(cut);
  EXPECT_THAT(cut.error().message, AllOf(HasSubstr("\"behind\""), HasSubstr("cut short")));
}

TEST(File, AnArrayThatOnlyALargeFileCouldHoldIsNotIndexed) {
  const TemporaryFolder folder;
  RawFile raw;
  raw.header(3, 0, 1).string("key", "key").type("type", ValueType::array).type("element", ValueType::string);
  raw.number("count", max_indexed + 1);
  const auto path = folder.write("strings.gguf", raw.bytes);
  std::filesystem::resize_file(path, raw.bytes.size() + 8 * (max_indexed + 1));
  const auto file = File::open(path);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().message,
              AllOf(HasSubstr("\"key\""), HasSubstr("byte " + std::to_string(raw.at.at("count"))), HasSubstr("at most")));
}

// A shard of a set. It holds one F32 tensor of 8 elements, all equal to `value`.
RawFile shard(std::uint16_t no, std::uint16_t count, std::int32_t n_tensors, const std::string& tensor, float value) {
  RawFile raw;
  raw.header(3, 1, no == 0 ? 4 : 3);
  if (no == 0) raw.key("general.architecture", "split");
  raw.key("split.no", ValueType::u16, no).key("split.count", ValueType::u16, count);
  raw.key("split.tensors.count", ValueType::i32, n_tensors);
  raw.tensor(tensor, {8}, 0, 0).data(0);
  for (int i = 0; i < 8; ++i) raw.number("value", value);
  return raw;
}

class Split : public ::testing::Test {
 protected:
  void SetUp() override {
    first_ = put("m-00001-of-00003.gguf", shard(0, 3, 3, "a", 1));
    put("m-00002-of-00003.gguf", shard(1, 3, 3, "b", 2));
    put("m-00003-of-00003.gguf", shard(2, 3, 3, "c", 3));
  }
  std::filesystem::path put(const std::string& name, const RawFile& raw) { return folder_.write(name, raw.bytes); }
  static std::string message(const std::filesystem::path& path) {
    const auto file = File::open(path);
    return file ? "no error" : file.error().message;
  }

  TemporaryFolder folder_;
  std::filesystem::path first_;
};

TEST_F(Split, OpensAsOne) {
  const auto file = File::open(first_);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->n_shards(), 3U);
  EXPECT_EQ(file->get_string("general.architecture").value(), "split");
  EXPECT_EQ(file->metadata().size(), 4U);
  ASSERT_EQ(file->tensors().size(), 3U);
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < 3; ++i) {
    const Tensor& tensor = file->tensors()[i];
    EXPECT_EQ(tensor.shard, i);
    EXPECT_EQ(tensor.name, std::string(1, static_cast<char>('a' + i)));
    float value = 0;
    std::memcpy(&value, tensor.data.data(), 4);
    EXPECT_EQ(value, static_cast<float>(i + 1));
    bytes += std::filesystem::file_size(folder_.path() / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf"));
  }
  EXPECT_EQ(file->size_bytes(), bytes);
}

TEST_F(Split, AnotherThanTheFirstNamesTheFirst) {
  EXPECT_THAT(message(folder_.path() / "m-00002-of-00003.gguf"),
              AllOf(HasSubstr("file 2 of 3"), HasSubstr("open the first, " + first_.string())));
}

TEST_F(Split, AMissingFileIsNamed) {
  std::filesystem::remove(folder_.path() / "m-00003-of-00003.gguf");
  EXPECT_THAT(message(first_),
              AllOf(HasSubstr("m-00003-of-00003.gguf"), HasSubstr("No such file"), HasSubstr("of 3 files")));
}

TEST_F(Split, ADamagedFileIsNamed) {
  std::filesystem::resize_file(folder_.path() / "m-00002-of-00003.gguf", 100);
  EXPECT_THAT(message(first_), HasSubstr("m-00002-of-00003.gguf: "));
}

TEST_F(Split, FilesOfAnotherSetAreRefused) {
  const std::string second = "m-00002-of-00003.gguf";
  put(second, shard(2, 3, 3, "b", 2));
  EXPECT_THAT(message(first_), AllOf(HasSubstr(second), HasSubstr("split.no is 2 instead of 1")));
  put(second, shard(1, 4, 3, "b", 2));
  EXPECT_THAT(message(first_), AllOf(HasSubstr(second), HasSubstr("split.count 4 instead of 3")));
  put(second, shard(1, 3, 7, "b", 2));
  EXPECT_THAT(message(first_), AllOf(HasSubstr(second), HasSubstr("split.tensors.count 7 instead of 3")));
  put(second, sample());
  EXPECT_THAT(message(first_), HasSubstr("does not belong"));
}

TEST_F(Split, ATensorInTwoFilesIsRefused) {
  put("m-00003-of-00003.gguf", shard(2, 3, 3, "a", 2));
  EXPECT_THAT(message(first_), AllOf(HasSubstr("\"a\" occurs twice"), HasSubstr("file 1"), HasSubstr("file 3")));
}

TEST_F(Split, TheTensorCountIsChecked) {
  for (std::uint16_t i = 0; i < 3; ++i) {
    put("m-0000" + std::to_string(i + 1) + "-of-00003.gguf", shard(i, 3, 4, std::string(1, static_cast<char>('a' + i)), 0));
  }
  EXPECT_THAT(message(first_), HasSubstr("split.tensors.count is 4, but the 3 files hold 3 tensors"));
}

TEST_F(Split, NamesMustAgreeWithTheMetadata) {
  EXPECT_THAT(message(put("other.gguf", shard(0, 3, 3, "a", 1))), AllOf(HasSubstr("file 1 of"), HasSubstr("named")));
  EXPECT_THAT(message(put("m-00001-of-00004.gguf", shard(0, 3, 3, "a", 1))), HasSubstr("is not named so"));
  EXPECT_THAT(message(put("n-00001-of-00002.gguf", sample())), HasSubstr("split.count does not say so"));
  EXPECT_EQ(message(put("n-00001-of-00001.gguf", sample())), "no error");
  EXPECT_EQ(message(put("n-00001-of-00001.gguf", shard(0, 1, 1, "a", 1))), "no error");
}

TEST_F(Split, KeysOfAnotherTypeAreRefused) {
  RawFile raw;
  raw.header(3, 0, 1).key("split.count", "three");
  EXPECT_THAT(message(put("m.gguf", raw)), AllOf(HasSubstr("\"split.count\""), HasSubstr("string \"three\"")));
}

TEST_F(Split, CannotBeReadFromMemory) {
  const RawFile raw = shard(0, 3, 3, "a", 1);
  EXPECT_THAT(File::from_memory(raw.bytes, "x").error().message, HasSubstr("by path"));
}

}  // namespace
}  // namespace plumb::gguf
