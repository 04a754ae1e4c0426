// The C++ library, with the canary: conversations, settings, tokens, states, threads.
#include "plumb/plumb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <span>
#include <thread>

#include "engine/canary.h"
#include "engine/engine.h"
#include "gguf/writer.h"

namespace plumb {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const Settings likeliest{.temperature = 0};
constexpr double infinity = std::numeric_limits<double>::infinity();

Model canary(const ModelOptions& options = {.backend = "cpu", .threads = 1}) { return Model::open("canary", options); }

std::string error_of(const auto& work) {
  try {
    work();
  } catch (const Exception& error) {
    return error.what();
  }
  return "no error";
}

std::vector<Token> ids_of(const Answer& answer) {
  std::vector<Token> ids;
  for (const AnswerToken& token : answer.tokens) ids.push_back(token.id);
  return ids;
}

// A file's path in a folder of its own, which goes with the object.
class Scratch {
 public:
  Scratch() : folder_(std::filesystem::temp_directory_path() / ("plumb_api_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string file(const std::string& name) const { return (folder_ / name).string(); }

 private:
  std::filesystem::path folder_;
};

std::string content_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void write(const std::string& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

// The canary with another template, and with recommendations.
void write_canary(const std::string& path) {
  const auto canary = gguf::File::from_memory(engine::canary_bytes(), "canary").value();
  gguf::Writer writer;
  for (const auto& [key, value] : canary.metadata()) writer.set(std::string(key), value);
  writer.set("tokenizer.chat_template",
             std::string_view("<|user|>\n{{ word }}{{ messages[-1].content }}</s>\n<|assistant|>{{ '\\n' }}"));
  writer.set("general.sampling.temp", 0.0F);
  writer.set("general.sampling.top_k", std::int32_t{7});
  for (const gguf::Tensor& tensor : canary.tensors()) {
    writer.add_tensor(std::string(tensor.name), tensor.format, std::span(tensor.dims).first(tensor.n_dims), tensor.data);
  }
  ASSERT_TRUE(writer.write(path));
}

TEST(Library, AnswersAPrompt) {
  std::string pieces;
  const Answer answer = canary().ask("hello world", likeliest, [&](std::string_view text) {
    pieces += text;
    return true;
  });
  EXPECT_EQ(answer.text, "hello world");
  EXPECT_EQ(pieces, answer.text);
  EXPECT_EQ(answer.reason, Reason::end_of_generation);
  EXPECT_EQ(name(answer.reason), "end of generation");
  EXPECT_EQ(answer.tokens.size(), 12);
  EXPECT_EQ(answer.prompt_tokens, answer.read_tokens);
  EXPECT_EQ(answer.tokens[0].text, "h");
  EXPECT_TRUE(answer.tokens[0].top.empty());
}

TEST(Library, EmptySettingsAreTheEngines) {
  const auto engine = std::move(*engine::Engine::load(gguf::File::from_memory(engine::canary_bytes(), "canary").value(),
                                                      {.backend = "cpu", .n_threads = 1}));
  const auto cache = std::move(*engine->new_cache());
  const Model model = canary();
  engine::GenerateOptions options;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    options.sampler.seed = seed;
    options.sampler.temperature = 3;
    cache->truncate(0);
    const auto tokens = *engine->chat_tokens(engine::conversation("", "thunder"));
    EXPECT_EQ(model.ask("thunder", {.temperature = 3, .seed = seed}).text, engine->generate(*cache, tokens, options)->text);
  }
  const Settings all = model.settings();
  EXPECT_EQ(*all.temperature, engine::SamplerSettings{}.temperature);
  EXPECT_EQ(*all.repeat_last_n, engine::SamplerSettings{}.repeat_last_n);
}

TEST(Library, WhatTheFileRecommendsIsTheDefault) {
  const Scratch scratch;
  write_canary(scratch.file("m.gguf"));
  const Model model = Model::open(scratch.file("m.gguf"), {.backend = "cpu", .threads = 1});
  EXPECT_EQ(*model.settings().temperature, 0);
  EXPECT_EQ(*model.settings().top_k, 7);
  EXPECT_EQ(*model.settings().top_p, engine::SamplerSettings{}.top_p);
  const std::string likely = model.ask("thunder", likeliest).text;
  for (std::uint64_t seed = 0; seed < 5; ++seed) EXPECT_EQ(model.ask("thunder", {.seed = seed}).text, likely);
  bool other = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    other =
        other || model.ask("thunder", {.temperature = 5, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed}).text != likely;
  EXPECT_TRUE(other);
}

TEST(Library, TheTemplateTakesVariables) {
  const Scratch scratch;
  write_canary(scratch.file("m.gguf"));
  const auto opened = [&](const char* variables) {
    return Model::open(scratch.file("m.gguf"), {.backend = "cpu", .threads = 1, .template_variables = variables});
  };
  EXPECT_EQ(opened("").ask("cat", likeliest).text, "cat");
  EXPECT_EQ(opened(R"({"word": "upper "})").ask("cat", likeliest).text, "CAT");
  EXPECT_EQ(opened(R"({"word": "a"})").render({{"user", "b"}}), "<|user|>\nab</s>\n<|assistant|>\n");
  for (const char* bad : {"[1]", "{", "1", R"({"messages": []})"}) {
    EXPECT_THAT(error_of([&] { static_cast<void>(opened(bad)); }), HasSubstr("template_variables '" + std::string(bad)));
  }
}

TEST(Library, OpensAFetchedModelByItsNames) {
  const Scratch scratch;
  const char* const before = std::getenv("PLUMB_CACHE");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("PLUMB_CACHE", scratch.file("").c_str(), 1);
  std::filesystem::create_directories(scratch.file("models"));
  write_canary(scratch.file("models/mine.gguf"));
  write(scratch.file("references.json"), R"({"hf:me/tiny/x-Q8_0.gguf": "mine", "ollama:library/tiny:1b": "mine"})");
  for (const char* name : {"mine", "hf:me/tiny:Q8_0", "hf:me/tiny:q8_0", "hf.co/me/tiny/x-Q8_0.gguf", "tiny:1b"}) {
    EXPECT_EQ(*Model::open(name, {.backend = "cpu", .threads = 1}).settings().top_k, 7) << name;
  }
  for (const char* name : {"yours", "hf:me/tiny:Q4_0", "hf:me/other", "tiny", "mine.gguf"}) {
    EXPECT_THAT(error_of([&] { static_cast<void>(Model::open(name)); }), HasSubstr("no model named '" + std::string(name)));
  }
  if (before == nullptr) {
    ::unsetenv("PLUMB_CACHE");
  } else {
    ::setenv("PLUMB_CACHE", kept.c_str(), 1);
  }
}

TEST(Library, ASeedRepeatsAnAnswer) {
  const Model model = canary();
  const Answer answer = model.ask("thunder", {.temperature = 5});
  EXPECT_EQ(model.ask("thunder", {.temperature = 5, .seed = answer.seed}).text, answer.text);
  EXPECT_NE(model.ask("thunder", {.temperature = 5}).seed, answer.seed);
}

TEST(Library, EverySettingArrives) {
  const Model model = canary();
  EXPECT_EQ(model.ask("hello world", {.temperature = 0, .max_tokens = 3}).reason, Reason::max_tokens);
  const Answer stopped = model.ask("hello world", {.temperature = 0, .stop = {"wor"}});
  EXPECT_EQ(stopped.text, "hello ");
  EXPECT_EQ(stopped.reason, Reason::stop_text);
  const Token e = stopped.tokens[1].id;
  EXPECT_EQ(model.ask("hello", {.temperature = 0, .logit_bias = {{e, -1e9F}}, .max_tokens = 2}).text.substr(0, 1), "h");
  EXPECT_NE(model.ask("hello", {.temperature = 0, .logit_bias = {{e, -1e9F}}, .max_tokens = 2}).tokens[1].id, e);
  const Answer weighed = model.ask("hello", {.temperature = 0, .logprobs = 2});
  EXPECT_EQ(weighed.tokens[0].top.size(), 2);
  EXPECT_EQ(weighed.tokens[0].top[0].id, weighed.tokens[0].id);
  EXPECT_EQ(weighed.tokens[0].top[0].logprob, weighed.tokens[0].logprob);
  const struct {
    Settings settings;
    const char* says;
  } bad[] = {{{.temperature = -1}, "temperature"},
             {{.top_k = -1}, "top_k"},
             {{.top_p = 2}, "top_p"},
             {{.min_p = -1}, "min_p"},
             {{.repeat_penalty = 0}, "repeat_penalty"},
             {{.repeat_last_n = -2}, "repeat_last_n"},
             {{.presence_penalty = infinity}, "presence"},
             {{.frequency_penalty = infinity}, "frequency"},
             {{.logit_bias = {{-1, 1.0F}}}, "token -1"},
             {{.stop = {""}}, "must not be empty"}};
  for (const auto& entry : bad) {
    EXPECT_THAT(error_of([&] { static_cast<void>(model.ask("hello", entry.settings)); }), HasSubstr(entry.says));
  }
}

TEST(Library, AnswersOfSeveralTurnsAreThoseOfTheWholeConversation) {
  const Model model = canary();
  Conversation talk = model.conversation("Be brief.");
  const Answer first = talk.say("hello world", likeliest);
  const Answer second = talk.say("cat", likeliest);
  EXPECT_EQ(
      second.prompt_tokens,
      model.chat_tokens({{"system", "Be brief."}, {"user", "hello world"}, {"assistant", first.text}, {"user", "cat"}})
          .size());
  EXPECT_LT(second.read_tokens + first.prompt_tokens, second.prompt_tokens + 2);  // the first turn was not read again
  ASSERT_EQ(talk.messages().size(), 5);
  EXPECT_EQ(talk.messages()[4].role, "assistant");
  EXPECT_EQ(talk.messages()[4].content, second.text);

  std::vector<Message> messages = talk.messages();
  messages.pop_back();
  Conversation anew = model.conversation();
  EXPECT_EQ(ids_of(anew.answer(messages, likeliest)), ids_of(second));
  EXPECT_EQ(anew.messages().size(), 5);
  EXPECT_EQ(anew.tokens(), talk.tokens());
}

TEST(Library, TokensGoInAndOut) {
  const Model model = canary();
  const std::vector<Token> prompt = model.chat_tokens({{"user", "hello world"}});
  EXPECT_EQ(model.tokenize(model.render({{"user", "hello world"}})), prompt);
  EXPECT_EQ(model.detokenize(model.tokenize("hello world", true)), "hello world");
  EXPECT_THAT(model.detokenize(prompt), HasSubstr("<|user|>\nhello world</s>"));
  EXPECT_EQ(model.tokenize("a").size(), model.tokenize("a", true).size() + 1);

  Conversation whole = model.conversation();
  const std::vector<Token> expected = ids_of(whole.complete(prompt, likeliest));
  EXPECT_EQ(model.piece(expected[0]), "h");

  // The same in parts: a prompt in two, an answer in two, the last token by its logits.
  Conversation parts = model.conversation();
  const std::vector<float> logits = parts.logits(std::span(prompt).first(4));
  EXPECT_EQ(logits.size(), model.vocabulary());
  std::vector<Token> ids = ids_of(parts.complete(std::span(prompt).subspan(4), {.temperature = 0, .max_tokens = 5}));
  EXPECT_EQ(parts.tokens().size(), prompt.size() + 5);
  for (const Token id : ids_of(parts.complete({}, {.temperature = 0, .max_tokens = 6}))) ids.push_back(id);
  const std::vector<float> last = parts.logits({});
  ids.push_back(static_cast<Token>(std::max_element(last.begin(), last.end()) - last.begin()));
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(parts.logits({}), last);

  parts.rewind(prompt.size());
  EXPECT_EQ(ids_of(parts.complete({}, likeliest)), expected);
}

TEST(Library, PenaltiesCountTheWholeConversation) {
  const Model model = canary();
  const std::vector<Token> prompt = model.chat_tokens({{"user", "tomato"}});
  const Settings penalized{.temperature = 0, .repeat_penalty = 1.5, .repeat_last_n = -1, .max_tokens = 8};
  Conversation whole = model.conversation(), parts = model.conversation();
  static_cast<void>(parts.logits(std::span(prompt).first(prompt.size() - 1)));
  EXPECT_EQ(ids_of(parts.complete(std::span(prompt).last(1), penalized)), ids_of(whole.complete(prompt, penalized)));
}

TEST(Library, AForkGoesOnByItself) {
  const Model model = canary();
  Conversation talk = model.conversation();
  static_cast<void>(talk.say("hello", likeliest));
  Conversation fork = talk.fork();
  EXPECT_EQ(fork.tokens(), talk.tokens());
  const Answer a = talk.say("cat", likeliest), b = fork.say("sea", likeliest);
  EXPECT_EQ(b.read_tokens, a.read_tokens);
  EXPECT_EQ(fork.messages()[2].content, "sea");
  EXPECT_EQ(talk.messages()[2].content, "cat");
  Conversation again = model.conversation();
  static_cast<void>(again.say("hello", likeliest));
  EXPECT_EQ(ids_of(again.say("sea", likeliest)), ids_of(b));
}

TEST(Library, ASavedConversationGoesOnAlike) {
  const Scratch scratch;
  const std::string path = scratch.file("talk");
  const Model model = canary();
  Conversation talk = model.conversation("Be brief.");
  static_cast<void>(talk.say("hello", likeliest));
  talk.save(path);
  const Answer expected = talk.say("cat", likeliest);

  Conversation restored = canary().restore(path);
  EXPECT_EQ(restored.messages().size(), 3);
  const Answer answer = restored.say("cat", likeliest);
  EXPECT_EQ(ids_of(answer), ids_of(expected));
  EXPECT_EQ(answer.read_tokens, expected.read_tokens);
  EXPECT_EQ(restored.tokens(), talk.tokens());

  // Another backend goes on from the same keys and values; where their type is another, it reads everything again.
  Conversation elsewhere = canary({.backend = "reference"}).restore(path);
  EXPECT_EQ(elsewhere.say("cat", likeliest).read_tokens, expected.read_tokens);
  Conversation wider = canary({.backend = "cpu", .kv_type = "f32"}).restore(path);
  const Answer read_again = wider.say("cat", likeliest);
  EXPECT_EQ(read_again.read_tokens, read_again.prompt_tokens);
  EXPECT_EQ(read_again.text, expected.text);

  const Conversation empty = model.conversation();
  empty.save(path);
  EXPECT_TRUE(model.restore(path).tokens().empty());
}

TEST(Library, ASavedConversationThatIsDamagedOrForeignIsRefused) {
  const Scratch scratch;
  const std::string path = scratch.file("talk"), other = scratch.file("other");
  const Model model = canary();
  Conversation talk = model.conversation();
  static_cast<void>(talk.say("hello", likeliest));
  talk.save(path);
  const std::string good = content_of(path);
  for (std::size_t at = 0; at < good.size(); at += 1 + at / 16) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x40);
    write(other, bad);
    const std::string error = error_of([&] { static_cast<void>(model.restore(other)); });
    // What is between the parts is not read: the file's version of the format, and padding.
    if (error == "no error") {
      EXPECT_EQ(model.restore(other).tokens(), talk.tokens()) << at;
    }
    write(other, good.substr(0, at));
    EXPECT_THAT(error_of([&] { static_cast<void>(model.restore(other)); }), HasSubstr(other)) << at;
  }
  std::string bad = good;
  bad[bad.size() - 100] = static_cast<char>(bad[bad.size() - 100] ^ 1);  // among the values
  write(other, bad);
  EXPECT_THAT(error_of([&] { static_cast<void>(model.restore(other)); }), HasSubstr("is damaged"));
  EXPECT_THAT(error_of([&] { static_cast<void>(canary({.backend = "cpu", .ctx = 8}).restore(path)); }), HasSubstr("ctx"));
  EXPECT_THAT(error_of([&] { static_cast<void>(model.restore(scratch.file("missing"))); }), HasSubstr("missing"));

