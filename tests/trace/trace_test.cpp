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
            .parameters = {{"n_heads", "32"}, {"rope_theta", "10000.0"}, {"rope_pairing", "\"halves\""}},
            .context = 4096};
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
  EXPECT_EQ(trace->info().context, 4096);
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
  for (const char* const context : {"", "x", "-1", "1,2", "4294967296"}) {
    refused(fmt::format(R"({{"__metadata__":{{"format":"plumb-trace","version":"1","tokens":"[1]","context":"{}"}}}})",
                        context),
            "metadata 'context'");
  }
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

TEST_F(Traces, OfSeveralStepsKeepThemApart) {
  const Info info{.tokens = {1}};
  auto writer = Writer::create(path, info, 4);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> one{1}, two{2}, three{3}, four{4};
  ASSERT_TRUE(writer->add(2, "b", 1, 1, three));
  ASSERT_TRUE(writer->add(0, "a", 1, 1, one));
  ASSERT_TRUE(writer->add(2, "a", 1, 1, four));
  ASSERT_TRUE(writer->add(0, "c", 1, 1, two));
  ASSERT_TRUE(writer->finish(info));
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  std::vector<std::string> order;
  for (const Value& value : trace->values()) order.push_back(std::to_string(value.step) + value.name);
  EXPECT_THAT(order, ElementsAre("0a", "0c", "2b", "2a"));
  EXPECT_EQ(trace->n_steps(), 3u);
  EXPECT_EQ(trace->find(0, "b"), nullptr);
  EXPECT_EQ(trace->find(1, "a"), nullptr);
  EXPECT_EQ(trace->find(1, "b"), nullptr);
  EXPECT_EQ(trace->find(2, "c"), nullptr);
  EXPECT_EQ(trace->find(3, "a"), nullptr);
  EXPECT_EQ(trace->find(2, "a")->floats(), four);
  EXPECT_EQ(trace->find(0, "a")->floats(), one);
}

TEST_F(Traces, OfNothingHaveNoSteps) {
  put(R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[]"}})");
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->n_steps(), 0u);
  EXPECT_EQ(trace->find(0, "a"), nullptr);
  EXPECT_EQ(trace->info().engine, "");
  EXPECT_THAT(trace->info().positions, testing::IsEmpty());
  EXPECT_THAT(trace->info().parameters, testing::IsEmpty());
}

TEST_F(Traces, AreReadWithAllTheirMetadata) {
  put(R"({"__metadata__":{"format":"plumb-trace","version":"1","engine":"e","model":"m","model_sha256":"0AFZ","prompt":"p",)"
      R"("tokens":"[0,2147483647]","positions":"[0,4294967295]","parameters":"{\"a\":null,\"b\":\"x\",\"c\":1.5}"}})");
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->info().engine, "e");
  EXPECT_EQ(trace->info().model, "m");
  EXPECT_EQ(trace->info().model_sha256, "0afz");
  EXPECT_EQ(trace->info().prompt, "p");
  EXPECT_THAT(trace->info().tokens, ElementsAre(0, 2147483647));
  EXPECT_THAT(trace->info().positions, ElementsAre(0u, 4294967295u));
  ASSERT_EQ(trace->info().parameters.size(), 3u);
  EXPECT_EQ(trace->info().parameters[0].value, "null");
  EXPECT_EQ(trace->info().parameters[1].value, "\"x\"");
  EXPECT_EQ(trace->info().parameters[2].value, "1.5");
}

