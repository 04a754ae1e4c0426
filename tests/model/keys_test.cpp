// The keys of a decoder: each bound with its neighbours, each default, each key of a feature that is not supported.
#include "model/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gguf/file.h"
#include "gguf/writer.h"

namespace plumb::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Value = gguf::Value;
using Values = std::map<std::string, std::optional<Value>>;  // none: without the key

const DecoderConventions usual{.rope = RopeConventions{}, .windows = Windows::uniform};

// Reads a small decoder with these keys in place of its own, and hands its Keys to `visit`.
HyperParameters read(const Values& changes, const DecoderConventions& conventions,
                     const std::function<void(const Keys& keys)>& visit) {
  Values values{{"x.block_count", 2u},
                {"x.embedding_length", 32u},
                {"x.feed_forward_length", 48u},
                {"x.context_length", 64u},
                {"x.vocab_size", 10u},
                {"x.attention.head_count", 4u},
                {"x.attention.layer_norm_rms_epsilon", 1e-5f},
                {"x.rope.dimension_count", 8u},
                {"x.rope.freq_base", 10000.0f}};
  for (const auto& [key, value] : changes) values[key] = value;
  gguf::Writer writer;
  for (const auto& [key, value] : values) {
    if (value) writer.set(key, *value);
  }
  const std::vector<std::uint64_t> dims{1};
  const std::vector<std::byte> zero(sizeof(float));
  for (const char* name : {"a", "b", "c"}) writer.add_tensor(name, quants::Format::f32, dims, std::span(zero));
  const std::vector<std::byte> bytes = writer.to_memory().value();
  const gguf::File file = gguf::File::from_memory(bytes, "small").value();
  Keys keys(file, "x");
  HyperParameters p = read_decoder(keys, conventions);
  visit(keys);
  return p;
}

std::vector<std::string> complaints(const Values& changes, const DecoderConventions& conventions = usual) {
  std::vector<std::string> found;
  read(changes, conventions, [&](const Keys& keys) { found = keys.complaints(); });
  return found;
}

// Error: the first complaint.
Result<HyperParameters> read(const Values& changes = {}, const DecoderConventions& conventions = usual) {
  std::vector<std::string> found;
  const HyperParameters p = read(changes, conventions, [&](const Keys& keys) { found = keys.complaints(); });
  if (!found.empty()) return fail("{}", found.front());
  return p;
}

HyperParameters parameters(const Values& changes = {}, const DecoderConventions& conventions = usual) {
  const auto result = read(changes, conventions);
  EXPECT_TRUE(result) << result.error().message;
  return result ? *result : HyperParameters{};
}

void refused(const Values& changes, const std::string& key, const std::string& says,
             const DecoderConventions& conventions = usual) {
  const auto result = read(changes, conventions);
  ASSERT_FALSE(result) << key;
  EXPECT_THAT(result.error().message, HasSubstr("small"));
  EXPECT_THAT(result.error().message, HasSubstr(key));
  EXPECT_THAT(result.error().message, HasSubstr(says));
}

