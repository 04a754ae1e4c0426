// A file may leave some keys and tensors out. Any other that is missing or odd is an error that names the key or the
// tensor.
#include "model/model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "gguf/file.h"
#include "gguf/writer.h"
#include "model/golden.h"

namespace plumb::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A golden model whose metadata and tensors a test can change before it is loaded.
class Edited {
 public:
  explicit Edited(const std::string& name) : source_(gguf::File::open(testing::golden_path(name, ".gguf")).value()) {
    for (const auto& [key, value] : source_.metadata()) writer_.set(std::string(key), value);
    for (const gguf::Tensor& t : source_.tensors()) {
      tensors_[std::string(t.name)] = {
          t.format, {t.dims.begin(), t.dims.begin() + t.n_dims}, {t.data.begin(), t.data.end()}};
    }
  }
  Edited& set(const std::string& key, gguf::Value value) {
    writer_.set(key, std::move(value));
    return *this;
  }
  Edited& erase(const std::string& key) {
    writer_.erase(key);
    return *this;
  }
  Edited& drop_tensor(const std::string& name) {
    tensors_.erase(name);
    return *this;
  }
  Edited& add_tensor(const std::string& name, std::vector<std::uint64_t> dims) {
    std::uint64_t n = 1;
    for (const std::uint64_t d : dims) n *= d;
    tensors_[name] = {quants::Format::f32, std::move(dims), std::vector<std::byte>(n * sizeof(float))};
    return *this;
  }
  // The model reads from bytes that this keeps.
  Result<Model> load() {
    for (const auto& [name, t] : tensors_) writer_.add_tensor(name, t.format, t.dims, std::span<const std::byte>(t.bytes));
    bytes_ = writer_.to_memory().value();
    PLUMB_TRY(gguf::File file, gguf::File::from_memory(bytes_, "edited"));
    return Model::load(std::move(file));
  }
  // All problems of what load() has read.
  [[nodiscard]] std::vector<std::string> found_problems() const {
    return problems(gguf::File::from_memory(bytes_, "edited").value());
  }
  std::string error() {
    const auto model = load();
    return model ? "it loaded" : model.error().message;
  }

 private:
  struct Part {
    quants::Format format;
    std::vector<std::uint64_t> dims;
    std::vector<std::byte> bytes;
  };
  gguf::File source_;
  gguf::Writer writer_;
  std::map<std::string, Part> tensors_;
  std::vector<std::byte> bytes_;
};

std::vector<float> logits_of(const Model& model, const std::vector<std::int32_t>& tokens) {
  auto backend = backends::make("reference").value();
  auto executor = backend->load(model.plan(), {}).value();
  auto cache = executor->new_cache(64, backends::KvType::f32).value();
  const auto logits = executor->run({cache.get(), tokens, backends::Outputs::all}).value();
  return {logits.begin(), logits.end()};
}

TEST(ModelTest, AnUnknownArchitectureSaysWhatItAsksFor) {
  Edited file("llama");
  file.set("general.architecture", std::string_view("newcomer"))
      .set("newcomer.expert_count", std::uint32_t{64})
      .set("newcomer.expert_shared_count", std::uint32_t{0})
      .set("newcomer.attention.sliding_window", std::uint32_t{1024})
      .set("newcomer.attention.causal", false)
      .set("newcomer.ssm.state_size", std::uint32_t{16})
      .add_tensor("blk.0.ssm_conv1d.weight", {4, 32})
      .add_tensor("blk.1.ssm_a", {32})
      .add_tensor("blk.1.ffn_gate_exps.weight", {4, 4, 4})
      .add_tensor("blk.1.mystery.weight", {32});
  const std::string error = file.error();
  EXPECT_THAT(error, HasSubstr("edited: key 'general.architecture' is 'newcomer', which Plumb does not know. Use a model"));
  const std::size_t has = error.find("other architectures have here:"), lacks = error.find("what Plumb lacks:");
  ASSERT_NE(has, std::string::npos);
  ASSERT_NE(lacks, std::string::npos);
  const auto between = [&](std::string_view line, std::size_t from, std::size_t to) {
    const std::size_t at = error.find(line);
    return at != std::string::npos && from < at && at < to;
  };
  EXPECT_TRUE(between("experts: expert_count = 64, ffn_gate_exps", has, lacks)) << error;
  EXPECT_TRUE(between("sliding windows: attention.sliding_window = 1024", has, lacks)) << error;
  EXPECT_TRUE(between("recurrent state: ssm.state_size = 16, ssm_a, ssm_conv1d", lacks, error.size())) << error;
  EXPECT_TRUE(between("attention that sees both sides: attention.causal = false", lacks, error.size())) << error;
  EXPECT_THAT(error, HasSubstr("whose names tell nothing here: mystery\n"));
  EXPECT_THAT(error, ::testing::Not(HasSubstr("shared experts"))) << "0 asks for nothing";
  EXPECT_THAT(error, HasSubstr("gemma3, "));
  for (std::size_t begin = 0; begin < error.size();) {
    const std::size_t end = std::min(error.find('\n', begin), error.size());
    EXPECT_LE(end - begin, 140u) << error.substr(begin, end - begin);
    begin = end + 1;
  }
  EXPECT_THAT(file.found_problems(), ::testing::ElementsAre(error));
}

