// The C library: the same as the C++ one through C's types, and no exception comes out of it.
#include "plumb/plumb_c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "plumb/plumb.h"

namespace {

using testing::HasSubstr;

struct Free {
  void operator()(plumb_model* model) const { plumb_model_free(model); }
  void operator()(plumb_conversation* talk) const { plumb_conversation_free(talk); }
  void operator()(const plumb_answer* answer) const { plumb_answer_free(answer); }
  void operator()(char* text) const { plumb_free(text); }
  void operator()(plumb_token* tokens) const { plumb_free(tokens); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

class CLibrary : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr) << plumb_error();
    plumb_settings_init(&settings_, sizeof(settings_), model_.get());
    settings_.temperature = 0;
  }
  [[nodiscard]] Owned<plumb_conversation> begin(const char* system = nullptr) const {
    return Owned<plumb_conversation>(plumb_conversation_new(model_.get(), system));
  }
  Owned<const plumb_answer> say(const Owned<plumb_conversation>& talk, const char* text) {
    return Owned<const plumb_answer>(plumb_say(talk.get(), text, &settings_, nullptr, nullptr));
  }

  Owned<plumb_model> model_{plumb_model_open("canary", nullptr)};
  plumb_settings settings_{};
};

TEST_F(CLibrary, SettingsBeginWithTheSameDefaults) {
  plumb_settings settings;
  plumb_settings_init(&settings, sizeof(settings), model_.get());
  const plumb::Settings expected = plumb::Model::open("canary").settings();
  EXPECT_EQ(settings.temperature, *expected.temperature);
  EXPECT_EQ(settings.top_k, *expected.top_k);
  EXPECT_EQ(settings.top_p, *expected.top_p);
  EXPECT_EQ(settings.min_p, *expected.min_p);
  EXPECT_EQ(settings.repeat_penalty, *expected.repeat_penalty);
  EXPECT_EQ(settings.repeat_last_n, *expected.repeat_last_n);
  EXPECT_EQ(settings.presence_penalty, *expected.presence_penalty);
  EXPECT_EQ(settings.frequency_penalty, *expected.frequency_penalty);
  EXPECT_TRUE(settings.random_seed);
}

TEST_F(CLibrary, AnAnswerHasItsPartsAndReasons) {
  settings_.logprobs = 3;
  const char* stop[] = {"ld"};
  settings_.stop = stop;
  settings_.n_stop = 1;
  settings_.random_seed = false;
  settings_.seed = 9;
  std::string pieces;
  const auto on_text = [](void* user, const char* text, size_t size) {
    static_cast<std::string*>(user)->append(text, size);
    return true;
  };
  const auto talk = begin();
  const Owned<const plumb_answer> answer(plumb_say(talk.get(), "hello world", &settings_, on_text, &pieces));
  ASSERT_NE(answer, nullptr) << plumb_error();
  EXPECT_STREQ(answer->text, "hello wor");
  EXPECT_EQ(answer->text_size, 9);
  EXPECT_EQ(pieces, "hello wor");
  EXPECT_EQ(answer->reason, PLUMB_STOP_TEXT);
  EXPECT_STREQ(plumb_reason_name(answer->reason), "stop text");
  EXPECT_EQ(answer->n_tokens, 11);
  EXPECT_STREQ(answer->tokens[4].text, "o");
  EXPECT_EQ(answer->tokens[4].n_top, 3);
  EXPECT_EQ(answer->tokens[4].top[0].id, answer->tokens[4].id);
  EXPECT_EQ(answer->tokens[4].top[0].logprob, answer->tokens[4].logprob);
  EXPECT_EQ(answer->read_tokens, answer->prompt_tokens);
  EXPECT_EQ(answer->seed, 9);

  const plumb_bias ban{answer->tokens[0].id, -1e9F};
  settings_.logit_bias = &ban;
  settings_.n_logit_bias = 1;
  settings_.max_tokens = 1;
  const auto other = say(begin(), "hello world");
  EXPECT_NE(other->tokens[0].id, ban.token);
  EXPECT_EQ(other->reason, PLUMB_MAX_TOKENS);
}

TEST_F(CLibrary, AStructOfAnOlderCallerHasDefaultsForTheRest) {
  plumb_settings older;
  plumb_settings_init(&older, offsetof(plumb_settings, stop), model_.get());
  older.temperature = 0;
  older.stop = reinterpret_cast<const char* const*>(8);  // what lies behind the caller's struct
  older.n_stop = 5;
  const auto talk = begin();
  const Owned<const plumb_answer> answer(plumb_say(talk.get(), "hello", &older, nullptr, nullptr));
  ASSERT_NE(answer, nullptr) << plumb_error();
  EXPECT_STREQ(answer->text, "hello");
  older.size = 0;
  EXPECT_EQ(plumb_say(talk.get(), "hello", &older, nullptr, nullptr), nullptr);
  EXPECT_THAT(plumb_error(), HasSubstr("_init"));
}