TEST(DecoderKeys, HaveDefaults) {
  const HyperParameters p = parameters();
  EXPECT_EQ(p.n_layers, 2u);
  EXPECT_EQ(p.d_model, 32u);
  EXPECT_EQ(p.d_ff, 48u);
  EXPECT_EQ(p.context, 64u);
  EXPECT_EQ(p.vocab, 10u);
  EXPECT_EQ(p.n_heads, 4u);
  EXPECT_EQ(p.n_kv_heads, 4u);
  EXPECT_EQ(p.head_dim, 8u);
  EXPECT_EQ(p.attention_scale, 1 / std::sqrt(8.0));
  EXPECT_EQ(p.window, 0u);
  EXPECT_EQ(p.rope.scaling, RopeScaling::none);
  EXPECT_EQ(p.rope.n_rot, 8u);
  EXPECT_EQ(p.rope.theta, 10000.0);
  EXPECT_TRUE(p.tied_embeddings);
  EXPECT_EQ(p.name, "");
  EXPECT_EQ(parameters({{"general.name", Value{std::string_view("small one")}}}).name, "small one");
  refused({{"general.name", Value{1u}}}, "general.name", "");
  refused({{"x.rope.freq_base", {}}}, "x.rope.freq_base", "is missing");
  refused({{"x.rope.dimension_count", {}}}, "x.rope.dimension_count", "is missing");
  const DecoderConventions lenient{.rope = RopeConventions{.theta_if_absent = 500.0, .n_rot_is_head_dim_if_absent = true}};
  const HyperParameters without = parameters({{"x.rope.freq_base", {}}, {"x.rope.dimension_count", {}}}, lenient);
  EXPECT_EQ(without.rope.theta, 500.0);
  EXPECT_EQ(without.rope.n_rot, 8u);
  EXPECT_EQ(parameters({}, lenient).rope.theta, 10000.0);
  // An architecture without rotation does not read its keys.
  EXPECT_TRUE(read({{"x.rope.freq_base", {}}, {"x.rope.dimension_count", {}}}, {}));
}

TEST(DecoderKeys, CountsHaveBounds) {
  struct Case {
    const char* key;
    std::uint32_t most;
  };
  for (const auto& [key, most] : {Case{"x.embedding_length", 1u << 22}, Case{"x.feed_forward_length", 1u << 22},
                                  Case{"x.context_length", 1u << 30}, Case{"x.vocab_size", 1u << 26}}) {
    EXPECT_TRUE(read({{key, Value{most}}})) << key;
    refused({{key, Value{most + 1}}}, key, "expected 1 to " + std::to_string(most));
    refused({{key, Value{0u}}}, key, "is 0; expected 1 to");
    refused({{key, Value{-1}}}, key, "");
    refused({{key, Value{1.0f}}}, key, "");
  }
  EXPECT_TRUE(read({{"x.feed_forward_length", Value{1u}}}));
  EXPECT_TRUE(read({{"x.context_length", Value{1u}}}));
  EXPECT_TRUE(read({{"x.vocab_size", Value{1u}}}));
  refused({{"x.block_count", Value{0u}}}, "x.block_count", "expected 1 to 1024");
  refused({{"x.block_count", Value{1025u}}}, "x.block_count", "expected 1 to 1024");
  refused({{"x.block_count", Value{1024u}}}, "x.block_count", "the file has only 3 tensors");
  refused({{"x.block_count", Value{4u}}}, "x.block_count", "the file has only 3 tensors");
  EXPECT_EQ(parameters({{"x.block_count", Value{3u}}}).n_layers, 3u);
}

TEST(DecoderKeys, TheVocabularyIsStatedOrListed) {
  static const std::vector<std::string_view> three{"a", "b", "c"}, none;
  const Value tokens = gguf::array_of(three);
  const std::string list = "tokenizer.ggml.tokens";
  EXPECT_EQ(parameters({{list, tokens}, {"x.vocab_size", {}}}).vocab, 3u);
  EXPECT_EQ(parameters({{list, tokens}, {"x.vocab_size", Value{3u}}}).vocab, 3u);
  refused({{list, tokens}, {"x.vocab_size", Value{2u}}}, "x.vocab_size",
          "is 2, but 'tokenizer.ggml.tokens' lists 3 tokens");
  refused({{list, tokens}, {"x.vocab_size", Value{4u}}}, "x.vocab_size",
          "is 4, but 'tokenizer.ggml.tokens' lists 3 tokens");
  refused({{list, gguf::array_of(none)}}, list, "lists 0 tokens");
  refused({{"x.vocab_size", {}}}, "x.vocab_size", "the size of the vocabulary is unknown");
}

