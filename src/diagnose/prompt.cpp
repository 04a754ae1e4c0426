#include "diagnose/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "base/letter_case.h"
#include "base/white_space.h"

namespace plumb::diagnose {

namespace {

using text::TokenId;
using Tokens = std::vector<TokenId>;

constexpr Hypothesis prompt_table[] = {
    {"tokens-bos-missing", Kind::tokens, R"(the BOS token is missing
The file asks for it (tokenizer.ggml.add_bos_token), and the model was trained with it.
put BOS before the prompt)"},
    {"tokens-bos-doubled", Kind::tokens, R"(the BOS token is there twice
The chat template writes it and the tokenizer adds it again.
add BOS only where the template has not)"},
    {"tokens-bos-added", Kind::tokens, R"(a BOS token was added that the file does not ask for
tokenizer.ggml.add_bos_token is false.
add no BOS)"},
    {"tokens-eos-added", Kind::tokens, R"(an EOS token ends the prompt
The model is told that the text is over before it answers.
add no EOS)"},
    {"tokens-newline-as-space", Kind::tokens, R"(a newline became a space
The step that turns white space into U+2581 takes newlines too. They have a token of their own.
turn spaces into U+2581, and nothing else)"},
    {"tokens-newline-dropped", Kind::tokens, R"(newlines are lost
They are stripped or split away before the text is encoded.
encode newlines too)"},
    {"tokens-space-prefix-missing", Kind::tokens, R"(the space before the text is missing
SentencePiece puts a space before a text (tokenizer.ggml.add_space_prefix).
put a space before the text)"},
    {"tokens-space-prefix-added", Kind::tokens, R"(a space was put before the text
The file's tokenizer puts none.
put no space before the text)"},
    {"tokens-special-as-text", Kind::tokens, R"(special tokens are encoded as text
The template writes them (<|im_start|>), and they reach the model in letters.
parse special tokens in a rendered template)"},
    {"tokens-white-space", Kind::tokens, R"(white space was changed
It was trimmed, or runs of it became one space.
give the text to the tokenizer as it is)"},
    {"tokens-newline-as-text", Kind::tokens, R"(a newline became the two characters \n
The text came through a shell, a file or JSON whose escapes were not resolved.
resolve escapes before encoding)"},
    {"tokens-case", Kind::tokens, R"(the text was put in other letters
A normalizer of another tokenizer was applied.
give the text to the tokenizer as it is)"},
    {"tokens-encoded-twice", Kind::tokens, R"(the text was encoded as UTF-8 twice
Its bytes were taken for characters, of Latin-1, and encoded again.
pass bytes of UTF-8 on as they are)"},
    {"tokens-id-offset", Kind::tokens, R"(all token ids are off by a constant
The vocabulary is counted from elsewhere: special tokens before it, or an index from 1.
id i is entry i of tokenizer.ggml.tokens)"},
    {"tokens-reversed", Kind::tokens, R"(the tokens are in reverse
A list that is built from its end was not turned round.
keep the order of the text)"},
    {"tokens-cut", Kind::tokens, R"(the prompt was cut
Its beginning or end is missing.
give the model the whole prompt)"},
    {"tokens-by-character", Kind::tokens, R"(the text was encoded character by character
Merges are not applied.
apply the vocabulary's merges)"},
    {"template-missing", Kind::chat_template, R"(the chat template was not applied
The text went to the model as it is; a chat model answers as if it were in the middle of a text.
render the file's tokenizer.chat_template)"},
    {"template-applied", Kind::chat_template, R"(a chat template was applied to a text that should go as it is
The prompt was meant raw.
do not render the template)"},
    {"template-other", Kind::chat_template, R"(another chat template was applied
The turns are marked as another model family does.
render the file's tokenizer.chat_template)"},
    {"template-generation-prompt", Kind::chat_template, R"(the template's generation prompt is missing
The model is not told that it is its turn, and goes on with the user's.
render with add_generation_prompt)"},
    {"template-system", Kind::chat_template, R"(the template's system message is missing
The template adds one by itself, or it was given and lost.
give the template all messages)"},
};

// The broken rule of that name in prompt_table.
consteval const Hypothesis* rule(std::string_view name) { return &entry(prompt_table, name); }

// Chat templates of well-known families for one turn; {0} is the system's message, {1} the user's.
struct Family {
  std::string_view name;
  std::string_view with_system, without;
};
// Sources: the chat_template of each family's tokenizer_config.json on Hugging Face, spelled out for one turn.
constexpr Family families_of_templates[] = {
    {"ChatML", "<|im_start|>system\n{0}<|im_end|>\n<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n"},
    {"ChatML with a system message", "",
     "<|im_start|>system\nYou are a helpful "
     "assistant.<|im_end|>\n<|im_start|>user\n{1}<|im_end|>\n<|im_start|>assistant\n"},
    {"Llama 2", "[INST] <<SYS>>\n{0}\n<</SYS>>\n\n{1} [/INST]", "[INST] {1} [/INST]"},
    {"Llama 3",
     "<|start_header_id|>system<|end_header_id|>\n\n{0}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{1}<|eot_id|><"
     "|start_header_id|>assistant<|end_header_id|>\n\n",
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

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

// UTF-8 bytes read as Latin-1 characters and encoded as UTF-8 again.
std::string latin1_as_utf8(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      result += c;
    } else {
      result += {static_cast<char>(0xc0 | byte >> 6), static_cast<char>(0x80 | (byte & 0x3f))};
    }
  }
  return result;
}

std::string collapsed(std::string text) {
  text.erase(std::unique(text.begin(), text.end(), [](char a, char b) { return a == ' ' && b == ' '; }), text.end());
  return text;
}

// A text to encode, and the rules that were broken to make it.
struct Base {
  std::string text;
  bool rendered = false;  // a template rendered it: special tokens are parsed, BOS is added unless written
  std::vector<BrokenRule> broken;
  bool of_template = false;
};

// The broken rule that explains the ids without the text, if there is one.
std::optional<BrokenRule> broken_in_ids(const Tokens& right, const Tokens& tokens, const text::SpecialTokens& special) {
  if (special.bos) {
    const bool has = !right.empty() && right.front() == *special.bos;
    if (has && std::equal(right.begin() + 1, right.end(), tokens.begin(), tokens.end()))
      return BrokenRule{rule("tokens-bos-missing")};
    Tokens more = right;
    more.insert(more.begin(), *special.bos);
    if (more == tokens) return BrokenRule{has ? rule("tokens-bos-doubled") : rule("tokens-bos-added")};
  }
  if (special.eos) {
    Tokens more = right;
    more.push_back(*special.eos);
    if (more == tokens) return BrokenRule{rule("tokens-eos-added")};
  }
  for (const TokenId by : {1, -1, 3, -3}) {
    const auto is_shifted = [by](TokenId due, TokenId has) { return std::int64_t{due} + by == has; };
    if (std::equal(right.begin(), right.end(), tokens.begin(), tokens.end(), is_shifted))
      return BrokenRule{rule("tokens-id-offset"), fmt::format("ids {:+d}", by)};
  }
  if (tokens != right && std::equal(right.rbegin(), right.rend(), tokens.begin(), tokens.end()))
    return BrokenRule{rule("tokens-reversed")};
  return std::nullopt;
}

// Whether a part of the ids is missing.
std::optional<BrokenRule> cut(const Tokens& right, const Tokens& tokens) {
  if (tokens.size() >= right.size() || tokens.size() < 2) return std::nullopt;
  const std::size_t n = right.size() - tokens.size();
  const auto missing = [&](fmt::format_string<const std::size_t&, std::size_t> which) {
    return BrokenRule{rule("tokens-cut"), fmt::format(which, n, right.size())};
  };
  if (std::equal(tokens.begin(), tokens.end(), right.begin())) return missing("the last {} of {} tokens are missing");
  if (std::equal(tokens.rbegin(), tokens.rend(), right.rbegin())) return missing("the first {} of {} tokens are missing");
  // As with a context that is too short: the first token stays, the next ones are dropped.
  if (tokens.front() == right.front() && std::equal(tokens.rbegin(), tokens.rend() - 1, right.rbegin()))
    return missing("{} of {} tokens behind the first are missing");
  return std::nullopt;
}

// The first difference of the ids; `shown` writes an id.
std::string difference(const Tokens& right, const Tokens& tokens, std::string_view by_whom,
                       const std::function<std::string(TokenId)>& shown) {
  const auto at = static_cast<std::size_t>(std::mismatch(right.begin(), right.end(), tokens.begin(), tokens.end()).first -
                                           right.begin());
  return fmt::format("the tokens differ from index {} on: {} where {} {}; {} tokens in place of {}", at,
                     at < tokens.size() ? shown(tokens[at]) : "no token", by_whom,
                     at < right.size() ? shown(right[at]) : "none", tokens.size(), right.size());
}

class Checker {
 public:
  Checker(const text::Tokenizer& tokenizer, const std::optional<text::ChatTemplate>& chat_template,
          std::span<const TokenId> tokens, const Prompt& prompt)
      : tokenizer_(tokenizer), template_(chat_template), tokens_(tokens.begin(), tokens.end()), prompt_(prompt) {}

  Result<TokenCheck> run() {
    bases();
    // Tries few broken rules before many.
    for (const bool broken_base : {false, true}) {
      for (const bool changed : {false, true}) {
        for (const Base& base : bases_) {
          if (base.broken.empty() == broken_base) continue;
          if (auto found = changed ? with_mistakes(base) : as_it_is(base)) return *found;
        }
      }
    }
    // Reports missing tokens only if no other rule explains them.
    for (const Base& base : bases_) {
      if (!base.broken.empty()) continue;
      if (auto broken = cut(encode(base), tokens_)) return found(base, {*broken});
    }
    return unexplained();
  }

 private:
  [[nodiscard]] std::string special_text(std::optional<TokenId> id) const {
    return id ? std::string(tokenizer_.piece(*id)) : std::string();
  }

  std::optional<std::string> render(const std::string& system, const std::string& user, bool generation_prompt) {
    if (!template_) return std::nullopt;
    text::ChatInput input;
    input.messages = nlohmann::ordered_json::array();
    if (!system.empty()) input.messages.push_back({{"role", "system"}, {"content", system}});
    input.messages.push_back({{"role", "user"}, {"content", user}});
    input.add_generation_prompt = generation_prompt;
    input.variables = prompt_.variables;
    input.bos_token = special_text(tokenizer_.special().bos);
    input.eos_token = special_text(tokenizer_.special().eos);
    const auto text = text::render_chat(*template_, input);
    return text ? std::optional(*text) : std::nullopt;
  }

  void bases() {
    const bool text = prompt_.form != Prompt::Form::message, message = prompt_.form != Prompt::Form::text;
    const auto add = [&](std::string content, bool rendered, std::vector<BrokenRule> broken, bool of_template) {
      bases_.push_back({std::move(content), rendered, std::move(broken), of_template});
    };
    // A text of unknown origin may contain its BOS, as written by a template.
    if (text || !template_) add(prompt_.text, prompt_.form == Prompt::Form::either, {}, false);
    const auto right = render(prompt_.system, prompt_.text, true);
    if (message && right) add(*right, true, {}, true);
    if (!text && template_) add(prompt_.text, false, {{rule("template-missing"), ""}}, false);
    if (!message && right) add(*right, true, {{rule("template-applied"), ""}}, true);
    if (!right) return;
    if (const auto without = render(prompt_.system, prompt_.text, false); without && *without != *right) {
      add(*without, true, {{rule("template-generation-prompt"), ""}}, true);
    }
    if (!prompt_.system.empty()) {
      if (const auto without = render("", prompt_.text, true))
        add(*without, true, {{rule("template-system"), "the message that was given"}}, true);
    }
    // The template's text before the user's first turn when no system message is given.
    if (const std::size_t at = right->find(prompt_.text); prompt_.system.empty() && at != std::string::npos) {
      if (const auto empty = render("", "", true)) {
        const std::size_t turn = right->rfind('\n', at >= 2 ? at - 2 : 0);
        if (turn != std::string::npos && turn > 0) {
          add(right->substr(turn + 1), true, {{rule("template-system"), "the one that the template adds"}}, true);
        }
      }
    }
    for (const Family& family : families_of_templates) {
      const std::string_view form = prompt_.system.empty() ? family.without : family.with_system;
      if (form.empty()) continue;
      std::string content = replaced(std::string(form), "{0}", prompt_.system);
      content = replaced(std::move(content), "{1}", prompt_.text);
      if (content == *right) continue;
      const BrokenRule broken{rule("template-other"), fmt::format("{}'s", family.name)};
      const std::string bos = special_text(tokenizer_.special().bos);
      add(content, true, {broken}, true);
      if (!bos.empty()) add(bos + content, true, {broken}, true);
    }
  }

  [[nodiscard]] bool writes_bos(const std::string& text) const {
    const std::string bos = special_text(tokenizer_.special().bos);
    return !bos.empty() && text.starts_with(bos);
  }

  [[nodiscard]] Tokens encode(const std::string& text, bool add_special, bool parse_special) const {
    auto tokens = tokenizer_.encode(text, {.add_special = add_special, .parse_special = parse_special});
    return tokens ? *tokens : Tokens();
  }
  // The right encoding: special tokens that the template wrote are parsed. `plumb tokenize` and llama.cpp also parse those
  // written in a text.
  [[nodiscard]] Tokens encode(const Base& base) const {
    return encode(base.text, !(base.rendered && writes_bos(base.text)), true);
  }

  std::optional<TokenCheck> as_it_is(const Base& base) {
    const Tokens right = encode(base);
    if (expected_.empty()) expected_ = right;
    if (right == tokens_) return found(base, {});
    return std::nullopt;
  }

  std::optional<TokenCheck> with_mistakes(const Base& base) {
    const Tokens right = encode(base);
    if (auto broken = broken_in_ids(right, tokens_, tokenizer_.special())) return found(base, {*broken});
    const std::string& text = base.text;
    const auto as = [&](std::string changed) {
      Base other = base;
      other.text = std::move(changed);
      return encode(other);
    };
    // The first rule that gives the run's tokens is the broken one.
    const struct {
      const Hypothesis* broken;
      std::string detail;
      Tokens tokens;
    } changes[] = {
        {rule("tokens-special-as-text"), "", encode(text, !(base.rendered && writes_bos(text)), false)},
        {rule("tokens-newline-as-space"), "'\\n' is read as ' '", as(replaced(text, "\n", " "))},
        {rule("tokens-newline-as-space"), "'\\n' is read as '\xe2\x96\x81'", as(replaced(text, "\n", "\xe2\x96\x81"))},
        {rule("tokens-newline-as-space"), "the newline's token is that of a space", newline_token_as_space(right)},
        {rule("tokens-newline-dropped"), "", as(replaced(text, "\n", ""))},
        {rule("tokens-space-prefix-added"), "", as(" " + text)},
        {rule("tokens-space-prefix-missing"), "", without_prefix(base)},
        {rule("tokens-white-space"), "trimmed at both ends", as(std::string(trimmed(text)))},
        {rule("tokens-white-space"), "runs of spaces became one", as(collapsed(text))},
        {rule("tokens-white-space"), "tabs became spaces", as(replaced(text, "\t", " "))},
        {rule("tokens-white-space"), "newlines became CR LF", as(replaced(text, "\n", "\r\n"))},
        {rule("tokens-case"), "in small letters", as(in_small_letters(text))},
        {rule("tokens-white-space"), "a newline was put at the end", as(text + "\n")},
        {rule("tokens-white-space"), "the newline at the end is missing",
         text.ends_with('\n') ? as(text.substr(0, text.size() - 1)) : Tokens()},
        {rule("tokens-newline-as-text"), "", as(replaced(text, "\n", "\\n"))},
        {rule("tokens-encoded-twice"), "", as(latin1_as_utf8(text))},
        {rule("tokens-by-character"), "", by_character(base)},
    };
    for (const auto& [broken, detail, tokens] : changes) {
      if (tokens == tokens_) return found(base, {{broken, detail}});
    }
    return std::nullopt;
  }

  [[nodiscard]] Tokens newline_token_as_space(Tokens tokens) const {
    auto space = tokenizer_.find("\xe2\x96\x81");
    if (!space) space = tokenizer_.find("\xc4\xa0");
    if (!space) return {};
    for (TokenId& token : tokens) {
      if (tokenizer_.token_text(token) == "\n") token = *space;
    }
    return tokens;
  }

  // The text's tokens without the tokenizer's space in front: the text is encoded after a newline, which is then removed.
  [[nodiscard]] Tokens without_prefix(const Base& base) const {
    const Tokens head = encode("\n", true, true);
    const Tokens both = encode("\n" + base.text, true, true);
    if (both.size() < head.size() || !std::equal(head.begin(), head.end(), both.begin())) return {};
    Tokens result;
    if (const auto bos = tokenizer_.special().bos; bos && !head.empty() && head.front() == *bos) result.push_back(*bos);
    result.insert(result.end(), both.begin() + static_cast<std::ptrdiff_t>(head.size()), both.end());
    return result;
  }

  [[nodiscard]] Tokens by_character(const Base& base) const {
    Tokens result = encode("", true, true);
    for (std::size_t i = 0; i < base.text.size();) {
      std::size_t n = 1;
      while (i + n < base.text.size() && (static_cast<unsigned char>(base.text[i + n]) & 0xc0) == 0x80) ++n;
      const std::string piece =
          replaced(base.text.substr(i, n), " ", tokenizer_.find("\xe2\x96\x81") ? "\xe2\x96\x81" : "\xc4\xa0");
      const auto id = tokenizer_.find(piece);
      if (!id) return {};
      result.push_back(*id);
      i += n;
    }
    return result;
  }

  [[nodiscard]] std::string shown(TokenId id) const {
    if (id < 0 || static_cast<std::uint32_t>(id) >= tokenizer_.size()) return fmt::format("{}", id);
    return fmt::format("{} '{}'", id, replaced(tokenizer_.token_text(id, true), "\n", "\\n"));
  }

  [[nodiscard]] std::string difference() const {
    return diagnose::difference(expected_, tokens_, "the file's tokenizer gives", [&](TokenId id) { return shown(id); });
  }

  TokenCheck found(const Base& base, std::vector<BrokenRule> mistakes) {
    TokenCheck check;
    // The right tokens for this way of making them: with the template, where the prompt was meant for it.
    const auto right =
        std::find_if(bases_.begin(), bases_.end(), [](const Base& b) { return b.of_template && b.broken.empty(); });
    if (base.of_template && right != bases_.end()) expected_ = encode(*right);
    check.broken = base.broken;
    check.broken.insert(check.broken.end(), mistakes.begin(), mistakes.end());
    check.follows = check.broken.empty();
    check.used_template = base.of_template && base.broken.empty();
    check.evidence = check.follows ? fmt::format("the {} tokens are those of the prompt's text, {}", tokens_.size(),
                                                 base.of_template ? "through the chat template" : "as it is written")
                                   : difference();
    return check;
  }

  TokenCheck unexplained() {
    TokenCheck check;
    // A trace's text may be decoded from its tokens; its spaces may then differ from those that were encoded.
    const auto without_space = [](std::string text) {
      std::erase(text, ' ');
      return text;
    };
    const std::string given = without_space(prompt_.text);
    check.spells = prompt_.form == Prompt::Form::either && (without_space(tokenizer_.decode(tokens_, true)) == given ||
                                                            without_space(tokenizer_.decode(tokens_, false)) == given);
    check.evidence =
        check.spells
            ? "the tokens spell the prompt's text, but are not those that the file's tokenizer makes of it; -p tells what "
              "the engine was asked"
            : difference() + "; no rule of the catalogue explains it";
    return check;
  }

  const text::Tokenizer& tokenizer_;
  const std::optional<text::ChatTemplate>& template_;
  Tokens tokens_, expected_;
  const Prompt& prompt_;
  std::vector<Base> bases_;
};

}  // namespace

std::span<const Hypothesis> families::tokens() { return prompt_table; }

Result<TokenCheck> check_tokens(const text::Tokenizer& tokenizer, const std::optional<text::ChatTemplate>& chat_template,
                                std::span<const TokenId> tokens, const Prompt& prompt) {
  return Checker(tokenizer, chat_template, tokens, prompt).run();
}

TokenCheck check_ids(const text::SpecialTokens& special, std::span<const TokenId> tokens, std::span<const TokenId> due) {
  const Tokens right(due.begin(), due.end()), has(tokens.begin(), tokens.end());
  TokenCheck check;
  check.follows = right == has;
  if (check.follows) {
    check.evidence = fmt::format("the {} tokens are those given", has.size());
    return check;
  }
  auto broken = broken_in_ids(right, has, special);
  if (!broken) broken = cut(right, has);
  if (broken) check.broken.push_back(*broken);
  check.evidence = difference(right, has, "those given have", [](TokenId id) { return fmt::format("{}", id); });
  return check;
}

}  // namespace plumb::diagnose
