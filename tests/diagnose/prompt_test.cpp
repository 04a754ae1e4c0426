// Every rule of the way from a prompt to its tokens, broken as an engine breaks it, is named.
#include "diagnose/prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/quantized_canary.h"

namespace plumb::diagnose {
namespace {

using text::TokenId;
using Tokens = std::vector<TokenId>;

class PromptRules : public ::testing::Test {
 protected:
  PromptRules() : canary_(std::move(*engine::quantized_canary(model::FileType::f16))) {
    const auto source = canary_->model.file().get_string("tokenizer.chat_template");
    template_ = std::move(*text::ChatTemplate::parse(*source));
  }

  Tokens encode(const std::string& text) const {
    return *canary_->tokenizer.encode(text, {.add_special = true, .parse_special = true});
  }
  Tokens rendered(const std::string& user, bool generation_prompt = true) const {
    text::ChatInput input;
    input.messages = nlohmann::ordered_json::array({{{"role", "user"}, {"content", user}}});
    input.add_generation_prompt = generation_prompt;
    const auto& special = canary_->tokenizer.special();
    input.bos_token = canary_->tokenizer.piece(*special.bos);
    input.eos_token = canary_->tokenizer.piece(*special.eos);
    const std::string text = *text::render_chat(*template_, input);
    const bool has_bos = text.starts_with(input.bos_token);
    return *canary_->tokenizer.encode(text, {.add_special = !has_bos, .parse_special = true});
  }

  // Names of the rules that explain the tokens, comma between them; "unknown" and "follows".
  std::string named(const Tokens& tokens, const std::string& text, Prompt::Form form = Prompt::Form::text) const {
    const auto check = check_tokens(canary_->tokenizer, template_, tokens, {.text = text, .system = {}, .form = form});
    if (check->follows) return "follows";
    std::string names;
    for (const BrokenRule& rule : check->broken) names += (names.empty() ? "" : ", ") + std::string(rule.hypothesis->name);
    return names.empty() ? "unknown" : names;
  }

  std::unique_ptr<engine::Loaded> canary_;
  std::optional<text::ChatTemplate> template_;
  const std::string text_ = "One line\nand  Another: caf\xc3\xa9";
};

TEST_F(PromptRules, ThatAreKeptFollow) {
  EXPECT_EQ(named(encode(text_), text_), "follows");
  EXPECT_EQ(named(rendered("upper cat"), "upper cat", Prompt::Form::message), "follows");
  EXPECT_EQ(named(rendered("upper cat"), "upper cat", Prompt::Form::either), "follows");
}

TEST_F(PromptRules, OfTextsAreNamed) {
  const Tokens right = encode(text_);
  const auto with = [&](const std::string& text) { return named(encode(text), text_); };
  EXPECT_EQ(with("one line\nand  another: caf\xc3\xa9"), "tokens-case");
  EXPECT_EQ(with("One line\\nand  Another: caf\xc3\xa9"), "tokens-newline-as-text");
  EXPECT_EQ(with("One line\nand  Another: caf\xc3\x83\xc2\xa9"), "tokens-encoded-twice");
  EXPECT_EQ(with(text_ + "\n"), "tokens-white-space");
  EXPECT_EQ(with("One line\nand Another: caf\xc3\xa9"), "tokens-white-space");
  EXPECT_EQ(with("One lineand  Another: caf\xc3\xa9"), "tokens-newline-dropped");
  EXPECT_EQ(with("One line and  Another: caf\xc3\xa9"), "tokens-newline-as-space");
  Tokens shifted = right;
  for (TokenId& token : shifted) ++token;
  EXPECT_EQ(named(shifted, text_), "tokens-id-offset");
  EXPECT_EQ(named({right.rbegin(), right.rend()}, text_), "tokens-reversed");
}

TEST_F(PromptRules, OfSpecialTokensAreNamed) {
  const Tokens right = encode(text_);
  const auto bos = *canary_->tokenizer.special().bos, eos = *canary_->tokenizer.special().eos;
  ASSERT_EQ(right.front(), bos);
  EXPECT_EQ(named({right.begin() + 1, right.end()}, text_), "tokens-bos-missing");
  Tokens more = right;
  more.insert(more.begin(), bos);
  EXPECT_EQ(named(more, text_), "tokens-bos-doubled");
  more = right;
  more.push_back(eos);
  EXPECT_EQ(named(more, text_), "tokens-eos-added");
}

TEST_F(PromptRules, OfLengthAreNamedWhereNoOtherIs) {
  const Tokens right = encode(text_);
  EXPECT_EQ(named({right.begin(), right.end() - 4}, text_), "tokens-cut");
  EXPECT_EQ(named({right.begin() + 5, right.end()}, text_), "tokens-cut");
  Tokens behind = right;
  behind.erase(behind.begin() + 1, behind.begin() + 6);
  EXPECT_EQ(named(behind, text_), "tokens-cut");
  // Not what is missing, but why.
  EXPECT_EQ(named(rendered("upper cat", false), "upper cat", Prompt::Form::message), "template-generation-prompt");
}

TEST(PromptIds, AreHeldAgainstThoseGiven) {
  const Tokens given = {1, 20, 30, 40, 50, 60};
  const text::SpecialTokens special{.bos = 1, .eos = 2};
  const auto named = [&](const Tokens& tokens) {
    const TokenCheck check = check_ids(special, tokens, given);
    if (check.follows) return std::string("follows");
    return check.broken.empty() ? "unknown: " + check.evidence : std::string(check.broken.front().hypothesis->name);
  };
  EXPECT_EQ(named(given), "follows");
  EXPECT_EQ(named({20, 30, 40, 50, 60}), "tokens-bos-missing");
  EXPECT_EQ(named({1, 1, 20, 30, 40, 50, 60}), "tokens-bos-doubled");
  EXPECT_EQ(named({1, 20, 30, 40, 50, 60, 2}), "tokens-eos-added");
  EXPECT_EQ(named({2, 21, 31, 41, 51, 61}), "tokens-id-offset");
  EXPECT_EQ(named({60, 50, 40, 30, 20, 1}), "tokens-reversed");
  EXPECT_EQ(named({1, 20, 30, 40}), "tokens-cut");
  EXPECT_EQ(named({1, 40, 50, 60}), "tokens-cut");
  EXPECT_EQ(named({1, 20, 31, 40, 50, 60}),
            "unknown: the tokens differ from index 2 on: 31 where those given have 30; 6 tokens in place of 6");
  EXPECT_FALSE(check_ids({}, Tokens{1, 20}, Tokens{std::numeric_limits<TokenId>::max(), 3}).follows);
}

TEST_F(PromptRules, ThatAreNotKnownAreNoGuess) {
  Tokens other = encode(text_);
  std::swap(other[3], other[5]);
  EXPECT_EQ(named(other, text_), "unknown");
}

}  // namespace
}  // namespace plumb::diagnose