TEST(DecoderKeys, HeadsDivideTheEmbedding) {
  const std::string heads = "x.attention.head_count", kv = "x.attention.head_count_kv", key = "x.attention.key_length",
                    value = "x.attention.value_length";
  for (const unsigned n : {1u, 2u, 4u}) EXPECT_EQ(parameters({{kv, Value{n}}}).n_kv_heads, n);
  for (const unsigned n : {3u, 5u, 8u}) refused({{kv, Value{n}}}, kv, "expected a divisor of the 4 query heads");
  refused({{kv, Value{0u}}}, kv, "expected 1 to 65536");
  refused({{heads, Value{0u}}}, heads, "expected 1 to 65536");
  refused({{heads, Value{65537u}}}, heads, "expected 1 to 65536");
  refused({{heads, Value{65536u}}}, heads, "no divisor of the embedding length");
  refused({{heads, Value{3u}}}, heads, "no divisor of the embedding length");
  EXPECT_EQ(parameters({{heads, Value{3u}}, {key, Value{8u}}, {value, Value{8u}}}).head_dim, 8u);
  refused({{heads, Value{3u}}, {key, Value{8u}}}, heads, "no divisor of the embedding length");
  refused({{heads, Value{3u}}, {value, Value{8u}}}, heads, "no divisor of the embedding length");
  EXPECT_EQ(parameters({{key, Value{16u}}, {value, Value{16u}}}).head_dim, 16u);
  EXPECT_EQ(parameters({{key, Value{8u}}}).head_dim, 8u);
  refused({{key, Value{16u}}}, value, "makes values of 8 components, keys having 16");
  refused({{value, Value{16u}}}, value, "makes values of 16 components, keys having 8");
  refused({{key, Value{0u}}}, key, "expected 1 to");
  const std::uint32_t most = 1u << 20;  // of a head, where four heads have 2^22 components
  EXPECT_EQ(parameters({{key, Value{most}}, {value, Value{most}}}).head_dim, most);
  refused({{key, Value{most + 1}}, {value, Value{most + 1}}}, heads, "more than 4194304 together");
}

TEST(DecoderKeys, NumbersHaveBounds) {
  struct Case {
    const char* key;
    double least, most;
  };
  for (const auto& [key, least, most] :
       {Case{"x.attention.layer_norm_rms_epsilon", 1e-12, 0.1}, Case{"x.attention.scale", 1e-9, 1e3},
        Case{"x.rope.freq_base", 1, 1e12}, Case{"x.rope.scale_linear", 1, 1e6}}) {
    SCOPED_TRACE(key);
    EXPECT_TRUE(read({{key, Value{least}}}));
    EXPECT_TRUE(read({{key, Value{most}}}));
    for (const double wrong : {std::nextafter(least, -1.0), std::nextafter(most, 1e300), 0.0, -least, std::nan(""),
                               std::numeric_limits<double>::infinity()})
      refused({{key, Value{wrong}}}, key, "expected");
  }
  EXPECT_EQ(parameters({{"x.attention.layer_norm_rms_epsilon", Value{1e-6}}}).norm_eps, 1e-6);
  EXPECT_EQ(parameters({{"x.attention.scale", Value{0.5}}}).attention_scale, 0.5);
  DecoderConventions other = usual;
  other.norm_kind = plan::NormKind::layer;
  refused({}, "x.attention.layer_norm_epsilon", "", other);
  EXPECT_EQ(parameters({{"x.attention.layer_norm_epsilon", Value{1e-3}}}, other).norm_eps, 1e-3);
}

TEST(DecoderKeys, AWindowIsSmallerThanTheContext) {
  const std::string key = "x.attention.sliding_window";
  EXPECT_EQ(parameters({{key, Value{1u}}}).window, 1u);
  EXPECT_EQ(parameters({{key, Value{63u}}}).window, 63u);
  for (const unsigned no_window : {0u, 64u, 65u, 0xffffffffu}) {
    EXPECT_EQ(parameters({{key, Value{no_window}}}).window, 0u);
    EXPECT_TRUE(read({{key, Value{no_window}}}, {}));
  }
  refused({{key, Value{63u}}}, key, "a sliding window is not supported", {});
}

