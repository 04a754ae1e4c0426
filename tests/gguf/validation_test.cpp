// Every rule that File checks. Each test damages one field of a valid file; the message must name the file, the item, the
// byte and the cause.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "gguf/file.h"
#include "gguf/kind.h"
#include "gguf/raw_file.h"

namespace plumb::gguf {
namespace {

using test::RawFile;
using test::sample;
using ::testing::HasSubstr;

struct Damage {
  std::string name;
  std::function<void(RawFile&)> apply;
  std::string item;   // as the message names it
  std::string field;  // whose byte offset the message names; empty: none
  std::string cause;
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

template <class T>
std::function<void(RawFile&)> put(const std::string& field, T value) {
  return [=](RawFile& file) { file.overwrite(field, value); };
}

std::function<void(RawFile&)> cut(const std::string& field, std::size_t after = 0) {
  return [=](RawFile& file) { file.bytes.resize(file.at.at(field) + after); };
}

constexpr std::uint64_t huge = ~std::uint64_t{0};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all = {
      {"empty", [](RawFile& f) { f.bytes.clear(); }, "empty", "", "0 bytes"},
      {"three_bytes", [](RawFile& f) { f.bytes.resize(3); }, "magic", "", "byte 0"},
      {"other_magic", [](RawFile& f) { f.bytes[0] = std::byte{'X'}; }, "\"XGUF\"", "", "no GGUF file"},
      {"cut_in_version", cut("version", 2), "version", "version", "4 bytes needed, 2 left"},
      {"cut_in_tensor_count", cut("tensor count"), "tensor count", "tensor count", "8 bytes needed, 0 left"},
      {"cut_in_metadata_count", cut("metadata count", 7), "metadata count", "metadata count", "7 left"},
      {"version_0", put("version", 0U), "version", "version", "Plumb reads 2 and 3"},
      {"version_1", put("version", 1U), "version", "version", "given up"},
      {"version_4", put("version", 4U), "version", "version", "is 4"},
      {"big_endian", put("version", 0x03000000U), "version", "version", "big-endian"},
      {"big_endian_2", put("version", 0x02000000U), "version", "version", "big-endian"},
      {"tensor_count_huge", put("tensor count", huge), "tensor count", "tensor count", "only"},
      {"metadata_count_huge", put("metadata count", huge), "metadata count", "metadata count", "only"},
      {"metadata_count_too_large", put("metadata count", std::uint64_t{40}), "metadata count", "metadata count", "only"},
      {"key_length_huge", put("flag", huge), "metadata 3 of 7", "flag", "only"},
      {"value_type_13", put("flag.type", 13U), "\"flag\"", "flag.type", "is 13"},
      {"value_type_huge", put("flag.type", ~0U), "\"flag\"", "flag.type", "4294967295"},
      {"bool_2", put("flag.value", std::uint8_t{2}), "\"flag\"", "flag.value", "only 0 and 1"},
      {"bool_in_array", put("flags.1", std::uint8_t{255}), "\"flags\"", "flags.1", "is 255"},
      {"cut_in_number", cut("last.value", 7), "\"last\"", "last.value", "8 bytes needed, 7 left"},
      {"cut_in_type", cut("last.type", 3), "\"last\"", "last.type", "3 left"},
      {"string_length", put("general.architecture.value", huge), "\"general.architecture\"", "general.architecture.value",
       "only"},
      {"array_element_type", put("names.element", 99U), "\"names\"", "names.element", "is 99"},
      {"string_count_huge", put("names.count", huge), "\"names\"", "names.count", "only"},
      {"string_in_array_length", put("names.1", std::uint64_t{1} << 40), "\"names\"", "names.1", "only"},
      {"number_count_huge", put("nested.0.count", huge), "\"nested\"", "nested.0.count", "only"},
      {"number_count_wraps", put("nested.0.count", std::uint64_t{1} << 63), "\"nested\"", "nested.0.count", "only"},
      {"array_count_huge", put("nested.count", huge / 12), "\"nested\"", "nested.count", "only"},
      {"alignment_0", put("general.alignment.value", 0U), "\"general.alignment\"", "general.alignment", "power of two"},
      {"alignment_24", put("general.alignment.value", 24U), "\"general.alignment\"", "general.alignment", "is 24"},
      {"alignment_4", put("general.alignment.value", 4U), "\"general.alignment\"", "general.alignment", "at least 8"},
      {"alignment_type", put("general.alignment.type", 6U), "\"general.alignment\"", "general.alignment", "f32"},
      {"alignment_negative",
       [](RawFile& f) {
         put("general.alignment.type", 5U)(f);
         put("general.alignment.value", -32)(f);
       },
       "\"general.alignment\"", "general.alignment", "i32"},
      {"alignment_large", put("general.alignment.value", 1U << 31), "\"w\"", "w", "starts at byte 2147483648"},
      {"key_twice",
       [](RawFile& f) {
         f.bytes[f.at.at("names") + 8 + 3] = std::byte{'a'};
         std::memcpy(f.bytes.data() + f.at.at("flags") + 8, "namas", 5);
       },
       "\"namas\"", "flags", "occurs twice"},
      {"tensor_twice", [](RawFile& f) { f.bytes[f.at.at("q") + 8] = std::byte{'w'}; }, "\"w\"", "q", "occurs twice"},
      {"tensor_name_length", put("q", huge), "tensor 2 of 2", "q", "only"},
      {"n_dims_5", put("q.n_dims", 5U), "\"q\"", "q.n_dims", "at most 4"},
      {"dims_overflow", put("q.dim1", std::uint64_t{1} << 60), "\"q\"", "q.dim1", "2^56"},
      {"dim_negative", put("w.dim0", huge), "\"w\"", "w.dim0", "2^56"},
      {"bytes_overflow", put("w.dim1", std::uint64_t{1} << 50), "\"w\"", "w", "do not fit in the file"},
      {"format_unknown", put("w.format", 1000U), "\"w\"", "w.format", "does not define"},
      {"format_iq2_xxs", put("w.format", 16U), "\"w\"", "w.format", "IQ2_XXS"},
      {"format_tq1_0", put("w.format", 34U), "\"w\"", "w.format", "TQ1_0"},
      {"format_4", put("w.format", 4U), "\"w\"", "w.format", "removed"},
      {"format_5", put("w.format", 5U), "\"w\"", "w.format", "removed"},
      {"part_of_a_block", put("q.dim0", std::uint64_t{33}), "\"q\"", "q", "blocks of 32 (Q8_0)"},
      {"rows_of_half_a_block",
       [](RawFile& f) {
         put("q.dim0", std::uint64_t{16})(f);
         put("q.dim1", std::uint64_t{2})(f);
       },
       "\"q\"", "q", "blocks of 32 (Q8_0)"},
      {"offset_unaligned", put("q.offset", std::uint64_t{33}), "\"q\"", "q", "multiple of the alignment 32"},
      {"offset_huge", put("q.offset", huge - 31), "\"q\"", "q", "do not fit in the file"},
      {"offset_beyond", put("q.offset", std::uint64_t{96}), "\"q\"", "q", "do not fit in the file"},
      {"overlap", put("q.offset", std::uint64_t{0}), "\"q\"", "q", "overlaps tensor \"w\""},
      {"overlap_end", put("w.dim1", std::uint64_t{5}), "\"q\"", "q", "overlaps tensor \"w\""},
      {"cut_in_array", cut("flags.1"), "\"flags\"", "flags.count", "is 2, but only 1 bytes follow"},
      {"cut_in_dims", cut("q.dim1", 4), "\"q\"", "q.dim1", "4 left"},
      {"cut_in_format", cut("q.format"), "\"q\"", "q.format", "0 left"},
      {"cut_in_offset", cut("q.offset", 6), "\"q\"", "q.offset", "6 left"},
      {"cut_before_data", cut("data"), "\"w\"", "w", "cut short"},
      {"cut_last_byte", [](RawFile& f) { f.bytes.pop_back(); }, "\"q\"", "q", "cut short"},
  };
  return all;
}

// The limit is on all arrays together. The second array's strings are never read: their count alone is too many.
TEST(Limits, StringsOfAllArraysCountTogether) {
  RawFile file;
  file.text("GGUF")
      .number("version", std::uint32_t{3})
      .number("n_tensors", std::uint64_t{0})
      .number("n_keys", std::uint64_t{2});
  const auto array = [&](const std::string& key, std::uint64_t count) {
    file.string(key, key).number(key + ".type", std::uint32_t{9}).number(key + ".element", std::uint32_t{8});
    file.number(key + ".count", count);
  };
  array("few", 1);
  file.string("few.0", "x");
  array("many", max_indexed);
  file.bytes.resize(file.bytes.size() + max_indexed * sizeof(std::uint64_t));
  const auto opened = File::from_memory(file.bytes, "large.gguf");
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("the strings and arrays in arrays of a file may be"));
}

class DamagedFile : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedFile, IsRefusedWithItemAndByte) {
  RawFile file = sample();
  const auto intact = File::from_memory(file.bytes, "intact.gguf");
  ASSERT_TRUE(intact) << intact.error().message;
  GetParam().apply(file);
  const auto opened = File::from_memory(file.bytes, "damaged.gguf");
  ASSERT_FALSE(opened);
  const std::string& message = opened.error().message;
  EXPECT_TRUE(message.starts_with("damaged.gguf: ")) << message;
  EXPECT_THAT(message, HasSubstr(GetParam().item));
  EXPECT_THAT(message, HasSubstr(GetParam().cause));
  if (!GetParam().field.empty()) {
    EXPECT_THAT(message + " ", ::testing::ContainsRegex("byte " + std::to_string(file.at.at(GetParam().field)) + "[^0-9]"));
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, DamagedFile, ::testing::ValuesIn(damages()),
                         [](const auto& test) { return test.param.name; });

TEST(Validation, OtherKindsOfFileAreNamed) {
  const auto message = [](std::string_view start) {
    std::vector<std::byte> bytes(64);
    std::memcpy(bytes.data(), start.data(), start.size());
    return File::from_memory(bytes, "x").error().message;
  };
  EXPECT_THAT(message("PK\x03\x04"), HasSubstr("zip"));
  EXPECT_THAT(message(std::string_view("\x10\0\0\0\0\0\0\0{\"a\"", 12)), HasSubstr("safetensors"));
  EXPECT_THAT(message(std::string_view("\x18\0\0\0\0\0\0\0{\"format\":\"plumb-trace\"", 32)),
              HasSubstr("'plumb diagnose MODEL --trace' takes it"));
  for (const auto& [start, name] :
       {std::pair("lmgg", "(ggml)"), {"fmgg", "(ggmf)"}, {"tjgg", "(ggjt)"}, {"ggjt", "(ggjt)"}})
    EXPECT_THAT(message(start), testing::AllOf(HasSubstr("older formats"), HasSubstr(name)));
  EXPECT_THAT(message("algg"), HasSubstr("a LoRA adapter of GGML's older format (ggla)"));
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\noid x\nsize 1234\n"),
              testing::AllOf(HasSubstr("Git LFS pointer"), HasSubstr("1234 bytes"), HasSubstr("git lfs pull")));
  for (const char* page : {"<!DOCTYPE html>", "\xef\xbb\xbf\n  <html>"}) EXPECT_THAT(message(page), HasSubstr("web page"));
  EXPECT_THAT(message(" {\"error\": 1}"), HasSubstr("JSON"));
  EXPECT_THAT(message(std::string_view("\2\0\0\0\x16\0\0\0blk.0.attn_q", 20)), HasSubstr("importance matrix"));
  EXPECT_THAT(message("\x1f\x8b"), HasSubstr("gzip"));
  EXPECT_THAT(message("FUGG"), HasSubstr("big-endian"));
  EXPECT_THAT(message("hello"), HasSubstr("no GGUF file"));
  EXPECT_THAT(File::from_memory(std::vector<std::byte>(64), "m.gguf.part2of3").error().message,
              HasSubstr("join all parts"));
  for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{7}}) {
    RawFile file;
    file.header(3, 0, 0);
    EXPECT_THAT(File::from_memory(std::span(file.bytes).first(n), "x").error().message, HasSubstr("cut short"));
  }
}