TEST(ModelTest, EveryArchitecturesTensorsTellSomething) {
  for (const std::string& name : testing::golden_cases) {
    Edited file(name);
    const std::string error = file.set("general.architecture", std::string_view("newcomer")).error();
    EXPECT_THAT(error, ::testing::Not(HasSubstr("tell nothing"))) << name;
    EXPECT_THAT(error, ::testing::Not(HasSubstr("what Plumb lacks"))) << name;
  }
}

TEST(ModelTest, ReadsHyperParameters) {
  Edited file("mistral");
  auto model = file.load();
  ASSERT_TRUE(model) << model.error().message;
  const HyperParameters& p = model->parameters();
  EXPECT_EQ(p.architecture, "llama");
  EXPECT_EQ(p.name, "mistral");
  EXPECT_EQ(p.n_layers, 2u);
  EXPECT_EQ(p.d_model, 32u);
  EXPECT_EQ(p.n_heads, 4u);
  EXPECT_EQ(p.n_kv_heads, 2u);
  EXPECT_EQ(p.head_dim, 16u);
  EXPECT_EQ(p.d_ff, 48u);
  EXPECT_EQ(p.vocab, 72u);
  EXPECT_EQ(p.context, 64u);
  EXPECT_EQ(p.window, 6u);
  EXPECT_FLOAT_EQ(static_cast<float>(p.norm_eps), 1e-5f);
  EXPECT_EQ(p.attention_scale, 0.25);
  EXPECT_EQ(p.rope.pairing, plan::RopePairing::adjacent);
  EXPECT_EQ(p.rope.n_rot, 16u);
  EXPECT_EQ(p.rope.theta, 1e6);
  EXPECT_EQ(p.rope.scaling, RopeScaling::none);
  EXPECT_FALSE(p.tied_embeddings);
  EXPECT_EQ(model->plan()->cache.n_layers(), 2u);
  EXPECT_EQ(model->plan()->vocab, 72u);
  EXPECT_EQ(model->plan()->context, 64u);
  EXPECT_TRUE(model->unused_tensors().empty());
}

TEST(ModelTest, PlanKeepsTheFileMapped) {
  std::shared_ptr<const plan::Plan> plan;
  {
    auto file = gguf::File::open(testing::golden_path("llama", ".gguf"));
    ASSERT_TRUE(file) << file.error().message;
    plan = Model::load(std::move(*file)).value().plan();
  }
  EXPECT_EQ(plan->weights.front().tensor.name, "token_embd.weight");
}

TEST(ModelTest, ValuesAreNamedAsTheArchitectureSays) {
  Edited file("qwen3");
  auto model = file.load();
  ASSERT_TRUE(model) << model.error().message;
  std::vector<std::string> names;
  for (const auto& value : model->plan()->values) {
    if (!value.name.starts_with("blk.1.")) names.push_back(value.name);
  }
  EXPECT_THAT(names,
              ElementsAre("token_embd", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v",
                          "blk.0.attn_q_norm", "blk.0.attn_k_norm", "blk.0.attn_q_rope", "blk.0.attn_k_rope",
                          "blk.0.attn_ctx", "blk.0.attn_out", "blk.0.attn_resid", "blk.0.ffn_norm", "blk.0.ffn_gate",
                          "blk.0.ffn_up", "blk.0.ffn_act", "blk.0.ffn_down", "blk.0.output", "output_norm", "logits"));
}