TEST(DecoderKeys, RotateAnEvenNumberOfComponents) {
  const std::string key = "x.rope.dimension_count";
  for (const unsigned n : {2u, 4u, 6u, 8u}) EXPECT_EQ(parameters({{key, Value{n}}}).rope.n_rot, n);
  for (const unsigned n : {1u, 7u, 9u, 10u}) refused({{key, Value{n}}}, key, "expected an even number up to the head's 8");
  refused({{key, Value{0u}}}, key, "expected 1 to");
}

TEST(DecoderKeys, ScaleRotations) {
  const std::string type = "x.rope.scaling.type", factor = "x.rope.scaling.factor", old = "x.rope.scale_linear",
                    original = "x.rope.scaling.original_context_length";
  const auto named = [](std::string_view name) { return std::optional(Value{name}); };
  refused({{factor, Value{2.0}}}, type, "is missing although");
  EXPECT_EQ(parameters({{old, Value{1.0}}}).rope.scaling, RopeScaling::none);
  EXPECT_EQ(parameters({{old, Value{4.0}}}).rope.scaling, RopeScaling::linear);
  EXPECT_EQ(parameters({{old, Value{4.0}}}).rope.factor, 4.0);
  EXPECT_EQ(parameters({{type, named("none")}, {factor, Value{1.0}}}).rope.scaling, RopeScaling::none);
  for (const std::string& key : {factor, old})
    refused({{type, named("none")}, {key, Value{2.0}}}, key, "is 2, but 'rope.scaling.type' is none");
  refused({{type, named("dynamic")}}, type, "is 'dynamic'; expected none, linear or yarn");
  refused({{type, named("")}}, type, "expected none, linear or yarn");
  refused({{type, named("linear")}}, factor, "is missing; scaling of type linear needs it");
  refused({{type, named("yarn")}}, factor, "is missing; scaling of type yarn needs it");
  refused({{type, named("linear")}, {factor, Value{0.5}}}, factor, "expected 1 to");
  refused({{type, named("linear")}, {factor, Value{1e6 + 1}}}, factor, "expected 1 to");
  refused({{type, named("linear")}, {factor, Value{2.0}}, {old, Value{4.0}}}, old, "is 4, but 'rope.scaling.factor' is 2");
  EXPECT_EQ(parameters({{type, named("linear")}, {factor, Value{2.0}}, {old, Value{2.0}}}).rope.factor, 2.0);
  EXPECT_EQ(parameters({{type, named("linear")}, {factor, Value{1e6}}}).rope.factor, 1e6);
  EXPECT_FALSE(parameters({{type, named("linear")}, {factor, Value{2.0}}}).rope.yarn);

  // The magnitude applies with and without scaling; what only YaRN can apply is refused elsewhere unless it is neutral.
  const std::string attn = "x.rope.scaling.attn_factor", ext = "x.rope.scaling.yarn_ext_factor";
  EXPECT_EQ(parameters({}).rope.magnitude, 1.0);
  for (const std::map<std::string, std::optional<Value>>& values : {std::map<std::string, std::optional<Value>>{},
                                                                    {{type, named("none")}},
                                                                    {{type, named("linear")}, {factor, Value{2.0}}}}) {
    auto with_magnitude = values, with_neutral = values, with_odd = values, with_beta = values;
    with_magnitude[attn] = Value{1.3};
    EXPECT_EQ(parameters(with_magnitude).rope.magnitude, 1.3);
    with_neutral[ext] = Value{0.0};
    with_neutral["x.rope.scaling.yarn_attn_factor"] = Value{1.0};
    with_neutral["x.rope.scaling.finetuned"] = Value{true};
    with_neutral[original] = Value{32u};
    EXPECT_TRUE(read(with_neutral));
    with_odd[ext] = Value{1.0};
    refused(with_odd, ext, "is set, but 'x.rope.scaling.type' is not yarn");
    with_beta["x.rope.scaling.yarn_beta_fast"] = Value{32.0};
    refused(with_beta, "x.rope.scaling.yarn_beta_fast", "is not yarn");
  }
  refused({{"x.rope.scaling.low_freq_factor", Value{1.0}}}, "x.rope.scaling.low_freq_factor", "does not know it");

  const Values yarn{{type, named("yarn")}, {factor, Value{4.0}}, {original, Value{16u}}};
  const auto with = [&](const std::string& key, std::optional<Value> value) {
    Values values = yarn;
    values[key] = value;
    return values;
  };
  const RopeParameters rope = parameters(yarn).rope;
  EXPECT_EQ(rope.scaling, RopeScaling::yarn);
  EXPECT_EQ(rope.factor, 4.0);
  ASSERT_TRUE(rope.yarn);
  EXPECT_EQ(rope.yarn->factor, 4.0f);
  EXPECT_EQ(rope.yarn->original_context, 16.0f);
  EXPECT_EQ(rope.yarn->beta_fast, 32.0f);
  EXPECT_EQ(rope.yarn->beta_slow, 1.0f);
  EXPECT_EQ(rope.yarn->extrapolation_mix, 1.0f);
  EXPECT_EQ(rope.magnitude, 0.1 * std::log(4.0) + 1);
  refused(with(original, {}), original, "");
  refused(with(original, Value{0u}), original, "expected 1 to");
  refused(with(original, Value{65u}), original, "is 65, more than the context length 64");
  EXPECT_EQ(parameters(with(original, Value{64u})).rope.yarn->original_context, 64.0f);

  struct Case {
    const char* key;
    float plan::Yarn::*field;
    double least, most, some;
  };
  const double magnitude = 0.1 * std::log(4.0) + 1;
  for (const auto& [name, field, least, most, some] :
       {Case{"yarn_beta_fast", &plan::Yarn::beta_fast, 1e-3, 1e6, 20},
        Case{"yarn_beta_slow", &plan::Yarn::beta_slow, 1e-3, 1e6, 2},
        Case{"yarn_ext_factor", &plan::Yarn::extrapolation_mix, 0, 1, 0.5}, Case{"attn_factor", nullptr, 1e-3, 1e3, 2},
        Case{"yarn_attn_factor", nullptr, 1e-3, 1e3, 3}}) {
    const std::string key = std::string("x.rope.scaling.") + name;
    SCOPED_TRACE(key);
    const RopeParameters some_rope = parameters(with(key, Value{some})).rope;
    if (field != nullptr) {
      EXPECT_EQ(*some_rope.yarn.*field, static_cast<float>(some));
    } else {
      EXPECT_EQ(some_rope.magnitude, std::string_view(name) == "attn_factor" ? some * magnitude : some);
    }
    for (const double wrong : {std::nextafter(least, -1.0), std::nextafter(most, 1e300), std::nan("")})
      refused(with(key, Value{wrong}), key, "expected");
    const bool is_beta = std::string_view(name).find("beta") != std::string_view::npos;
    if (!is_beta) {
      EXPECT_TRUE(read(with(key, Value{least})));
      EXPECT_TRUE(read(with(key, Value{most})));
    }
  }
  const std::string fast = "x.rope.scaling.yarn_beta_fast", slow = "x.rope.scaling.yarn_beta_slow";
  refused(with(fast, Value{1.0}), fast, "is 1, not above");
  refused(with(fast, Value{0.5}), fast, "is 0.5, not above");
  refused(with(slow, Value{32.0}), fast, "is 32, not above");
  EXPECT_TRUE(read(with(fast, Value{1.001})));
  EXPECT_TRUE(read(with(slow, Value{1e-3})));
  EXPECT_TRUE(read(with(fast, Value{1e6})));
}