TEST(Validation, OtherKindsOfGgufAreNamed) {
  const auto message = [](const char* key, std::string_view value) {
    RawFile file;
    file.header(3, 0, 1).key(key, value);
    const auto read = expect_model(*File::from_memory(file.bytes, "x"));
    return read ? std::string("no error") : read.error().message;
  };
  EXPECT_THAT(message("general.type", "adapter"), HasSubstr("x: is a LoRA adapter, not a model"));
  EXPECT_THAT(message("adapter.type", "lora"), HasSubstr("LoRA adapter"));
  EXPECT_THAT(message("general.type", "imatrix"), HasSubstr("importance matrix, not a model"));
  EXPECT_THAT(message("general.type", "mmproj"), HasSubstr("(mmproj), not a model"));
  EXPECT_THAT(message("general.architecture", "clip"), HasSubstr("(mmproj), not a model"));
  EXPECT_THAT(message("general.architecture", "controlvector"), HasSubstr("control vector, not a model"));
  EXPECT_EQ(message("general.type", "model"), "no error");
  EXPECT_EQ(message("general.architecture", "llama"), "no error");
}

TEST(Validation, WhatEndsTooEarlySaysThatItIsCutShort) {
  const RawFile whole = test::sample();
  for (std::size_t n = 4; n < whole.bytes.size(); ++n)
    EXPECT_THAT(File::from_memory(std::span(whole.bytes).first(n), "x").error().message, HasSubstr("cut short")) << n;
}

