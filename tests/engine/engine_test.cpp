// Generation, step by step, with the canary: where an answer ends, what is shown of it and when, and what the cache holds.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "engine/canary.h"
#include "gguf/writer.h"

namespace plumb::engine {
namespace {

constexpr TokenId bos = 1, eos = 2, space = 280;
constexpr float banned = -std::numeric_limits<float>::infinity();

std::unique_ptr<Engine> load(const EngineSettings& settings = {.backend = "cpu", .n_threads = 1}) {
  auto engine = Engine::load(gguf::File::from_memory(canary_bytes(), "canary").value(), settings);
  EXPECT_TRUE(engine.has_value()) << engine.error().message;
  return std::move(*engine);
}

// The canary's file with changes. `bytes` holds what the file shows.
template <class Change>
gguf::File changed_canary(const Change& change, std::vector<std::byte>& bytes) {
  const gguf::File canary = gguf::File::from_memory(canary_bytes(), "canary").value();
  gguf::Writer writer;
  for (const auto& [key, value] : canary.metadata()) writer.set(std::string(key), value);
  for (const auto& tensor : canary.tensors())
    writer.add_tensor(std::string(tensor.name), tensor.format, std::span(tensor.dims).first(tensor.n_dims), tensor.data);
  change(writer, canary);
  bytes = writer.to_memory().value();
  return gguf::File::from_memory(bytes, "changed").value();
}

std::string error_of(const auto& result) { return result ? "" : result.error().message; }

class Generation : public testing::Test {
 protected:
  // An answer to a message, always with the likeliest token. `pieces` are the texts that were shown, one after the other.
  Completion answer(GenerateOptions options, std::string_view message = "hello world") {
    return complete(*engine_->chat_tokens(conversation("", message)), std::move(options), 200);
  }

  Completion complete(const std::vector<TokenId>& prompt, GenerateOptions options, std::uint32_t capacity) {
    options.sampler.temperature = 0;
    pieces_.clear();
    cache_ = std::move(*engine_->executor().new_cache(capacity, backends::KvType::f32));
    auto completion = engine_->generate(*cache_, prompt, options, [&](std::string_view piece) {
      pieces_.emplace_back(piece);
      return pieces_.size() != refused_piece_;
    });
    EXPECT_TRUE(completion.has_value()) << completion.error().message;
    return std::move(*completion);
  }

  // Settings with which no answer ends by itself.
  static GenerateOptions endless() {
    GenerateOptions options;
    options.sampler.logit_bias = {{eos, banned}};
    return options;
  }

