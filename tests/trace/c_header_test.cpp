// Traces written by include/plumb/trace.h, read with the reader of diagnosis.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "plumb/trace.h"
#include "trace/trace.h"

namespace plumb::trace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CHeader : public ::testing::Test {
 protected:
  CHeader() { std::filesystem::create_directory(folder); }
  ~CHeader() override { std::filesystem::remove_all(folder); }

  [[nodiscard]] std::size_t n_files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
  }
  void begin() { ASSERT_TRUE(plumb_trace_create(&trace, path.c_str(), "an engine", "m.gguf")) << trace.error; }
  // Expects that the call failed with this message, that nothing was left behind, and that later calls fail in the same
  // way.
  void failed(bool result, std::string_view says) {
    EXPECT_FALSE(result);
    EXPECT_THAT(plumb_trace_error(&trace), HasSubstr(says));
    const std::string first = plumb_trace_error(&trace);
    EXPECT_FALSE(plumb_trace_tokens(&trace, tokens, 2));
    EXPECT_FALSE(plumb_trace_finish(&trace));
    EXPECT_EQ(plumb_trace_error(&trace), first);
    EXPECT_EQ(n_files(), 0u);
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("plumb-c-header-" + std::to_string(::getpid()));
  const std::string path = (folder / "t.safetensors").string();
  plumb_trace trace{};
  const std::int32_t tokens[2] = {1, 29871};
  const float values[6] = {1, -2, 3, 4, 5, 6};
  const std::uint16_t halves[2] = {0x3c00, 0xc000};
};

TEST_F(CHeader, WritesWhatTheReaderReads) {
  begin();
  const std::string prompt("a \"b\"\\ \n\xc3\xa9 \xff\0c", 13);
  EXPECT_TRUE(plumb_trace_prompt(&trace, prompt.data(), prompt.size()));
  EXPECT_TRUE(plumb_trace_add(&trace, 0, "token_embd", PLUMB_TRACE_F32, 2, 3, values));
  EXPECT_TRUE(plumb_trace_tokens(&trace, tokens, 2));
  EXPECT_TRUE(plumb_trace_set(&trace, "parameters", R"({"n_heads": 32, "rope_pairing": "halves"})"));
  EXPECT_TRUE(plumb_trace_model_sha256(&trace, std::string(64, 'a').c_str()));
  EXPECT_TRUE(plumb_trace_add_block(&trace, 0, 11, "attn_q", PLUMB_TRACE_F16, 1, 2, halves));
  EXPECT_TRUE(plumb_trace_add_block(&trace, 1, 11, "attn_q", PLUMB_TRACE_BF16, 1, 2, halves));
  EXPECT_TRUE(plumb_trace_tokens(&trace, tokens, 1));
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(plumb_trace_finish(&trace)) << plumb_trace_error(&trace);
  EXPECT_EQ(n_files(), 1u);

  const auto read = Trace::open(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->info().engine, "an engine");
  EXPECT_EQ(read->info().model, "m.gguf");
  EXPECT_EQ(read->info().model_sha256, std::string(64, 'a'));
  EXPECT_EQ(read->info().prompt, std::string("a \"b\"\\ \n\xc3\xa9 \xef\xbf\xbd\0c", 15));
  EXPECT_THAT(read->info().tokens, ElementsAre(1, 29871, 1));
  ASSERT_EQ(read->info().parameters.size(), 2);
  EXPECT_EQ(read->info().parameters[0].value, "32");
  EXPECT_THAT(read->find(0, "token_embd")->floats(), ElementsAre(1, -2, 3, 4, 5, 6));
  EXPECT_EQ(read->find(0, "token_embd")->width, 3);
  EXPECT_THAT(read->find(0, "blk.11.attn_q")->floats(), ElementsAre(1, -2));
  EXPECT_EQ(read->find(1, "blk.11.attn_q")->dtype, Dtype::bf16);
}