TEST(Validation, OfSeveralNamesThatOccurTwiceTheFirstRepetitionIsNamed) {
  RawFile file;
  file.header(3, 0, 4).key("a", ValueType::u8, std::uint8_t{1}).key("b", ValueType::u8, std::uint8_t{1});
  const std::size_t third = file.bytes.size();
  file.key("a", ValueType::u8, std::uint8_t{1}).key("b", ValueType::u8, std::uint8_t{1});
  const auto bad = File::from_memory(file.bytes, "x");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().message, "x: key \"a\" occurs twice, at byte 24 and at byte " + std::to_string(third));
}

RawFile nested(int depth) {
  RawFile file;
  file.header(3, 0, 1).string("deep", "deep").type("type", ValueType::array);
  for (int i = 1; i < depth; ++i) file.type("element", ValueType::array).number("count", std::uint64_t{1});
  file.type("element", ValueType::u8).number("count", std::uint64_t{1}).number("value", std::uint8_t{42});
  return file;
}

TEST(Validation, NestingIsBounded) {
  const RawFile deepest = nested(max_array_depth);
  const auto good = File::from_memory(deepest.bytes, "x");
  ASSERT_TRUE(good) << good.error().message;
  const Array* array = std::get_if<Array>(good->find("deep"));
  for (int i = 1; i < max_array_depth; ++i) array = &array->arrays.at(0);
  EXPECT_EQ(array->at<std::uint8_t>(0), 42);

  const RawFile deeper = nested(max_array_depth + 1);
  const auto bad = File::from_memory(deeper.bytes, "x");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, HasSubstr("\"deep\""));
  EXPECT_THAT(bad.error().message, HasSubstr("nested deeper"));
}

