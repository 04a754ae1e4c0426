#include "model/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "backends/backend.h"
#include "model/model.h"

namespace plumb::model {
namespace {

using ::testing::HasSubstr;

Preset tiny(std::string_view architecture) {
  Preset preset{"tiny", architecture, 3, 256, 4, 2, 64, 512, 1000, 128, 1e-5, 1e4, architecture == "qwen3"};
  preset.qkv_bias = architecture == "qwen2";
  preset.head_norms = architecture.starts_with("qwen3");
  if (architecture == "qwen3moe") preset.experts = {.n = 8, .n_used = 2, .d_ff = 256};
  if (architecture == "gpt-oss") {
    preset.qkv_bias = preset.out_bias = preset.sinks = true;
    preset.window = 16;
    preset.yarn = {.factor = 4, .original_context = 32};
    preset.feed_forward_norm = "post_attention_norm";
    preset.experts = {.n = 4, .n_used = 2, .d_ff = 96, .biases = true};
  }
  return preset;
}

class SynthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string(test->test_suite_name()) + "." + test->name() + ".gguf";
    for (char& c : name) c = c == '/' ? '_' : c;
    path_ = std::filesystem::path(::testing::TempDir()) / name;
  }
  void TearDown() override { std::filesystem::remove(path_); }
  [[nodiscard]] std::string bytes() const {
    std::ifstream stream(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  std::filesystem::path path_;
};

class SynthModelTest : public SynthTest, public ::testing::WithParamInterface<std::tuple<std::string_view, FileType>> {};

TEST_P(SynthModelTest, LoadsAndComputesWellScaledLogits) {
  const auto& [architecture, type] = GetParam();
  Preset preset = tiny(architecture);
  if (architecture == "llama") preset.rope_factors = Preset::RopeFactors{.factor = 8, .original_context = 64};
  const auto written = synthesize(preset, type, 1, path_);
  ASSERT_TRUE(written) << written.error().message;

  const auto model = Model::load(gguf::File::open(path_).value());
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->parameters().vocab, 1000u);
  EXPECT_EQ(model->parameters().tied_embeddings, architecture == "qwen3");
  EXPECT_EQ(model->parameters().rope.frequency_factors, architecture == "llama");
  EXPECT_TRUE(model->unused_tensors().empty());
  EXPECT_EQ(model->parameters().window, architecture == "gpt-oss" ? 16u : 0u);
  EXPECT_EQ(model->parameters().rope.yarn.has_value(), architecture == "gpt-oss");
  ASSERT_EQ(model->parameters().experts.has_value(), preset.experts.has_value());
  if (preset.experts) {
    EXPECT_EQ(model->parameters().experts->n_experts, preset.experts->n);
    EXPECT_EQ(model->parameters().experts->n_used, preset.experts->n_used);
    EXPECT_EQ(model->parameters().experts->d_ff, preset.experts->d_ff);
  }
  EXPECT_EQ(model->file().get_uint("general.file_type").value(), static_cast<std::uint32_t>(type));

  const auto backend = backends::make("reference").value();
  const auto executor = backend->load(model->plan(), {}).value();
  const auto cache = executor->new_cache(8, backends::KvType::f32).value();
  const std::vector<std::int32_t> tokens{1, 300, 301, 302};
  const auto logits = executor->run({cache.get(), tokens, backends::Outputs::last});
  ASSERT_TRUE(logits) << logits.error().message;
  double squares = 0;
  for (const float logit : *logits) squares += double{logit} * logit;
  const double deviation = std::sqrt(squares / static_cast<double>(logits->size()));
  EXPECT_GT(deviation, 0.5);
  EXPECT_LT(deviation, 2.0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SynthModelTest,
                         ::testing::Values(std::tuple("llama", FileType::f16), std::tuple("llama", FileType::q4_k_m),
                                           std::tuple("qwen2", FileType::q8_0), std::tuple("qwen3", FileType::q6_k),
                                           std::tuple("qwen3moe", FileType::q4_k_m), std::tuple("gpt-oss", FileType::q4_0)),
                         [](const auto& instance) {
                           std::string label = std::string(std::get<0>(instance.param)) + "_" +
                                               std::string(name(std::get<1>(instance.param)));
                           std::ranges::replace(label, '-', '_');
                           return label;
                         });

TEST_F(SynthTest, RotaryFactorsSlowTheSlowComponents) {
  Preset preset = tiny("llama");
  preset.rope_factors = Preset::RopeFactors{.factor = 8, .original_context = 64};
  ASSERT_TRUE(synthesize(preset, FileType::f16, 1, path_));
  const auto file = gguf::File::open(path_).value();
  const gguf::Tensor* tensor = file.tensor("rope_freqs.weight");
  ASSERT_NE(tensor, nullptr);
  std::vector<float> divisors(tensor->n_elements());
  std::memcpy(divisors.data(), tensor->data.data(), divisors.size() * sizeof(float));
  EXPECT_EQ(divisors.front(), 1) << "turns ten times in the original context";
  EXPECT_FLOAT_EQ(divisors.back(), 8) << "turns less than once";
}

TEST_F(SynthTest, SameSeedSameFile) {
  ASSERT_TRUE(synthesize(tiny("llama"), FileType::q8_0, 1, path_));
  const std::string first = bytes();
  ASSERT_TRUE(synthesize(tiny("llama"), FileType::q8_0, 1, path_));
  EXPECT_EQ(bytes(), first);
  ASSERT_TRUE(synthesize(tiny("llama"), FileType::q8_0, 2, path_));
  EXPECT_NE(bytes(), first);
}

TEST_F(SynthTest, RowsDiffer) {
  ASSERT_TRUE(synthesize(tiny("llama"), FileType::f16, 1, path_));
  const auto file = gguf::File::open(path_).value();
  const gguf::Tensor& tensor = *file.tensor("blk.1.ffn_up.weight");
  const std::size_t row_bytes = tensor.data.size() / tensor.n_rows();
  std::set<std::string> rows;
  for (std::uint64_t i = 0; i < tensor.n_rows(); ++i) {
    const auto row = tensor.data.subspan(i * row_bytes, row_bytes);
    rows.emplace(reinterpret_cast<const char*>(row.data()), row.size());
  }
  EXPECT_GT(rows.size(), tensor.n_rows() * 8 / 10);
}

TEST_F(SynthTest, PiecesAreUnique) {
  ASSERT_TRUE(synthesize(tiny("llama"), FileType::q8_0, 1, path_));
  const auto file = gguf::File::open(path_).value();
  const gguf::Array& tokens = *file.get_array("tokenizer.ggml.tokens", gguf::ValueType::string).value();
  const std::set<std::string_view> unique(tokens.strings.begin(), tokens.strings.end());
  EXPECT_EQ(unique.size(), 1000u);
  EXPECT_EQ(tokens.count, 1000u);
}

TEST_F(SynthTest, Errors) {
  Preset small = tiny("llama");
  small.vocab = 599;
  const auto written = synthesize(small, FileType::q8_0, 1, path_);
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message, HasSubstr("600"));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST(SynthPresetTest, ShapesOfMixturesHaveTheirMakersSizes) {
  const auto parameters = [](const Preset& p) {
    const std::uint64_t attention = std::uint64_t{p.d_model} * p.head_dim * (2 * p.n_heads + 2 * p.n_kv_heads);
    const std::uint64_t experts = std::uint64_t{p.experts->n} * p.experts->d_ff * p.d_model * 3;
    return 2.0 * p.vocab * p.d_model + static_cast<double>(p.n_layers * (attention + experts));
  };
  // 30.5 billion (https://huggingface.co/Qwen/Qwen3-30B-A3B), 20.9 billion (https://arxiv.org/abs/2508.10925).
  EXPECT_NEAR(parameters(*find_preset("qwen3-30b-a3b")), 30.5e9, 0.05e9);
  EXPECT_NEAR(parameters(*find_preset("gpt-oss-20b")), 20.9e9, 0.05e9);
}

TEST(SynthPresetTest, ArePlausible) {
  ASSERT_NE(find_preset("tinyllama-1.1b"), nullptr);
  ASSERT_NE(find_preset("llama-3.1-8b"), nullptr);
  EXPECT_EQ(find_preset("llama-4"), nullptr);
  for (const Preset& preset : presets()) {
    EXPECT_EQ(find_preset(preset.name), &preset);
    EXPECT_EQ(preset.n_heads % preset.n_kv_heads, 0u) << preset.name;
    if (!preset.head_norms && preset.architecture != "gpt-oss") {
      EXPECT_EQ(preset.n_heads * preset.head_dim, preset.d_model) << preset.name;
    }
    EXPECT_THAT(architecture_names(), ::testing::Contains(preset.architecture));
  }
}

}  // namespace
}  // namespace plumb::model