  std::unique_ptr<Engine> engine_ = load();
  std::unique_ptr<backends::KvCache> cache_;
  std::vector<std::string> pieces_;
  std::size_t refused_piece_ = 0;
};

TEST_F(Generation, EndsBeforeTheFirstStopTextWhateverTheirOrder) {
  using Texts = std::vector<std::string>;
  const struct {
    Texts stop;
    std::string text;
    Texts pieces;
  } cases[] = {
      {{}, "hello world", {"h", "e", "l", "l", "o", " ", "w", "o", "r", "l", "d"}},
      {{"world"}, "hello ", {"h", "e", "l", "l", "o", " "}},
      {{"h"}, "", {}},
      {{"d"}, "hello worl", {"h", "e", "l", "l", "o", " ", "w", "o", "r", "l"}},
      {{"lo", "wor"}, "hel", {"h", "e", "l"}},
      {{"wor", "lo"}, "hel", {"h", "e", "l"}},
      // Both are complete with the same token.
      {{"lo", "o"}, "hel", {"h", "e", "l"}},
      {{"o", "lo"}, "hel", {"h", "e", "l"}},
      {{"x", "hello"}, "", {}},
      // Text that may begin a stop text waits until it is known not to.
      {{"lx"}, "hello world", {"h", "e", "l", "lo", " ", "w", "o", "r", "ld"}},
      {{"lx", "elly"}, "hello world", {"h", "ello", " ", "w", "o", "r", "ld"}},
      {{"elly", "lx"}, "hello world", {"h", "ello", " ", "w", "o", "r", "ld"}},
      {{"ld!"}, "hello world", {"h", "e", "l", "lo", " ", "w", "o", "r", "ld"}},
      {{"hello world!"}, "hello world", {"hello world"}},
      {{"hello world, and more"}, "hello world", {"hello world"}},
  };
  for (const auto& [stop, text, pieces] : cases) {
    GenerateOptions options;
    options.stop = stop;
    const Completion completion = answer(options);
    EXPECT_EQ(completion.text, text);
    EXPECT_EQ(pieces_, pieces) << testing::PrintToString(stop);
    EXPECT_EQ(completion.reason == StopReason::stop_text, text != "hello world") << testing::PrintToString(stop);
    EXPECT_EQ(completion.reason == StopReason::end_of_generation, text == "hello world") << testing::PrintToString(stop);
  }
  GenerateOptions options;
  options.stop = {"x", ""};
  EXPECT_NE(error_of(engine_->generate(*cache_, std::vector<TokenId>{bos}, options)).find("must not be empty"),
            std::string::npos);
}

TEST_F(Generation, EndsAtTheTokenLimit) {
  const std::size_t whole = answer({}).tokens.size();
  EXPECT_EQ(whole, 12U);  // the letters and the end
  for (std::uint32_t limit = 1; limit <= whole + 1; ++limit) {
    const Completion completion = answer({.max_tokens = limit, .sampler = {}, .stop = {}});
    EXPECT_EQ(completion.tokens.size(), std::min<std::size_t>(limit, whole));
    EXPECT_EQ(completion.text, std::string_view("hello world").substr(0, limit));
    EXPECT_EQ(completion.reason, limit < whole ? StopReason::max_tokens : StopReason::end_of_generation) << limit;
  }
}

TEST_F(Generation, TheFirstTokenMayEndIt) {
  GenerateOptions options;
  options.sampler.logit_bias = {{eos, 1e6F}};
  const Completion completion = answer(options);
  EXPECT_EQ(completion.reason, StopReason::end_of_generation);
  EXPECT_EQ(completion.tokens.size(), 1U);
  EXPECT_EQ(completion.text, "");
}

TEST_F(Generation, EndsWhereTheContextIsFull) {
  const auto prompt = *engine_->chat_tokens(conversation("", "hello"));
  const auto n = static_cast<std::uint32_t>(prompt.size());
  for (const std::uint32_t room : {0U, 1U, 2U, 9U}) {
    const Completion completion = complete(prompt, endless(), n + room);
    EXPECT_EQ(completion.reason, StopReason::context_full);
    EXPECT_EQ(completion.tokens.size(), room + 1);  // the last token needs no place
    EXPECT_EQ(cache_->length(), n + room);
  }
}

TEST_F(Generation, EndsWhereTheReaderSaysSo) {
  for (const std::size_t last : {1U, 3U}) {
    refused_piece_ = last;
    const Completion completion = answer({});
    EXPECT_EQ(completion.reason, StopReason::interrupted);
    EXPECT_EQ(completion.tokens.size(), last);
  }
  const std::pair<StopReason, std::string_view> names[] = {{StopReason::end_of_generation, "end of generation"},
                                                           {StopReason::stop_text, "stop text"},
                                                           {StopReason::max_tokens, "token limit"},
                                                           {StopReason::context_full, "context full"},
                                                           {StopReason::interrupted, "interrupted"}};
  for (const auto& [reason, text] : names) EXPECT_EQ(name(reason), text);
}

TEST_F(Generation, APromptMayLieInTheCacheInPart) {
  const auto prompt = *engine_->chat_tokens(conversation("", "upper cat"));
  for (std::size_t cached = 0; cached < prompt.size(); cached += 5) {
    const auto cache = std::move(*engine_->new_cache());
    if (cached > 0) {
      ASSERT_TRUE(engine_->prefill(*cache, std::span(prompt).first(cached)));
    }
    GenerateOptions options;
    options.sampler.temperature = 0;
    const auto completion = engine_->generate(*cache, std::span(prompt).subspan(cached), options);
    ASSERT_TRUE(completion) << completion.error().message;
    EXPECT_EQ(completion->text, "CAT");
    EXPECT_EQ(completion->n_prompt, prompt.size() - cached);
    EXPECT_EQ(cache->length(), prompt.size() + completion->tokens.size() - 1);
  }
}

TEST_F(Generation, TheFirstTokensSpaceIsNoPartOfTheText) {
  GenerateOptions options{.max_tokens = 3, .sampler = {}, .stop = {}};
  options.sampler.logit_bias = {{space, 1e6F}};
  const Completion completion = complete({bos}, options, 8);
  EXPECT_EQ(completion.text, "  ");
  EXPECT_EQ(completion.tokens[0].text, "");
  EXPECT_EQ(completion.tokens[1].text, " ");
}

TEST_F(Generation, PenaltiesCountThePromptAndTheAnswer) {
  GenerateOptions options = endless();
  options.max_tokens = 12;
  options.sampler.presence_penalty = 1000;
  options.sampler.repeat_last_n = -1;
  const auto prompt = *engine_->chat_tokens(conversation("", "hello"));
  const Completion completion = complete(prompt, options, 100);
  std::set<TokenId> seen(prompt.begin(), prompt.end());
  for (const auto& token : completion.tokens) EXPECT_TRUE(seen.insert(token.id).second) << token.text;
}

TEST_F(Generation, LogprobsAreThoseOfTheLogits) {
  const auto prompt = *engine_->chat_tokens(conversation("", "hello"));
  const Completion plain = complete(prompt, {}, 100);
  EXPECT_TRUE(plain.tokens[0].top.empty());
  GenerateOptions options;
  options.n_logprobs = 375;
  const Completion completion = complete(prompt, options, 100);
  const auto cache = std::move(*engine_->new_cache());
  const auto logits = *engine_->prefill(*cache, prompt);
  const GeneratedToken& first = completion.tokens[0];
  double sum = 0;
  for (const auto& [id, logprob] : first.top) sum += std::exp(logprob);
  EXPECT_NEAR(sum, 1, 1e-9);
  ASSERT_EQ(first.top.size(), 375U);
  EXPECT_EQ(first.id, first.top[0].id);
  EXPECT_EQ(first.logprob, first.top[0].logprob);
  const auto logit = [&](TokenId id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]); };
  EXPECT_NEAR(first.top[0].logprob - first.top[7].logprob, logit(first.top[0].id) - logit(first.top[7].id), 0.05);
  options.n_logprobs = 2;
  EXPECT_EQ(complete(prompt, options, 100).tokens[1].top.size(), 2U);
}