TEST_F(Traces, WithMetadataOfAnotherKindAreRefused) {
  const auto metadata = [](const std::string& more) {
    return R"({"__metadata__":{"format":"plumb-trace","version":"1",)" + more + "}}";
  };
  refused(R"({"__metadata__":[]})", "no __metadata__");
  refused(R"({"__metadata__":{"format":7,"version":"1","tokens":"[]"}})", "'format' is ''");
  refused(R"({"__metadata__":{"format":"plumb-trace","version":1,"tokens":"[]"}})", "'version' is ''");
  refused(R"({"__metadata__":{"format":"plumb-trace","tokens":"[]"}})", "'version' is ''");
  refused(metadata(R"("tokens":[1])"), "'tokens' is no JSON list");
  refused(metadata(R"("tokens":"{}")"), "'tokens' is no JSON list");
  for (const char* item : {"-1", "2147483648", "1.0", "\\\"1\\\"", "null", "true", "18446744073709551615"})
    refused(metadata(std::string(R"("tokens":"[7,)") + item + R"(]")"), "metadata 'tokens', item 1: ");
  for (const char* item : {"-1", "4294967296", "0.5"})
    refused(metadata(std::string(R"("tokens":"[7]","positions":"[)") + item + R"(]")"), "metadata 'positions', item 0: ");
  refused(metadata(R"("tokens":"[1]","positions":"[]")"), "'positions' has 0 items, 'tokens' 1");
  refused(metadata(R"("tokens":"[1]","positions":7)"), "'positions' is no JSON list");
  refused(metadata(R"("tokens":"[]","parameters":"[]")"), "'parameters' is no JSON object");
  refused(metadata(R"("tokens":"[]","parameters":{})"), "'parameters' is no JSON object");
  refused(metadata(R"("tokens":"[]","parameters":"{\"a\":{}}")"), "a is a list or an object");
}

TEST_F(Traces, HaveStepsBelowAMillion) {
  const auto with_key = [](const std::string& key) {
    return with("\"" + key + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})");
  };
  put(with_key("999999/x"), "01234567");
  const auto trace = Trace::open(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->n_steps(), 1'000'000u);
  EXPECT_EQ(trace->values()[0].name, "x");
  put(with_key("3/a/b"), "01234567");
  EXPECT_EQ(Trace::open(path)->values()[0].name, "a/b");
  put(with_key("3/"), "01234567");
  EXPECT_EQ(Trace::open(path)->values()[0].name, "");
  for (const char* key :
       {"1000000/x", "4294967295/x", "4294967296/x", "/x", "x/0", "1", "1x/y", "-1/x", "+1/x", " 1/x", "1 /x", ""})
    refused(with_key(key), "does not begin with a step below 1000000 and '/'");
}

TEST_F(Traces, LackNoFieldOfAValue) {
  const auto entry = [](const std::string& fields) { return with("\"0/x\":" + fields); };
  for (const char* fields :
       {R"({"shape":[2],"data_offsets":[0,8]})", R"({"dtype":"F32","data_offsets":[0,8]})",
        R"({"dtype":"F32","shape":[2]})", R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})",
        R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", R"({"dtype":"F32","shape":[2],"data_offsets":8})",
        R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})", R"({"dtype":"F32","shape":[2],"data_offsets":[8]})", "7",
        "null"})
    refused(entry(fields), "'0/x' lacks a dtype, a shape or data_offsets");
  for (const char* dtype : {"F64", "f32", "", "BF1", "F8"})
    refused(entry(std::string(R"({"dtype":")") + dtype + R"(","shape":[2],"data_offsets":[0,8]})"), "F32, F16 or BF16");
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[null]", "[2,-1]"})
    refused(entry(std::string(R"({"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,8]})"), "not of whole numbers");
  for (const char* shape : {"[1]", "[3]", "[0]", "[]", "[2,2]", "[2,0]"})
    refused(entry(std::string(R"({"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,8]})"), "have another size");
  for (const char* offsets : {"[0,9]", "[9,9]", "[8,4]", "[0,-1]", "[-1,8]", "[0,8.0]", "[0,18446744073709551615]"})
    refused(entry(std::string(R"({"dtype":"F32","shape":[2],"data_offsets":)") + offsets + "}"), "lie outside the 8 bytes");
  refused(entry(R"({"dtype":"F32","shape":[4611686018427387904,1],"data_offsets":[0,0]})"), "have another size");
}

TEST_F(Traces, HaveShapesOfAnyRank) {
  const auto shape_of = [this](const std::string& shape, std::size_t bytes) {
    put(with(R"("0/x":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,)" + std::to_string(bytes) + "]}"),
        std::string(bytes, '\0'));
    const auto trace = Trace::open(path);
    return trace ? std::pair(trace->values()[0].rows, trace->values()[0].width)
                 : std::pair(std::uint64_t{0}, std::uint64_t{0});
  };
  using Shape = std::pair<std::uint64_t, std::uint64_t>;
  EXPECT_EQ(shape_of("[]", 4), Shape(1, 1));
  EXPECT_EQ(shape_of("[3]", 12), Shape(1, 3));
  EXPECT_EQ(shape_of("[2,3]", 24), Shape(2, 3));
  EXPECT_EQ(shape_of("[2,1,3]", 24), Shape(2, 3));
  EXPECT_EQ(shape_of("[2,2,3]", 48), Shape(4, 3));
}