TEST(DecoderKeys, AreAllReadPastComplaints) {
  const auto of = [](const Values& changes) { return complaints(changes); };
  EXPECT_THAT(of({}), IsEmpty());
  // What follows from a key that is wrong is not known, and no complaint.
  EXPECT_THAT(of({{"x.embedding_length", Value{0u}}, {"x.attention.head_count", Value{-1}}}),
              ElementsAre(HasSubstr("x.embedding_length"), HasSubstr("x.attention.head_count")));
  EXPECT_THAT(of({{"x.attention.key_length", Value{0u}}, {"x.attention.value_length", Value{16u}}}),
              ElementsAre(HasSubstr("x.attention.key_length")));
  EXPECT_THAT(of({{"x.context_length", Value{0u}}, {"x.attention.sliding_window", Value{9u}}}),
              ElementsAre(HasSubstr("x.context_length")));
  EXPECT_THAT(of({{"x.rope.scaling.type", Value{1u}}, {"x.rope.scaling.factor", Value{2.0}}}),
              ElementsAre(HasSubstr("x.rope.scaling.type")));
  EXPECT_THAT(of({{"x.rope.scaling.type", Value{std::string_view("linear")}},
                  {"x.rope.scaling.factor", Value{0.5}},
                  {"x.rope.scale_linear", Value{2.0}}}),
              ElementsAre(HasSubstr("x.rope.scaling.factor")));
  EXPECT_THAT(
      of({{"x.block_count", Value{9u}},
          {"x.vocab_size", {}},
          {"x.attention.head_count_kv", Value{3u}},
          {"x.rope.freq_base", {}},
          {"x.rope.dimension_count", Value{7u}},
          {"x.rope.scaling.a", Value{1.0}},
          {"x.rope.scaling.b", Value{1.0}},
          {"x.logit_scale", Value{2.0f}},
          {"x.clamp", Value{1u}},
          {"x.expert_count", Value{1u}}}),
      ElementsAre(HasSubstr("x.expert_count"), HasSubstr("x.logit_scale"), HasSubstr("x.block_count"),
                  HasSubstr("x.vocab_size"), HasSubstr("x.attention.head_count_kv"), HasSubstr("x.rope.dimension_count"),
                  HasSubstr("x.rope.freq_base"), HasSubstr("x.rope.scaling.a"), HasSubstr("x.rope.scaling.b")));
}