TEST(Validation, CountsThatTheFileCouldHoldButNoModelHasAreRefused) {
  std::vector<std::byte> zeros(std::size_t{26} << 20);
  RawFile file;
  file.header(3, max_tensors + 1, 0);
  std::copy(file.bytes.begin(), file.bytes.end(), zeros.begin());
  EXPECT_THAT(File::from_memory(zeros, "x").error().message,
              HasSubstr("tensor count at byte 8 is 1048577; at most 1048576"));

  RawFile metadata;
  metadata.header(3, 0, max_metadata + 1);
  std::copy(metadata.bytes.begin(), metadata.bytes.end(), zeros.begin());
  EXPECT_THAT(File::from_memory(zeros, "x").error().message, HasSubstr("metadata count at byte 16 is 1048577; at most"));
}

TEST(Validation, HostileNamesDoNotReachTheTerminal) {
  RawFile file;
  file.header(3, 0, 1).string("key", std::string("\x1b[2J\"\n") + std::string(5000, 'k')).type("type", ValueType::u8);
  const auto bad = File::from_memory(file.bytes, "x");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, HasSubstr("\\x1b[2J\\\"\\x0a"));
  EXPECT_LT(bad.error().message.size(), 300U);
}

TEST(Validation, UnalignedMemoryIsRefused) {
  const RawFile file = sample();
  std::vector<std::byte> shifted(file.bytes.size() + 1);
  std::copy(file.bytes.begin(), file.bytes.end(), shifted.begin() + 1);
  const auto bad = File::from_memory(std::span(shifted).subspan(1), "x");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, HasSubstr("multiple of 8"));
}