TEST_F(CHeader, MovesTheValuesWhereTheHeaderOutgrowsItsRoom) {
  begin();
  EXPECT_TRUE(plumb_trace_tokens(&trace, tokens, 1));
  constexpr std::uint32_t n = 9000;
  for (std::uint32_t step = 0; step < n; ++step) {
    const float x[2] = {static_cast<float>(step), -1};
    ASSERT_TRUE(plumb_trace_add(&trace, step, "output_norm", PLUMB_TRACE_F32, 1, 2, x)) << trace.error;
    if (step > 0) {
      ASSERT_TRUE(plumb_trace_tokens(&trace, tokens, 1));
    }
  }
  ASSERT_TRUE(plumb_trace_finish(&trace)) << plumb_trace_error(&trace);
  const auto read = Trace::open(path);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->values().size(), n);
  for (const std::uint32_t step : {0u, 1u, 4567u, n - 1}) {
    EXPECT_THAT(read->values()[step].floats(), ElementsAre(static_cast<float>(step), -1));
  }
}

TEST_F(CHeader, EndsWithTheFirstError) {
  begin();
  failed(plumb_trace_finish(&trace), "needs tokens");
  begin();
  EXPECT_TRUE(plumb_trace_tokens(&trace, tokens, 2));
  failed(plumb_trace_finish(&trace), "needs values");
  begin();
  EXPECT_TRUE(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, 1, 6, values));
  failed(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, 1, 6, values), "added a second time");
  begin();
  failed(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, UINT64_MAX, 6, values), "cannot have");
  begin();
  failed(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, 1, 0, values), "cannot have");
  begin();
  failed(plumb_trace_add(&trace, 0, nullptr, PLUMB_TRACE_F32, 1, 6, values), "without a name");
  begin();
  failed(plumb_trace_add(&trace, 1000000, "logits", PLUMB_TRACE_F32, 1, 6, values), "fewer than 1000000");
  begin();
  failed(plumb_trace_add(&trace, 0, "logits", static_cast<plumb_trace_dtype>(3), 1, 6, values), "type 3");
  begin();
  failed(plumb_trace_set(&trace, "engine", "another"), "a second time");
  begin();
  failed(plumb_trace_set(&trace, "tokens", "[1]"), "wrong function");
  begin();
  failed(plumb_trace_model_sha256(&trace, "abc"), "64 hexadecimal digits");
  begin();
  const std::int32_t negative = -1;
  failed(plumb_trace_tokens(&trace, &negative, 1), "id -1");
  begin();
  const std::uint32_t position = 0;
  EXPECT_TRUE(plumb_trace_tokens(&trace, tokens, 2));
  EXPECT_TRUE(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, 1, 6, values));
  EXPECT_TRUE(plumb_trace_positions(&trace, &position, 1));
  failed(plumb_trace_finish(&trace), "1 positions for 2 tokens");
  EXPECT_FALSE(plumb_trace_create(&trace, (folder / "no" / "such").c_str(), "e", "m"));
  EXPECT_THAT(plumb_trace_error(&trace), HasSubstr("cannot create a file beside it"));
  EXPECT_FALSE(plumb_trace_create(&trace, folder.c_str(), "e", "m"));
  EXPECT_THAT(plumb_trace_error(&trace), HasSubstr("is a folder"));
  EXPECT_FALSE(plumb_trace_create(&trace, nullptr, "e", "m"));
}

TEST_F(CHeader, KeepsWhatWasThereUntilItIsFinished) {
  std::ofstream(path) << "before";
  begin();
  EXPECT_TRUE(plumb_trace_add(&trace, 0, "logits", PLUMB_TRACE_F32, 1, 6, values));
  plumb_trace_abandon(&trace);
  plumb_trace_abandon(&trace);
  EXPECT_EQ(n_files(), 1u);
  std::string kept;
  std::ifstream(path) >> kept;
  EXPECT_EQ(kept, "before");
  EXPECT_FALSE(plumb_trace_finish(&trace));
}

}  // namespace
}  // namespace plumb::trace