TEST_F(Generation, APrefillThatFailsLeavesTheCacheAsItWas) {
  const auto cache = std::move(*engine_->executor().new_cache(700, backends::KvType::f16));
  EXPECT_NE(error_of(engine_->prefill(*cache, {})).find("no tokens"), std::string::npos);
  ASSERT_TRUE(engine_->prefill(*cache, std::vector<TokenId>{bos, 300, 301}));
  // Each fails in the second batch.
  std::vector<TokenId> too_many(698, 300), unknown(600, 300);
  unknown.back() = 375;
  ASSERT_GT(unknown.size(), engine_->executor().max_batch());
  for (const auto& tokens : {too_many, unknown}) {
    EXPECT_FALSE(engine_->prefill(*cache, tokens));
    EXPECT_EQ(cache->length(), 3U);
  }
  EXPECT_TRUE(engine_->prefill(*cache, std::span(too_many).first(697)));
  EXPECT_EQ(cache->length(), 700U);
}

TEST_F(Generation, APromptThatHasNoRoomIsRefusedBeforeItRuns) {
  const auto cache = std::move(*engine_->executor().new_cache(8, backends::KvType::f16));
  const std::vector<TokenId> prompt(10, 300);
  const auto refused = engine_->generate(*cache, prompt, {.max_tokens = 5, .sampler = {.temperature = 0}});
  EXPECT_EQ(error_of(refused),
            "the prompt has 10 tokens, and the context has room for 8; -c 15 is enough for it and an answer");
  EXPECT_NE(error_of(engine_->prefill(*cache, prompt)).find("-c 266"), std::string::npos);
  EXPECT_EQ(cache->length(), 0U);
  ASSERT_TRUE(engine_->prefill(*cache, std::span(prompt).first(6)));
  EXPECT_NE(error_of(engine_->prefill(*cache, prompt)).find("room for 2 of its 8 positions; -c 272"), std::string::npos);
}

TEST_F(Generation, AnInterruptEndsItBetweenBatchesAndTokens) {
  const auto cache = std::move(*engine_->executor().new_cache(2000, backends::KvType::f16));
  int n_asked = 0;
  const GenerateOptions options{.sampler = {.temperature = 0}, .interrupted = [&] { return ++n_asked > 1; }};
  const auto in_prompt = engine_->generate(*cache, std::vector<TokenId>(1500, 300), options);
  ASSERT_TRUE(in_prompt) << error_of(in_prompt);
  EXPECT_EQ(in_prompt->reason, StopReason::interrupted);
  EXPECT_TRUE(in_prompt->tokens.empty());
  EXPECT_EQ(cache->length(), 0U);
  n_asked = 0;
  const auto in_answer = engine_->generate(*cache, std::vector<TokenId>(3, 300), options);
  ASSERT_TRUE(in_answer) << error_of(in_answer);
  EXPECT_EQ(in_answer->reason, StopReason::interrupted);
  EXPECT_EQ(in_answer->tokens.size(), 1U);
}