TEST(ModelTest, MissingKeysAreNamed) {
  for (const char* key : {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
                          "llama.context_length", "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
                          "llama.rope.dimension_count", "general.architecture"}) {
    EXPECT_THAT(Edited("llama").erase(key).error(), HasSubstr(key)) << key;
  }
  EXPECT_THAT(Edited("gpt2").erase("gpt2.attention.layer_norm_epsilon").error(),
              HasSubstr("gpt2.attention.layer_norm_epsilon"));
  EXPECT_THAT(Edited("qwen2").erase("qwen2.rope.freq_base").error(), HasSubstr("qwen2.rope.freq_base"));
  EXPECT_THAT(Edited("qwen3").erase("qwen3.rope.freq_base").error(), HasSubstr("qwen3.rope.freq_base"));
  EXPECT_THAT(Edited("llama").erase("llama.vocab_size").erase("tokenizer.ggml.tokens").error(),
              HasSubstr("llama.vocab_size"));
  EXPECT_THAT(Edited("llama-yarn").erase("llama.rope.scaling.original_context_length").error(),
              HasSubstr("llama.rope.scaling.original_context_length"));
  EXPECT_THAT(Edited("llama-yarn").erase("llama.rope.scaling.factor").error(), HasSubstr("llama.rope.scaling.factor"));
  EXPECT_THAT(Edited("llama-linear").erase("llama.rope.scaling.type").error(), HasSubstr("llama.rope.scaling.type"));
}

TEST(ModelTest, OddValuesAreNamed) {
  using Value = gguf::Value;
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, Value>> odd{
      {"llama.block_count", Value{0u}},
      {"llama.block_count", Value{1025u}},
      {"llama.block_count", Value{900u}},
      {"llama.block_count", Value{std::string_view("two")}},
      {"llama.block_count", Value{-2}},
      {"llama.block_count", Value{std::uint64_t{1} << 40}},
      {"llama.embedding_length", Value{0u}},
      {"llama.embedding_length", Value{0xffffffffu}},
      {"llama.feed_forward_length", Value{0u}},
      {"llama.context_length", Value{0u}},
      {"llama.context_length", Value{0xffffffffu}},
      {"llama.vocab_size", Value{71u}},
      {"llama.attention.head_count", Value{0u}},
      {"llama.attention.head_count", Value{5u}},
      {"llama.attention.head_count_kv", Value{0u}},
      {"llama.attention.head_count_kv", Value{3u}},
      {"llama.attention.head_count_kv", Value{8u}},
      {"llama.attention.value_length", Value{16u}},
      {"llama.attention.key_length", Value{0u}},
      {"llama.attention.scale", Value{0.0f}},
      {"llama.attention.layer_norm_rms_epsilon", Value{0.0f}},
      {"llama.attention.layer_norm_rms_epsilon", Value{-1e-5f}},
      {"llama.attention.layer_norm_rms_epsilon", Value{0.2f}},
      {"llama.attention.layer_norm_rms_epsilon", Value{nan}},
      {"llama.attention.causal", Value{false}},
      {"llama.rope.dimension_count", Value{0u}},
      {"llama.rope.dimension_count", Value{7u}},
      {"llama.rope.dimension_count", Value{10u}},
      {"llama.rope.freq_base", Value{nan}},
      {"llama.rope.freq_base", Value{inf}},
      {"llama.rope.freq_base", Value{0.0f}},
      {"llama.rope.scaling.type", Value{std::string_view("spiral")}},
      {"llama.rope.scaling.type", Value{7u}},
      {"llama.rope.scale_linear", Value{0.5f}},
      {"llama.tensor_data_layout", Value{std::string_view("reference")}},
      {"llama.use_parallel_residual", Value{true}},
      {"llama.attention.clamp_kqv", Value{8.0f}},
      {"llama.logit_scale", Value{0.5f}},
      {"llama.final_logit_softcapping", Value{30.0f}},
      {"general.architecture", Value{std::string_view("mamba")}},
      {"general.architecture", Value{1u}},
  };
  for (const auto& [key, value] : odd) EXPECT_THAT(Edited("llama").set(key, value).error(), HasSubstr(key)) << key;

  EXPECT_THAT(Edited("llama").set("llama.expert_count", Value{8u}).error(), HasSubstr("llama.expert_used_count"));
  EXPECT_THAT(Edited("gpt2").set("gpt2.expert_count", Value{8u}).error(), HasSubstr("mixture-of-experts"));
  EXPECT_THAT(Edited("llama").set("general.architecture", Value{std::string_view("mamba")}).error(),
              AllOf(HasSubstr(" llama,"), HasSubstr(" qwen2,")));
  EXPECT_THAT(Edited("qwen2").set("qwen2.attention.sliding_window", Value{16u}).error(),
              HasSubstr("qwen2.attention.sliding_window"));
  EXPECT_THAT(Edited("llama-linear").set("llama.rope.scaling.factor", Value{0.0f}).error(),
              HasSubstr("llama.rope.scaling.factor"));
  EXPECT_THAT(Edited("llama-linear").set("llama.rope.scale_linear", Value{2.0f}).error(),
              HasSubstr("llama.rope.scale_linear"));
  EXPECT_THAT(Edited("llama-yarn").set("llama.rope.scaling.original_context_length", Value{128u}).error(),
              HasSubstr("llama.rope.scaling.original_context_length"));
  EXPECT_THAT(Edited("llama-yarn").set("llama.rope.scaling.yarn_beta_slow", Value{4.0f}).error(),
              HasSubstr("llama.rope.scaling.yarn_beta_fast"));
}

