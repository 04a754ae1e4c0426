// Traces: written values are read back. Files that are no traces, or are damaged, are refused with a sentence.
#include "trace/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <span>

#include "base/half.h"

namespace plumb::trace {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Traces : public testing::Test {
 protected:
  ~Traces() override { std::filesystem::remove(path); }

  void put(std::string header, std::string data = {}, std::optional<std::uint64_t> length = {}) const {
    const std::uint64_t n = length.value_or(header.size());
    std::string bytes(sizeof n, '\0');
    std::memcpy(bytes.data(), &n, sizeof n);
    std::ofstream(path, std::ios::binary) << bytes << header << data;
  }
  // A header with this entry beside well-formed metadata.
  static std::string with(const std::string& entry) {
    return R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[1,2]"},)" + entry + "}";
  }
  void refused(const std::string& header, std::string_view says, const std::string& data = "01234567") const {
    put(header, data);
    const auto trace = Trace::open(path);
    ASSERT_FALSE(trace) << header;
    EXPECT_THAT(trace.error().message, HasSubstr(says));
    EXPECT_THAT(trace.error().message, HasSubstr(path.string()));
  }

  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("plumb-trace-test-" + std::to_string(::getpid()) + ".safetensors");
};

TEST_F(Traces, AreReadAsTheyWereWritten) {
  Info info{.engine = "some engine",
            .model = "m.gguf",
            .model_sha256 = "ab",
            .prompt = "a \"b\" \n \xc3\xa9 \xff",
            .tokens = {1, 29871, 7},
            .positions = {5, 6, 7},
            .parameters = {{"n_heads", "32"}, {"rope_theta", "10000.0"}, {"rope_pairing", "\"halves\""}}};
  auto writer = Writer::create(path, info, 3);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> a{1, -2, 3, 4, 5, 6}, b{0.5F}, c{7, 8};
  ASSERT_TRUE(writer->add(0, "token_embd", 3, 2, a));
  ASSERT_TRUE(writer->add(1, "token_embd", 1, 2, c));
  ASSERT_TRUE(writer->add(0, "blk.0.attn_q", 1, 1, b));
  EXPECT_FALSE(writer->add(0, "logits", 2, 2, b));
  EXPECT_FALSE(std::filesystem::exists(path));
  info.tokens.push_back(9);
  info.positions.push_back(8);
  ASSERT_TRUE(writer->finish(info));

  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->info().engine, "some engine");
  EXPECT_EQ(trace->info().model, "m.gguf");
  EXPECT_EQ(trace->info().model_sha256, "ab");
  EXPECT_THAT(trace->info().prompt, HasSubstr("a \"b\" \n \xc3\xa9 "));
  EXPECT_THAT(trace->info().tokens, ElementsAre(1, 29871, 7, 9));
  EXPECT_THAT(trace->info().positions, ElementsAre(5, 6, 7, 8));
  ASSERT_EQ(trace->info().parameters.size(), 3);
  EXPECT_EQ(trace->info().parameters[0].name, "n_heads");
  EXPECT_EQ(trace->info().parameters[0].value, "32");
  EXPECT_EQ(trace->info().parameters[1].value, "\"halves\"");
  ASSERT_EQ(trace->values().size(), 3);
  EXPECT_EQ(trace->n_steps(), 2);
  EXPECT_EQ(trace->values()[1].name, "blk.0.attn_q");
  const Value* embedding = trace->find(0, "token_embd");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->rows, 3);
  EXPECT_EQ(embedding->width, 2);
  EXPECT_EQ(embedding->floats(), a);
  EXPECT_EQ(trace->find(1, "token_embd")->floats(), c);
  EXPECT_EQ(trace->find(2, "token_embd"), nullptr);
}