TEST(EngineLoad, WarnsOfAContextBeyondTheModels) {
  const auto warnings = [](std::uint32_t context) {
    std::vector<std::byte> bytes;
    gguf::File file = changed_canary([](gguf::Writer&, const gguf::File&) {}, bytes);
    return (*Engine::load(std::move(file), {.backend = "cpu", .n_threads = 1, .context = context}))->warnings();
  };
  EXPECT_TRUE(warnings(256).empty());
  ASSERT_EQ(warnings(257).size(), 1U);
  EXPECT_NE(warnings(257)[0].find("257 positions is longer than the 256"), std::string::npos);
}

TEST(EngineLoad, DescribesTheBackendAsItRuns) {
  std::vector<std::byte> bytes;
  gguf::File file = changed_canary([](gguf::Writer&, const gguf::File&) {}, bytes);
  const auto engine = Engine::load(std::move(file), {.backend = "cpu", .n_threads = 3});
  EXPECT_EQ((*engine)->executor().n_threads(), 3U);
  EXPECT_NE((*engine)->description().find(", 3 threads"), std::string::npos);
}

TEST(EngineLoad, TheContextIsTheModelsButAtMost4096UnlessItIsGiven) {
  const struct {
    std::uint32_t model, given, used;
  } cases[] = {{256, 0, 256}, {4096, 0, 4096}, {4097, 0, 4096}, {256, 1, 1}, {256, 8000, 8000}};
  for (const auto& [model, given, used] : cases) {
    std::vector<std::byte> bytes;
    gguf::File file = changed_canary(
        [context = model](gguf::Writer& writer, const gguf::File&) { writer.set("llama.context_length", context); }, bytes);
    const auto engine = Engine::load(std::move(file), {.backend = "cpu", .n_threads = 1, .context = given});
    ASSERT_TRUE(engine) << engine.error().message;
    EXPECT_EQ((*engine)->context(), used);
    EXPECT_EQ((*(*engine)->new_cache())->capacity(), used);
    EXPECT_EQ((*(*engine)->new_caches(2))[1]->capacity(), used);
  }
}

TEST(EngineLoad, CachesHaveTheTypeThatIsAskedFor) {
  for (const auto type : {backends::KvType::f16, backends::KvType::f32}) {
    const auto engine = load({.backend = "cpu", .n_threads = 1, .kv_type = type});
    EXPECT_EQ((*engine->new_cache())->pool().type, type);
    EXPECT_EQ((*engine->new_caches(2))[1]->pool().type, type);
  }
}

TEST(EngineLoad, MoreTokensThanLogitsAreRefused) {
  for (const std::size_t n_more : {0U, 1U}) {
    std::vector<std::byte> bytes;
    // The writer keeps views of these.
    decltype(gguf::Array::strings) pieces;
    std::vector<float> scores;
    std::vector<std::int32_t> types;
    gguf::File file = changed_canary(
        [&](gguf::Writer& writer, const gguf::File& canary) {
          pieces = (*canary.get_array("tokenizer.ggml.tokens", gguf::ValueType::string))->strings;
          pieces.resize(pieces.size() + n_more, "another");
          scores.assign(pieces.size(), -1);
          types.assign(pieces.size(), 1);
          writer.set("tokenizer.ggml.tokens", gguf::array_of(pieces));
          writer.set("tokenizer.ggml.scores", gguf::array_of(scores));
          writer.set("tokenizer.ggml.token_type", gguf::array_of(types));
        },
        bytes);
    const auto engine = Engine::load(std::move(file), {.backend = "cpu", .n_threads = 1});
    EXPECT_EQ(engine.has_value(), n_more == 0) << error_of(engine);
  }
}

TEST(ChatTokens, HaveOneBeginningAndTheTemplatesSpecialTokens) {
  const auto tokenizer = text::Tokenizer::load(gguf::File::from_memory(canary_bytes(), "canary").value()).value();
  const TokenId x = *tokenizer.find("x");
  const std::pair<std::string_view, std::vector<TokenId>> cases[] = {
      {"x{{ eos_token }}", {bos, space, x, eos}},
      {"{{ bos_token }}x", {bos, space, x}},
      {"{{ bos_token }}{{ bos_token }}x", {bos, bos, space, x}},
      {"{{ messages[0].role }}", {}},
  };
  for (const auto& [source, tokens] : cases) {
    const auto made = chat_tokens(tokenizer, *text::ChatTemplate::parse(source), conversation("", "hi"));
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_EQ(*made, tokens.empty() ? *tokenizer.encode("user") : tokens) << source;
  }
  EXPECT_EQ(conversation("", "hi").dump(), R"([{"role":"user","content":"hi"}])");
  EXPECT_EQ(conversation("be", "hi").dump(), R"([{"role":"system","content":"be"},{"role":"user","content":"hi"}])");
}

}  // namespace
}  // namespace plumb::engine