TEST(ModelTest, YarnsMagnitudeIsTheProductOfBothKeys) {
  Edited file("llama-yarn");
  file.set("llama.rope.scaling.attn_factor", 1.25f).set("llama.rope.scaling.yarn_attn_factor", 1.5f);
  const auto model = file.load();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->parameters().rope.magnitude, 1.875);
}

TEST(ModelTest, NeutralValuesOfForeignKeysAreHarmless) {
  Edited file("llama");
  file.set("llama.expert_count", 0u)
      .set("llama.use_parallel_residual", false)
      .set("llama.logit_scale", 1.0f)
      .set("llama.attention.causal", true)
      .set("llama.tensor_data_layout", std::string_view("Meta AI original pth"))
      .set("llama.rope.scaling.type", std::string_view("none"))
      .set("llama.attention.sliding_window", 64u);
  auto model = file.load();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->parameters().window, 0u);
}

TEST(ModelTest, KeysThatTheSpecificationLetsAFileLeaveOut) {
  Edited bare("llama");
  auto model = bare.erase("llama.rope.freq_base").erase("llama.vocab_size").load();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->parameters().rope.theta, 10000.0);
  EXPECT_EQ(model->parameters().vocab, 72u);

  // Without head_count_kv there are as many as query heads, which this file's attn_k does not fit.
  EXPECT_THAT(Edited("llama").erase("llama.attention.head_count_kv").error(),
              AllOf(HasSubstr("blk.0.attn_k.weight"), HasSubstr("[out = 32, in = 32]")));

  Edited without_tokens("llama");
  auto without_tokenizer = without_tokens.erase("tokenizer.ggml.tokens").load();
  ASSERT_TRUE(without_tokenizer) << without_tokenizer.error().message;
  EXPECT_EQ(without_tokenizer->parameters().vocab, 72u);
}