TEST_F(Traces, AreWrittenInParts) {
  const Info info{.tokens = {1, 2, 3}};
  auto writer = Writer::create(path, info, 3);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> first{1, 2, 3, 4}, second{5, 6}, other{7};
  EXPECT_FALSE(writer->has(0, "a"));
  ASSERT_TRUE(writer->add_part(0, "a", 3, 2, 0, first));
  EXPECT_TRUE(writer->has(0, "a"));
  EXPECT_FALSE(writer->has(1, "a"));
  ASSERT_TRUE(writer->add_part(0, "b", 3, 2, 0, first));
  ASSERT_TRUE(writer->add_part(0, "a", 3, 2, 2, second));
  EXPECT_FALSE(writer->add_part(0, "a", 3, 2, 2, first));
  EXPECT_FALSE(writer->add_part(0, "a", 4, 2, 3, second));
  ASSERT_TRUE(writer->add(0, "c", 1, 1, other));
  ASSERT_TRUE(writer->finish(info));
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_THAT(trace->find(0, "a")->floats(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(trace->find(0, "b")->floats(), ElementsAre(1, 2, 3, 4, 0, 0));
  EXPECT_THAT(trace->find(0, "c")->floats(), ElementsAre(7));
}

TEST_F(Traces, HaveHalvesAndOtherShapes) {
  const std::uint16_t halves[] = {f32_to_f16(1.5F), f32_to_f16(-0.25F), 0x3fc0, 0xbf80};
  std::string data(sizeof halves, '\0');
  std::memcpy(data.data(), halves, sizeof halves);
  put(with(
          R"("0/b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"0/a":{"dtype":"F16","shape":[1,2,1],"data_offsets":[0,4]})"),
      data);
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->values().size(), 2);
  EXPECT_EQ(trace->values()[0].rows, 2);
  EXPECT_THAT(trace->values()[0].floats(), ElementsAre(1.5F, -0.25F));
  EXPECT_EQ(trace->values()[1].rows, 1);
  EXPECT_THAT(trace->values()[1].floats(), ElementsAre(1.5F, -1.0F));
}

TEST_F(Traces, ThatAreBrokenAreRefused) {
  EXPECT_FALSE(Trace::open(path));
  std::ofstream(path) << "abc";
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("3 bytes are no safetensors file"));
  put("{}", "", 1000);
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("cut short"));
  put("{}", "", ~std::uint64_t{0});
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("cut short"));
  refused("[]", "no JSON object");
  refused("{", "no JSON object");
  refused("{}", "no __metadata__");
  refused(R"({"__metadata__":{"format":"pt"}})", "'format' is 'pt'");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"2"}})", "'version' is '2'");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1"}})", "'tokens' is no JSON list");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[1,-2]"}})", "item 1");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[1,4294967297]"}})", "item 1");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[1]","positions":"[4294967297]"}})", "item 0");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[1]","positions":"[1,2]"}})", "2 items");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[]","parameters":"7"}})", "no JSON object");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[]","parameters":"{\"a\":[1]}"}})",
          "a is a list or an object");
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return with(R"("0/x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}");
  };
  put(entry("F32", "[2,1]", "[0,8]"), "01234567");
  EXPECT_TRUE(Trace::open(path));
  refused(entry("I32", "[2,1]", "[0,8]"), "F32, F16 or BF16");
  refused(entry("F32", "[2,2]", "[0,8]"), "8 bytes; 2 x 2 of F32");
  refused(entry("F32", "[2,1]", "[0,16]"), "lie outside the 8 bytes");
  refused(entry("F32", "[2,1]", "[8,0]"), "lie outside");
  refused(entry("F32", "[2,1]", "[0,-8]"), "lie outside");
  refused(entry("F32", "[2,1]", "[0]"), "lacks");
  refused(entry("F32", "[2,0.5]", "[0,8]"), "whole numbers");
  refused(entry("F32", "[4294967296,4294967296,4294967296,1]", "[0,8]"), "too many elements");
  refused(entry("F32", "[4294967296,4294967296]", "[0,8]"), "another size");
  put(with(
          R"("0/x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"0/y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]})"),
      "012345");
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("'0/x' and '0/y' overlap"));
  refused(R"({"a":[[[[1]]]]})", "no JSON object");
  refused(with(R"("x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "does not begin with a step");
  refused(with(R"("99999999999/x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "does not begin with a step");
  refused(with(R"("0/x":[])"), "lacks");
  refused(with(R"("0/x":)" + std::string(100'000, '[')), "no JSON object");
}

// As a file is that its writer did not finish, or a copy that was cut short.
TEST_F(Traces, OfWhichTheEndIsMissingAreRefused) {
  const Info info{.engine = "some engine", .prompt = "a", .tokens = {1, 2, 3}, .parameters = {{"n_heads", "2"}}};
  auto writer = Writer::create(path, info, 2);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> a{1, 2, 3, 4, 5, 6}, b{7, 8};
  ASSERT_TRUE(writer->add(0, "token_embd", 3, 2, a));
  ASSERT_TRUE(writer->add(1, "token_embd", 1, 2, b));
  ASSERT_TRUE(writer->finish(info));
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const auto whole = std::as_bytes(std::span(bytes));
  ASSERT_TRUE(Trace::parse(whole));
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(Trace::parse(whole.first(n))) << n << " of " << whole.size();
}

TEST_F(Traces, BracketsInTextAreNoNesting) {
  const Info info{.engine = "some engine", .prompt = R"(say "[[[[[[" and \"{{{{{{)", .tokens = {1}};
  auto writer = Writer::create(path, info, 1);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> a{1};
  ASSERT_TRUE(writer->add(0, "a", 1, 1, a));
  ASSERT_TRUE(writer->finish(info));
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->info().prompt, info.prompt);
}

TEST_F(Traces, ThatNoReaderTakesAreNotBegun) {
  const auto writer = Writer::create(path, {.tokens = {1}}, 1'000'000);
  ASSERT_FALSE(writer);
  EXPECT_THAT(writer.error().message, HasSubstr("1000000 values are more than a trace may hold"));
  EXPECT_THAT(writer.error().message, HasSubstr(path.string()));
  EXPECT_FALSE(std::filesystem::exists(path));
}

// For any bytes reading ends, and all values lie inside the file.
TEST_F(Traces, OfAnyBytesAreReadOrRefused) {
  const std::string good = with(R"("0/x":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]})");
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    std::string header = good;
    for (int k = 0; k < 1 + i % 4; ++k) header[random() % header.size()] = static_cast<char>(random() % 128);
    put(header, "01234567");
    const auto trace = Trace::open(path);
    if (!trace) continue;
    for (const Value& value : trace->values()) EXPECT_EQ(value.floats().size(), value.rows * value.width);
  }
}

}  // namespace
}  // namespace plumb::trace