// Values may touch; a value without elements shares nothing.
TEST_F(Traces, MayTouchButNotOverlap) {
  const auto two = [](const std::string& a, const std::string& b) {
    const auto entry = [](const char* name, const std::string& offsets, const char* shape) {
      return std::string("\"0/") + name + R"(":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
    };
    return with(entry("a", a, a == "[4,4]" ? "[0]" : "[1]") + "," +
                entry("b", b, b == "[4,8]" || b == "[3,7]" ? "[1]" : "[2]"));
  };
  put(two("[0,4]", "[4,8]"), "01234567");
  EXPECT_TRUE(Trace::open(path));
  put(two("[4,4]", "[0,8]"), "01234567");
  EXPECT_TRUE(Trace::open(path));
  refused(two("[0,4]", "[3,7]"), "overlap");
  refused(two("[0,4]", "[0,8]"), "overlap");
  refused(two("[4,8]", "[0,8]"), "overlap");
}

TEST_F(Traces, MayBeNestedFourDeep) {
  put(with(R"("0/x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":[[1]]})"), "01234567");
  EXPECT_TRUE(Trace::open(path));
  refused(with(R"("0/x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":[[[1]]]})"), "no JSON object");
  // Brackets that are closed again are not counted, and an escaped quote ends no text.
  put(with(R"("0/x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":[[],[],[],[],{},"\"[[[[","\\"]})"), "01234567");
  EXPECT_TRUE(Trace::open(path));
}

TEST_F(Traces, HeadersMayFillTheFile) {
  const std::string header = R"({"__metadata__":{"format":"plumb-trace","version":"1","tokens":"[]"}})";
  put(header, "", header.size());
  EXPECT_TRUE(Trace::open(path));
  put(header, "", header.size() + 1);
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("cut short"));
  std::ofstream(path, std::ios::binary) << std::string(7, '\0');
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("7 bytes are no safetensors file"));
  std::ofstream(path, std::ios::binary) << std::string(8, '\0');
  EXPECT_THAT(Trace::open(path).error().message, HasSubstr("no JSON object"));
}

TEST_F(Traces, PartsMustFit) {
  const Info info{.tokens = {1}};
  auto writer = Writer::create(path, info, 2);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> row{1, 2}, three{1, 2, 3};
  ASSERT_TRUE(writer->add_part(0, "a", 2, 2, 1, row));
  ASSERT_TRUE(writer->add_part(0, "a", 2, 2, 0, row));
  EXPECT_FALSE(writer->add_part(0, "a", 2, 2, 2, row));
  EXPECT_FALSE(writer->add_part(0, "a", 2, 2, 1, three));
  EXPECT_FALSE(writer->add_part(0, "a", 1, 2, 0, row));
  EXPECT_FALSE(writer->add_part(0, "a", 2, 1, 0, row));
  EXPECT_FALSE(writer->add(0, "b", 1, 3, row));
  EXPECT_FALSE(writer->has(0, "b"));
  ASSERT_TRUE(writer->finish(info));
  EXPECT_THAT(Trace::open(path)->find(0, "a")->floats(), ElementsAre(1, 2, 1, 2));
}

// A reader may map the file and read the values where they lie.
TEST_F(Traces, ValuesBeginAtAMultipleOf64Bytes) {
  for (const std::size_t n : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    const Info info{.prompt = std::string(n * 9, 'p'), .tokens = {1}};
    auto writer = Writer::create(path, info, 1);
    ASSERT_TRUE(writer) << writer.error().message;
    const std::vector<float> a{1};
    ASSERT_TRUE(writer->add(0, std::string(200, 'n'), 1, 1, a));
    ASSERT_TRUE(writer->finish(info));
    std::ifstream file(path, std::ios::binary);
    std::uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), sizeof length);
    EXPECT_EQ((length + sizeof length) % 64, 0u);
    EXPECT_EQ(std::filesystem::file_size(path), length + sizeof length + sizeof(float));
  }
}

TEST_F(Traces, WithMoreInTheHeaderThanWasPromisedAreNotFinished) {
  const Info info{.tokens = {1}};
  auto writer = Writer::create(path, info, 0);
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> a{1};
  ASSERT_TRUE(writer->add(0, std::string(400, 'n'), 1, 1, a));
  const auto finished = writer->finish(info);
  ASSERT_FALSE(finished);
  EXPECT_THAT(finished.error().message, HasSubstr("longer than was promised"));
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