TEST_F(CLibrary, MessagesTokensAndLogits) {
  const plumb_message messages[] = {{"system", "Be brief."}, {"user", "hello world"}};
  size_t n = 0, size = 0;
  const Owned<plumb_token> prompt(plumb_chat_tokens(model_.get(), messages, 2, &n));
  const Owned<char> text(plumb_render(model_.get(), messages, 2));
  const Owned<char> spelled(plumb_detokenize(model_.get(), prompt.get(), n, &size));
  EXPECT_THAT(spelled.get(), HasSubstr("<|user|>\nhello world</s>"));
  EXPECT_EQ(size, std::string(spelled.get()).size());
  size_t n_again = 0;
  const Owned<plumb_token> again(plumb_tokenize(model_.get(), text.get(), false, &n_again));
  EXPECT_EQ(std::vector(again.get(), again.get() + n_again), std::vector(prompt.get(), prompt.get() + n));

  const auto talk = begin(), raw = begin();
  const Owned<const plumb_answer> answer(plumb_answer_messages(talk.get(), messages, 2, &settings_, nullptr, nullptr));
  ASSERT_NE(answer, nullptr) << plumb_error();
  EXPECT_EQ(answer->prompt_tokens, n);
  const plumb_message* said = plumb_messages(talk.get(), &size);
  ASSERT_EQ(size, 3);
  EXPECT_STREQ(said[2].role, "assistant");
  EXPECT_STREQ(said[2].content, answer->text);

  std::vector<float> logits(plumb_vocabulary(model_.get()));
  ASSERT_TRUE(plumb_logits(raw.get(), prompt.get(), n, logits.data()));
  EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), answer->tokens[0].id);
  const Owned<const plumb_answer> completed(plumb_complete(raw.get(), nullptr, 0, &settings_, nullptr, nullptr));
  EXPECT_STREQ(completed->text, answer->text);
  const plumb_token* tokens = plumb_tokens(raw.get(), &size);
  EXPECT_EQ(size, n + completed->n_tokens);
  EXPECT_EQ(tokens[0], prompt.get()[0]);
  ASSERT_TRUE(plumb_rewind(raw.get(), 0));
  EXPECT_EQ(plumb_tokens(raw.get(), &size), nullptr);
  EXPECT_EQ(size, 0);
}

TEST_F(CLibrary, ForksAndSavedStates) {
  const std::string path = (std::filesystem::temp_directory_path() / ("plumb_c_" + std::to_string(getpid()))).string();
  const auto talk = begin();
  static_cast<void>(say(talk, "hello"));
  const Owned<plumb_conversation> fork(plumb_fork(talk.get()));
  ASSERT_TRUE(plumb_save(talk.get(), path.c_str())) << plumb_error();
  const Owned<plumb_conversation> restored(plumb_restore(model_.get(), path.c_str()));
  std::remove(path.c_str());
  const auto a = say(talk, "cat"), b = say(fork, "cat"), c = say(restored, "cat");
  ASSERT_TRUE(a && b && c) << plumb_error();
  EXPECT_STREQ(b->text, a->text);
  EXPECT_STREQ(c->text, a->text);
  EXPECT_EQ(c->read_tokens, a->read_tokens);
  EXPECT_EQ(plumb_restore(model_.get(), path.c_str()), nullptr);
  EXPECT_THAT(plumb_error(), HasSubstr(path));
  EXPECT_FALSE(plumb_save(talk.get(), "/nowhere/at/all"));
  EXPECT_THAT(plumb_error(), HasSubstr("/nowhere/at/all"));
}

TEST_F(CLibrary, OptionsOfTheModel) {
  plumb_model_options options;
  plumb_model_options_init(&options, sizeof(options));
  options.backend = "reference";
  options.ctx = 30;
  int calls = 0;
  options.user = &calls;
  options.on_progress = [](void* user, uint64_t, uint64_t) { return ++*static_cast<int*>(user) > 0; };
  const Owned<plumb_model> model(plumb_model_open("canary", &options));
  ASSERT_NE(model, nullptr) << plumb_error();
  EXPECT_EQ(plumb_ctx(model.get()), 30);
  EXPECT_STREQ(plumb_backend(model.get()), "reference");
  EXPECT_NE(plumb_description(model.get())[0], '\0');
  EXPECT_TRUE(plumb_has_template(model.get()));
  EXPECT_GT(calls, 1);
  options.template_variables = "{\"a\": 1}";
  EXPECT_NE(Owned<plumb_model>(plumb_model_open("canary", &options)), nullptr) << plumb_error();
  options.template_variables = "[1]";
  EXPECT_EQ(plumb_model_open("canary", &options), nullptr);
  EXPECT_THAT(plumb_error(), HasSubstr("template_variables '[1]'"));
  options.size = offsetof(plumb_model_options, template_variables);  // a caller that does not know it
  EXPECT_NE(Owned<plumb_model>(plumb_model_open("canary", &options)), nullptr) << plumb_error();
  options.on_progress = [](void*, uint64_t, uint64_t) { return false; };
  EXPECT_EQ(plumb_model_open("canary", &options), nullptr);
  EXPECT_THAT(plumb_error(), HasSubstr("stopped"));
  EXPECT_STREQ(plumb_version(), std::string(plumb::version()).c_str());
}

}  // namespace