TEST(ModelTest, TensorsAreBoundByNameAndShape) {
  EXPECT_THAT(
      Edited("llama").drop_tensor("blk.1.ffn_up.weight").error(),
      AllOf(HasSubstr("'blk.1.ffn_up.weight' is missing"), HasSubstr("{32, 48}"), HasSubstr("[out = 48, in = 32]")));
  EXPECT_THAT(Edited("llama").add_tensor("blk.0.ffn_up.weight", {48, 32}).error(),
              AllOf(HasSubstr("'blk.0.ffn_up.weight' has dims {48, 32}"), HasSubstr("{32, 48}")));
  EXPECT_THAT(Edited("llama").add_tensor("output_norm.weight", {31}).error(),
              AllOf(HasSubstr("'output_norm.weight' has dims {31}"), HasSubstr("{32}")));
  EXPECT_THAT(Edited("llama-rope-factors").add_tensor("rope_freqs.weight", {8}).error(), HasSubstr("rope_freqs.weight"));
  EXPECT_THAT(Edited("qwen2").drop_tensor("blk.0.attn_q.bias").error(), HasSubstr("'blk.0.attn_q.bias' is missing"));
  EXPECT_THAT(Edited("qwen3").drop_tensor("blk.1.attn_k_norm.weight").error(), HasSubstr("blk.1.attn_k_norm.weight"));
  EXPECT_THAT(Edited("llama").set("llama.feed_forward_length", 64u).error(), HasSubstr("blk.0.ffn_gate.weight"));
  EXPECT_THAT(Edited("gpt2").drop_tensor("position_embd.weight").error(),
              AllOf(HasSubstr("'position_embd.weight' is missing"), HasSubstr("[out = 64, in = 32]")));
  EXPECT_THAT(Edited("gpt2").set("gpt2.context_length", 65u).error(),
              AllOf(HasSubstr("'position_embd.weight' has dims {32, 64}"), HasSubstr("{32, 65}")));
  for (const char* name : {"blk.0.attn_norm.bias", "blk.1.attn_qkv.weight", "blk.1.attn_qkv.bias", "blk.0.attn_output.bias",
                           "blk.1.ffn_norm.bias", "blk.0.ffn_up.bias", "blk.1.ffn_down.bias", "output_norm.bias"}) {
    EXPECT_THAT(Edited("gpt2").drop_tensor(name).error(), HasSubstr(fmt::format("'{}' is missing", name)));
  }
  EXPECT_THAT(Edited("llama").set("llama.block_count", 3u).error(), HasSubstr("blk.2.attn_norm.weight"));
}

TEST(ModelTest, TensorsWithoutARoleAreNotDropped) {
  EXPECT_THAT(Edited("llama").set("llama.block_count", 1u).error(), HasSubstr("blk.1."));
  EXPECT_THAT(Edited("llama").add_tensor("output.bias", {72}).error(), HasSubstr("'output.bias' has no role"));
  EXPECT_THAT(Edited("llama").add_tensor("blk.0.attn_norm.bias", {32}).error(),
              HasSubstr("'blk.0.attn_norm.bias' has no role"));
  EXPECT_THAT(Edited("llama").add_tensor("position_embd.weight", {32, 64}).error(), HasSubstr("position_embd.weight"));
  EXPECT_THAT(Edited("llama").add_tensor("blk.0.attn_q_norm.weight", {8}).error(), HasSubstr("blk.0.attn_q_norm.weight"));
  EXPECT_THAT(Edited("qwen2").add_tensor("rope_freqs.weight", {4}).error(), HasSubstr("rope_freqs.weight"));

  Edited file("llama");
  auto model = file.add_tensor("cls.weight", {32, 2}).add_tensor("blk.0.attn_rot_embd.weight", {4}).load();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_THAT(model->unused_tensors(), ElementsAre("blk.0.attn_rot_embd.weight", "cls.weight"));
}

TEST(ModelTest, SequencesEndWhereTheTableOfPositionsDoes) {
  Edited file("gpt2");
  const auto model = file.load();
  ASSERT_TRUE(model) << model.error().message;
  for (const char* name : {"reference", "cpu", "checker"}) {
    const auto executor = backends::make(name).value()->load(model->plan(), {}).value();
    const auto cache = executor->new_cache(80, backends::KvType::f32).value();
    const std::vector<std::int32_t> tokens(65, 7);
    const auto too_many = executor->run({cache.get(), tokens, backends::Outputs::last});
    ASSERT_FALSE(too_many) << name;
    EXPECT_THAT(too_many.error().message, AllOf(HasSubstr("position 64"), HasSubstr("position_embd.weight")));
    EXPECT_TRUE(executor->run({cache.get(), std::span(tokens).first(64), backends::Outputs::last})) << name;
    EXPECT_FALSE(executor->run({cache.get(), std::span(tokens).first(1), backends::Outputs::last})) << name;
  }
}