  // The canary with one other number among its weights.
  const gguf::File file = gguf::File::from_memory(engine::canary_bytes(), "canary").value();
  gguf::Writer writer;
  for (const auto& [key, value] : file.metadata()) writer.set(std::string(key), value);
  std::vector<std::byte> changed(file.tensors()[0].data.begin(), file.tensors()[0].data.end());
  changed[8] ^= std::byte{1};
  for (const auto& tensor : file.tensors()) {
    writer.add_tensor(std::string(tensor.name), tensor.format, std::span(tensor.dims).first(tensor.n_dims),
                      &tensor == file.tensors().data() ? std::span<const std::byte>(changed) : tensor.data);
  }
  ASSERT_TRUE(writer.write(other));
  EXPECT_THAT(error_of([&] { static_cast<void>(Model::open(other).restore(path)); }), HasSubstr("another model"));
  EXPECT_THAT(error_of([&] { static_cast<void>(model.restore(other)); }), HasSubstr("no saved conversation"));
}

TEST(Library, AFailureLeavesAConversationAsItWas) {
  const Model model = canary({.backend = "cpu", .ctx = 40});
  Conversation talk = model.conversation();
  static_cast<void>(talk.say("hello", likeliest));
  const std::vector<Token> tokens = talk.tokens();
  EXPECT_THAT(error_of([&] { talk.say(std::string(100, 'a'), likeliest); }), HasSubstr("ctx"));
  EXPECT_THROW(talk.say("cat", likeliest, [](std::string_view) -> bool { throw std::runtime_error("mine"); }),
               std::runtime_error);
  EXPECT_EQ(talk.tokens(), tokens);
  EXPECT_EQ(talk.messages().size(), 2);
  Conversation other = model.conversation();
  static_cast<void>(other.say("hello", likeliest));
  EXPECT_EQ(ids_of(talk.say("cat", likeliest)), ids_of(other.say("cat", likeliest)));
  EXPECT_THAT(error_of([&] { static_cast<void>(model.conversation().complete({}, likeliest)); }), HasSubstr("no tokens"));
  EXPECT_THAT(error_of([&] { static_cast<void>(model.piece(-1)); }), HasSubstr("token -1"));
}

TEST(Library, ACallbackEndsAnAnswer) {
  Conversation talk = canary().conversation();
  const Answer answer = talk.say("hello world", likeliest, [](std::string_view) { return false; });
  EXPECT_EQ(answer.reason, Reason::interrupted);
  EXPECT_EQ(answer.tokens.size(), 1);
}

TEST(Library, LoadingShowsItsProgressAndCanBeStopped) {
  for (const char* backend : {"cpu", "checker"}) {
    std::vector<std::uint64_t> seen;
    std::uint64_t whole = 0;
    ModelOptions options{.backend = backend};
    options.on_progress = [&](std::uint64_t done, std::uint64_t total) {
      seen.push_back(done);
      whole = total;
      return true;
    };
    static_cast<void>(canary(options));
    EXPECT_EQ(seen.front(), 0);
    EXPECT_EQ(seen.back(), whole);
    EXPECT_TRUE(std::ranges::is_sorted(seen.begin(), seen.end() - 1));
    EXPECT_EQ(seen.size() > 2, std::string_view(backend) == "checker");
    options.on_progress = [&](std::uint64_t done, std::uint64_t) { return done == 0; };
    EXPECT_THAT(error_of([&] { static_cast<void>(canary(options)); }), HasSubstr("stopped"));
  }
}

TEST(Library, AModelIsSharedByThreads) {
  const Model model = canary({.backend = "cpu", .threads = 2});
  const std::string words[] = {"hello", "cat", "wall", "tomato"};
  std::string answers[4];
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        Conversation talk = model.conversation();
        for (int turn = 0; turn < 3; ++turn) answers[i] += talk.say(words[i], likeliest).text + "|";
        answers[i] += model.detokenize(model.tokenize(words[i], true));
      });
    }
  }
  for (std::size_t i = 0; i < 4; ++i) {
    Conversation talk = model.conversation();
    std::string expected;
    for (int turn = 0; turn < 3; ++turn) expected += talk.say(words[i], likeliest).text + "|";
    EXPECT_EQ(answers[i], expected + words[i]);
  }
}

TEST(Library, AConversationKeepsItsModel) {
  Conversation talk = canary().conversation();
  EXPECT_EQ(talk.say("hello", likeliest).text, "hello");
  EXPECT_EQ(talk.model().backend(), "cpu");
}

TEST(Library, WhatCannotBeOpenedSaysWhy) {
  EXPECT_THAT(error_of([] { static_cast<void>(Model::open("/nowhere/x.gguf")); }), HasSubstr("/nowhere/x.gguf"));
  EXPECT_THAT(error_of([] { static_cast<void>(canary({.backend = "abacus"})); }), HasSubstr("abacus"));
  EXPECT_THAT(error_of([] { static_cast<void>(canary({.kv_type = "q4"})); }), HasSubstr("'q4'"));
  EXPECT_THAT(error_of([] { static_cast<void>(canary({.activations = "int4"})); }), HasSubstr("'int4'"));
}

}  // namespace
}  // namespace plumb