TEST(DecoderKeys, OfWhatIsNotSupportedMustBeNeutral) {
  for (const char* name :
       {"expert_count", "expert_used_count", "attention.max_alibi_bias", "attention.clamp_kqv",
        "attention.temperature_scale", "attention.sliding_window_pattern", "attn_logit_softcapping",
        "final_logit_softcapping", "nextn_predict_layers", "rope.scaling.yarn_log_multiplier", "use_parallel_residual"}) {
    const std::string key = std::string("x.") + name;
    for (const Value& neutral : {Value{0u}, Value{0.0f}, Value{false}}) EXPECT_TRUE(read({{key, neutral}})) << key;
    for (const Value& odd : {Value{1u}, Value{0.5f}, Value{true}, Value{std::string_view("")}})
      refused({{key, odd}}, key, "is set, but ");
  }
  for (const char* name : {"logit_scale", "embedding_scale", "residual_scale"}) {
    const std::string key = std::string("x.") + name;
    for (const Value& neutral : {Value{0.0f}, Value{1.0f}}) EXPECT_TRUE(read({{key, neutral}})) << key;
    for (const Value& odd : {Value{0.5f}, Value{2.0f}}) refused({{key, odd}}, key, "is set, but ");
  }
  EXPECT_TRUE(read({{"x.attention.causal", Value{true}}}));
  refused({{"x.attention.causal", Value{false}}}, "x.attention.causal", "is false");
  refused({{"x.attention.causal", Value{0u}}}, "x.attention.causal", "is false");
  refused({{"x.attention.causal", Value{2u}}}, "x.attention.causal", "must be a bool");
}

}  // namespace
}  // namespace plumb::model