std::uint64_t touch(const Array& array) {
  std::uint64_t sum = array.count;
  for (const auto byte : array.raw) sum += std::to_integer<std::uint64_t>(byte);
  for (const auto string : array.strings) {
    for (const char c : string) sum += static_cast<unsigned char>(c);
  }
  for (const Array& inner : array.arrays) sum += touch(inner);
  return sum;
}

// Reads every byte that a File hands out, for AddressSanitizer to watch.
std::uint64_t touch(const File& file) {
  std::uint64_t sum = 0;
  for (const auto& [key, value] : file.metadata()) {
    sum += key.size();
    if (const auto* array = std::get_if<Array>(&value)) sum += touch(*array);
    if (const auto* string = std::get_if<std::string_view>(&value)) {
      for (const char c : *string) sum += static_cast<unsigned char>(c);
    }
  }
  for (const Tensor& tensor : file.tensors()) {
    for (const auto byte : tensor.data) sum += std::to_integer<std::uint64_t>(byte);
  }
  return sum;
}

TEST(Validation, RandomMutationsNeverCrash) {
  const RawFile file = sample();
  std::mt19937_64 random(20260101);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::vector<std::size_t> fields;
  for (const auto& [name, offset] : file.at) fields.push_back(offset);
  constexpr std::array<std::uint64_t, 8> odd = {0, 1, 2, 13, 255, 1U << 31, std::uint64_t{1} << 63, huge};
  int accepted = 0;
  int refused = 0;
  std::uint64_t sum = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes = file.bytes;
    for (std::size_t edits = 1 + below(3); edits > 0; --edits) {
      if (below(2) == 0) {
        bytes[below(bytes.size())] ^= static_cast<std::byte>(1U << below(8));
      } else {
        const std::size_t offset = fields[below(fields.size())];
        const std::uint64_t value = odd[below(odd.size())];
        std::memcpy(bytes.data() + offset, &value, std::min(bytes.size() - offset, std::size_t{1} << below(4)));
      }
    }
    if (below(8) == 0) bytes.resize(below(bytes.size()));
    bytes.shrink_to_fit();
    if (const auto opened = File::from_memory(bytes, "mutant")) {
      ++accepted;
      sum += touch(*opened);
    } else {
      ++refused;
      EXPECT_TRUE(opened.error().message.starts_with("mutant: "));
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
  EXPECT_GT(sum, 0U);
}

}  // namespace
}  // namespace plumb::gguf
