// Checks whether a run's tokens are those of its prompt. If not, finds the rule of the tokenizer or chat template that was
// broken.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "diagnose/hypothesis.h"
#include "text/chat_template.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::diagnose {

struct Prompt {
  enum class Form : std::uint8_t {
    text,     // goes to the model as it is
    message,  // a user's message, through the chat template
    either,   // not known
  };
  std::string text;
  std::string system;  // system message, for Form::message
  Form form = Form::either;
  nlohmann::ordered_json variables = {};  // of the chat template, besides those that text::render_chat() sets
};

// A rule that was broken on the way from the prompt to the tokens.
struct BrokenRule {
  const Hypothesis* hypothesis = nullptr;
  std::string detail;
};

struct TokenCheck {
  bool follows = false;
  std::string evidence;            // a sentence
  std::vector<BrokenRule> broken;  // together they give the run's tokens; empty: the tokens are right, or not explained
  bool spells = false;             // not explained, but the tokens' text is the prompt's
  bool used_template = false;      // the tokens are those of the chat template
};

// tokens: the prompt's. Error: the text cannot be encoded.
Result<TokenCheck> check_tokens(const text::Tokenizer& tokenizer, const std::optional<text::ChatTemplate>& chat_template,
                                std::span<const text::TokenId> tokens, const Prompt& prompt);

// The same for given ids instead of a text. special: empty if the file has no tokenizer.
TokenCheck check_ids(const text::SpecialTokens& special, std::span<const text::TokenId> tokens,
                     std::span<const text::TokenId> due);

}  // namespace plumb::diagnose
