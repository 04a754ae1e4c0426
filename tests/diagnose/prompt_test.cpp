// Every rule on the way from a prompt to its tokens, broken as engines break it, is named.
#include "diagnose/prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "engine/quantized_canary.h"
#include "text/tokenizer_samples.h"

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

  // The names of the rules that explain the tokens, with commas between them; or "unknown", or "follows".
  std::string named(const Tokens& tokens, const std::string& text, Prompt::Form form = Prompt::Form::text) const {
    return named(tokens, {.text = text, .system = {}, .form = form}, false);
  }
  // The same with their details: "tokens-case (in small letters)".
  std::string named(const Tokens& tokens, const Prompt& prompt, bool with_details = true) const {
    const auto check = check_tokens(canary_->tokenizer, template_, tokens, prompt);
    if (check->follows) return "follows";
    std::string names;
    for (const BrokenRule& rule : check->broken) {
      names += (names.empty() ? "" : ", ") + std::string(rule.hypothesis->name);
      if (with_details && !rule.detail.empty()) names += " (" + rule.detail + ")";
    }
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

TEST_F(PromptRules, OfWhiteSpaceAreNamedWithWhatChanged) {
  const auto made = [&](const std::string& text, const std::string& read_as) {
    return named(encode(read_as), {.text = text, .form = Prompt::Form::text});
  };
  EXPECT_EQ(made(" upper\ncat\n", "upper\ncat"), "tokens-white-space (trimmed at both ends)");
  EXPECT_EQ(made("upper  cat", "upper cat"), "tokens-white-space (runs of spaces became one)");
  EXPECT_EQ(made("upper\tcat", "upper cat"), "tokens-white-space (tabs became spaces)");
  EXPECT_EQ(made("upper\ncat", "upper\r\ncat"), "tokens-white-space (newlines became CR LF)");
  EXPECT_EQ(made("upper cat", "upper cat\n"), "tokens-white-space (a newline was put at the end)");
  EXPECT_EQ(made(" upper\ncat\n", " upper\ncat"), "tokens-white-space (the newline at the end is missing)");
  EXPECT_EQ(made("upper\ncat",
                 "upper\xe2\x96\x81"
                 "cat"),
            "tokens-newline-as-space ('\\n' is read as ' ')");
  EXPECT_EQ(made("upper cat", " upper cat"), "tokens-space-prefix-added");
}

TEST_F(PromptRules, OfTheSpaceBeforeATextAreNamed) {
  // After a newline the tokenizer puts no space before a text.
  const Tokens head = encode("\n"), both = encode("\nupper cat");
  Tokens bare{*canary_->tokenizer.special().bos};
  bare.insert(bare.end(), both.begin() + static_cast<std::ptrdiff_t>(head.size()), both.end());
  EXPECT_EQ(named(bare, "upper cat"), "tokens-space-prefix-missing");
  EXPECT_EQ(named(encode(" upper cat"), "upper cat"), "tokens-space-prefix-added");
}

// With a vocabulary that has merges; the canary's hardly has any.
TEST(PromptPieces, AreNamedByTheirRule) {
  const auto loaded = text::samples::load(text::samples::byte_pairs());
  ASSERT_TRUE(loaded.tokenizer) << loaded.tokenizer.error().message;
  const text::Tokenizer& tokenizer = *loaded.tokenizer;
  const auto named = [&](const Tokens& tokens, const std::string& text) {
    const auto check = check_tokens(tokenizer, std::nullopt, tokens, {.text = text, .form = Prompt::Form::text});
    if (check->broken.empty()) return std::string(check->follows ? "follows" : "unknown");
    return fmt::format("{} ({})", check->broken.front().hypothesis->name, check->broken.front().detail);
  };
  const auto of = [&](const std::vector<std::string>& pieces) {
    Tokens tokens;
    for (const std::string& piece : pieces) tokens.push_back(tokenizer.find(piece).value_or(-1));
    return tokens;
  };
  EXPECT_EQ(named(of({"the", "\xc4\xa0the"}), "the the"), "follows");
  EXPECT_EQ(named(of({"t", "h", "e", "\xc4\xa0", "t", "h", "e"}), "the the"), "tokens-by-character ()");
  EXPECT_EQ(named(of({"a", "\xc4\xa0", "the"}), "a\nthe"),
            "tokens-newline-as-space (the newline's token is that of a space)");
  EXPECT_EQ(named(*tokenizer.encode("a<|im_end|>", {.add_special = true, .parse_special = false}), "a<|im_end|>"),
            "tokens-special-as-text ()");
}

// The families' templates as published, for one turn; {0} is the system's message, {1} the user's.
TEST_F(PromptRules, OfOtherTemplatesAreNamedWithTheirFamily) {
  const struct {
    const char *name, *with_system, *without;
  } families[] = {
      {"ChatML", "<|im_start|>system\n{0}<|im_end|>\n<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n",
       "<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n"},
      {"ChatML with a system message", "",
       "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
       "<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n"},
      {"Llama 2", "[INST] <<SYS>>\n{0}\n<</SYS>>\n\n{1} [/INST]", "[INST] {1} [/INST]"},
      {"Llama 3",
       "<|start_header_id|>system<|end_header_id|>\n\n{0}<|eot_id|>"
       "<|start_header_id|>user<|end_header_id|>\n\n{1}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
       "<|start_header_id|>user<|end_header_id|>\n\n{1}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
      {"Zephyr", "<|system|>\n{0}</s>\n<|user|>\n{1}</s>\n<|assistant|>\n", "<|user|>\n{1}</s>\n<|assistant|>\n"},
      {"Zephyr with an empty system message", "", "<|system|>\n</s>\n<|user|>\n{1}</s>\n<|assistant|>\n"},
      {"Gemma", "<start_of_turn>user\n{0}\n\n{1}<end_of_turn>\n<start_of_turn>model\n",
       "<start_of_turn>user\n{1}<end_of_turn>\n<start_of_turn>model\n"},
      {"Phi-3", "<|system|>\n{0}<|end|>\n<|user|>\n{1}<|end|>\n<|assistant|>\n", "<|user|>\n{1}<|end|>\n<|assistant|>\n"},
      {"Alpaca", "{0}\n\n### Instruction:\n{1}\n\n### Response:\n", "### Instruction:\n{1}\n\n### Response:\n"},
      {"Vicuna", "{0} USER: {1} ASSISTANT:", "USER: {1} ASSISTANT:"},
      {"User and Assistant", "{0}\nUser: {1}\nAssistant:", "User: {1}\nAssistant:"},
  };
  template_ = *text::ChatTemplate::parse(
      "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }};{% endfor %}{% if add_generation_prompt %}>{% endif %}");
  for (const auto& family : families) {
    for (const std::string form : {family.with_system, family.without}) {
      if (form.empty()) continue;
      const std::string system = form == family.with_system ? "Be brief." : "";
      const Tokens tokens = encode(fmt::format(fmt::runtime(form), system, "upper cat"));
      EXPECT_EQ(named(tokens, {.text = "upper cat", .system = system, .form = Prompt::Form::message}),
                fmt::format("template-other ({}'s)", family.name))
          << form;
    }
  }
}

TEST_F(PromptRules, OfTheFilesTemplateAreNamed) {
  const std::string text = "upper cat";
  EXPECT_EQ(named(encode(text), text, Prompt::Form::message), "template-missing");
  EXPECT_EQ(named(rendered(text), text, Prompt::Form::text), "template-applied");
  EXPECT_EQ(named(rendered(text), {.text = text, .system = "Be brief.", .form = Prompt::Form::message}),
            "template-system (the message that was given)");
  template_ = *text::ChatTemplate::parse(
      "{% if messages[0]['role'] != 'system' %}<|system|>\nBe helpful.\n{% endif %}{% for m in messages %}"
      "<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}");
  EXPECT_EQ(named(rendered(text), text, Prompt::Form::message), "follows");
  EXPECT_EQ(named(encode("<|user|>\nupper cat\n<|assistant|>\n"), {.text = text, .form = Prompt::Form::message}),
            "template-system (the one that the template adds)");
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
  // The report names the reason, not only the missing tokens.
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
  EXPECT_EQ(check_ids(special, Tokens{1, 20, 30}, Tokens{20, 30}).broken.front().hypothesis->name, "tokens-bos-added");
  EXPECT_FALSE(check_ids({}, Tokens{1, 20}, Tokens{std::numeric_limits<TokenId>::max(), 3}).follows);
}

TEST_F(PromptRules, ThatAreNotKnownAreNoGuess) {
  Tokens other = encode(text_);
  std::swap(other[3], other[5]);
  EXPECT_EQ(named(other, text_), "unknown");
}

}  // namespace
}  // namespace plumb::diagnose