TEST(ModelTest, OldLinearScalingKeyMeansTheSame) {
  const auto golden = testing::read_golden("llama-linear");
  Edited newer_file("llama-linear");
  Edited older_file("llama-linear");
  older_file.erase("llama.rope.scaling.type").erase("llama.rope.scaling.factor").set("llama.rope.scale_linear", 4.0f);
  auto newer = newer_file.load();
  auto older = older_file.load();
  ASSERT_TRUE(newer && older);
  EXPECT_EQ(older->parameters().rope.scaling, RopeScaling::linear);
  EXPECT_EQ(logits_of(*newer, golden.tokens), logits_of(*older, golden.tokens));
}

// The goldens would notice if one of these parameters were not read: each change moves the logits far beyond their
// tolerance.
TEST(ModelTest, EveryHyperParameterMatters) {
  using Change = std::function<void(Edited&)>;
  const std::vector<std::tuple<std::string, std::string, Change>> changes{
      {"llama", "eps", [](Edited& e) { e.set("llama.attention.layer_norm_rms_epsilon", 0.05f); }},
      {"llama", "base", [](Edited& e) { e.set("llama.rope.freq_base", 5000.0f); }},
      {"llama", "rotated components", [](Edited& e) { e.set("llama.rope.dimension_count", 6u); }},
      {"llama", "attention scale", [](Edited& e) { e.set("llama.attention.scale", 0.3f); }},
      {"llama", "untied output", [](Edited& e) { e.drop_tensor("output.weight"); }},
      {"llama-rope-factors", "factors", [](Edited& e) { e.drop_tensor("rope_freqs.weight"); }},
      {"llama-linear", "factor", [](Edited& e) { e.set("llama.rope.scaling.factor", 3.0f); }},
      {"llama-linear", "type",
       [](Edited& e) { e.set("llama.rope.scaling.type", std::string_view("none")).erase("llama.rope.scaling.factor"); }},
      {"llama-yarn", "type",
       [](Edited& e) {
         e.set("llama.rope.scaling.type", std::string_view("linear"));
         for (const char* key : {"yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor", "yarn_attn_factor"})
           e.erase(std::string("llama.rope.scaling.") + key);
       }},
      {"llama-yarn", "factor", [](Edited& e) { e.set("llama.rope.scaling.factor", 3.0f); }},
      {"llama-yarn", "context", [](Edited& e) { e.set("llama.rope.scaling.original_context_length", 8u); }},
      {"llama-yarn", "fast", [](Edited& e) { e.set("llama.rope.scaling.yarn_beta_fast", 0.5f); }},
      {"llama-yarn", "slow", [](Edited& e) { e.set("llama.rope.scaling.yarn_beta_slow", 1.5f); }},
      {"llama-yarn", "mix", [](Edited& e) { e.set("llama.rope.scaling.yarn_ext_factor", 0.5f); }},
      {"llama-yarn", "magnitude", [](Edited& e) { e.set("llama.rope.scaling.attn_factor", 1.05f); }},
      {"llama-yarn", "whole magnitude", [](Edited& e) { e.set("llama.rope.scaling.yarn_attn_factor", 1.0f); }},
      {"llama-bias", "query bias", [](Edited& e) { e.drop_tensor("blk.0.attn_q.bias"); }},
      {"llama-bias", "output bias", [](Edited& e) { e.drop_tensor("blk.1.attn_output.bias"); }},
      {"llama-bias", "down bias", [](Edited& e) { e.drop_tensor("blk.1.ffn_down.bias"); }},
      {"mistral", "window", [](Edited& e) { e.set("llama.attention.sliding_window", 7u); }},
      {"gpt2", "eps", [](Edited& e) { e.set("gpt2.attention.layer_norm_epsilon", 0.05f); }},
      {"mistral", "no window", [](Edited& e) { e.erase("llama.attention.sliding_window"); }},
  };
  for (const auto& [name, what, change] : changes) {
    SCOPED_TRACE(name + ": " + what);
    const auto golden = testing::read_golden(name);
    Edited file(name);
    change(file);
    const auto model = file.load();
    ASSERT_TRUE(model) << model.error().message;
    const std::vector<float> logits = logits_of(*model, golden.tokens);
    const std::vector<float>& expected = golden.values.at("logits").data;
    ASSERT_EQ(logits.size(), expected.size());
    float difference = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) difference = std::max(difference, std::abs(logits[i] - expected[i]));
    EXPECT_GT(difference, 1e-2f);
  }
}

}  // namespace
}  // namespace plumb::model
