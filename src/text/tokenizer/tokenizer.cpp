#include "text/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <variant>

#include "gguf/kind.h"
#include "text/tokenizer/encoder.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/vocabulary.h"

namespace plumb::text {

namespace {

constexpr std::string_view model_key = "tokenizer.ggml.model";
constexpr std::string_view pre_key = "tokenizer.ggml.pre";

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// A text between special tokens, or a special token.
struct Fragment {
  std::string_view text;
  TokenId token = -1;  // when text is empty
};

// Cuts `text` at the special tokens that it contains: longer tokens first, each from left to right.
std::vector<Fragment> cut_at_special(const Vocabulary& vocabulary, std::string_view text, const EncodeOptions& options) {
  const auto is_control = [&](TokenId token) { return vocabulary.is(token, attribute_control | attribute_unknown); };
  std::vector<TokenId> present;
  std::vector<bool> seen;
  for (std::size_t at = 0; at < text.size(); ++at) {
    vocabulary.special_trie.for_each_prefix(text, at, [&](TokenId token, std::size_t) {
      if (!options.parse_special && is_control(token)) return;
      if (seen.empty()) seen.resize(vocabulary.size());
      if (seen[static_cast<std::size_t>(token)]) return;
      seen[static_cast<std::size_t>(token)] = true;
      present.push_back(token);
    });
  }
  std::sort(present.begin(), present.end(), [&](TokenId a, TokenId b) {
    return vocabulary.piece(a).size() != vocabulary.piece(b).size()
               ? vocabulary.piece(a).size() > vocabulary.piece(b).size()
               : a < b;
  });

  std::vector<Fragment> fragments;
  if (!text.empty()) fragments.push_back({text});
  for (const TokenId token : present) {
    const std::string_view piece = vocabulary.piece(token);
    std::vector<Fragment> cut;
    const auto push_text = [&](std::string_view part) {
      if (!part.empty()) cut.push_back({part});
    };
    for (const Fragment& fragment : fragments) {
      if (fragment.text.empty()) {
        cut.push_back(fragment);
        continue;
      }
      std::string_view rest = fragment.text;
      std::size_t from = 0;
      for (std::size_t at = rest.find(piece); at != std::string_view::npos; at = rest.find(piece, from)) {
        const auto place = static_cast<std::size_t>(rest.data() + at - text.data());
        if (is_control(token) && std::ranges::binary_search(options.plain, place)) {
          from = at + 1;
          continue;
        }
        from = 0;
        std::string_view left = rest.substr(0, at);
        rest.remove_prefix(at + piece.size());
        if (vocabulary.is(token, attribute_lstrip))
          while (!left.empty() && is_ascii_space(left.back())) left.remove_suffix(1);
        if (vocabulary.is(token, attribute_rstrip))
          while (!rest.empty() && is_ascii_space(rest.front())) rest.remove_prefix(1);
        push_text(left);
        cut.push_back({{}, token});
      }
      push_text(rest);
    }
    fragments = std::move(cut);
  }
  return fragments;
}

}  // namespace

struct Tokenizer::State {
  explicit State(const gguf::File& source) : file(source) {}

  gguf::File file;  // keeps the vocabulary's strings mapped
  Vocabulary vocabulary;
  std::unique_ptr<Encoder> encoder;
  std::string description;

  Result<void> load_sentencepiece() {
    PLUMB_TRY(vocabulary, load_vocabulary(file, Model::sentencepiece, {.add_bos = true, .add_space_prefix = true}));
    encoder = make_sentencepiece(vocabulary);
    description = "SentencePiece";
    return {};
  }

  Result<void> load_bpe(std::string_view model) {
    PLUMB_TRY(const auto named, optional_string(file, pre_key));
    const std::string_view name = model == "gemma4" ? model : named && !named->empty() ? *named : "default";
    auto pre_tokenizer = PreTokenizer::make(name);
    if (!pre_tokenizer) return fail("{}: {}", file.label(), pre_tokenizer.error().message);
    const PreTokenizerRules rules = pre_tokenizer->rules();
    PLUMB_TRY(vocabulary, load_vocabulary(file, Model::bpe, {.add_bos = rules.add_bos, .forces_bos = rules.forces_bos}));
    PLUMB_TRY(encoder, make_bpe(file, vocabulary, std::move(*pre_tokenizer)));
    description = named || model == "gemma4"
                      ? fmt::format("BPE ({})", name)
                      : "BPE (default: the file names no pre-tokenizer, so ids may differ from the model's own)";
    return {};
  }

  Result<void> load_wordpiece() {
    PLUMB_TRY(vocabulary, load_vocabulary(file, Model::wordpiece, {.add_bos = true}));
    PLUMB_TRY(encoder, make_wordpiece(file, vocabulary));
    description = "WordPiece";
    return {};
  }

  [[nodiscard]] bool valid(TokenId token) const {
    return token >= 0 && static_cast<std::uint32_t>(token) < vocabulary.size();
  }

  [[nodiscard]] std::string spell(TokenId token, bool with_special) const {
    if (!valid(token)) return {};
    if (vocabulary.is(token, attribute_control | attribute_unknown))
      return with_special ? std::string(vocabulary.piece(token)) : std::string();
    if (vocabulary.is(token, attribute_user_defined)) return std::string(vocabulary.piece(token));
    return encoder->spell(token);
  }
};

Result<Tokenizer> Tokenizer::load(const gguf::File& file) {
  PLUMB_CHECK(gguf::expect_model(file));
  PLUMB_TRY(const std::string_view model, file.get_string(model_key));
  auto state = std::make_shared<State>(file);
  if (model == "llama") {
    PLUMB_CHECK(state->load_sentencepiece());
  } else if (model == "gpt2" || model == "gemma4") {
    PLUMB_CHECK(state->load_bpe(model));
  } else if (model == "bert") {
    PLUMB_CHECK(state->load_wordpiece());
  } else if (model == "no_vocab" || model == "none") {
    return fail("{}: {} is '{}': this file has no tokenizer; give token ids instead of text", file.label(), model_key,
                model);
  } else {
    return fail("{}: {} is '{}'; llama (SentencePiece), gpt2 (byte-level BPE), gemma4 and bert (WordPiece) are supported",
                file.label(), model_key, model.substr(0, 60));
  }
  Tokenizer tokenizer;
  tokenizer.state_ = std::move(state);
  return tokenizer;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  const Vocabulary& vocabulary = state_->vocabulary;
  std::vector<TokenId> out;
  if (options.add_special && vocabulary.special.add_bos) out.push_back(*vocabulary.special.bos);
  bool starts = true;
  for (const Fragment& fragment : cut_at_special(vocabulary, text, options)) {
    if (fragment.text.empty()) {
      out.push_back(fragment.token);
      starts = true;
    } else {
      PLUMB_CHECK(state_->encoder->encode(fragment.text, starts, out));
      starts = false;
    }
  }
  if (options.add_special) {
    if (vocabulary.model == Model::wordpiece) {
      out.push_back(*vocabulary.special.separator);
    } else if (vocabulary.special.add_eos) {
      out.push_back(*vocabulary.special.eos);
    }
  }
  return out;
}

std::vector<std::size_t> Tokenizer::control_tokens(std::string_view text) const {
  const Vocabulary& vocabulary = state_->vocabulary;
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < text.size(); ++at) {
    bool begins = false;
    vocabulary.special_trie.for_each_prefix(text, at, [&](TokenId token, std::size_t) {
      begins = begins || vocabulary.is(token, attribute_control | attribute_unknown);
    });
    if (begins) places.push_back(at);
  }
  return places;
}

std::string Tokenizer::decode(std::span<const TokenId> tokens, bool special) const {
  std::string text;
  bool at_start = state_->encoder->adds_space();
  for (const TokenId token : tokens) {
    std::string part = state_->spell(token, special);
    if (part.empty()) continue;
    if (at_start && part.front() == ' ') part.erase(0, 1);
    at_start = false;
    text += part;
  }
  return text;
}

std::string Tokenizer::token_text(TokenId token, bool special) const { return state_->spell(token, special); }

std::uint32_t Tokenizer::size() const { return state_->vocabulary.size(); }

Result<void> Tokenizer::check(std::span<const TokenId> tokens) const {
  for (const TokenId token : tokens) {
    if (token >= 0 && static_cast<std::uint32_t>(token) < size()) continue;
    return fail("token {} is outside the vocabulary of {} tokens", token, size());
  }
  return {};
}

std::string_view Tokenizer::piece(TokenId token) const {
  return state_->valid(token) ? state_->vocabulary.piece(token) : std::string_view();
}

TokenType Tokenizer::type(TokenId token) const {
  const Vocabulary& v = state_->vocabulary;
  if (!state_->valid(token)) return TokenType::unused;
  if (v.is(token, attribute_control)) return TokenType::control;
  if (v.is(token, attribute_unknown)) return TokenType::unknown;
  if (v.is(token, attribute_user_defined)) return TokenType::user_defined;
  if (v.is(token, attribute_byte)) return TokenType::byte;
  return v.is(token, attribute_normal) ? TokenType::normal : TokenType::unused;
}

std::optional<TokenId> Tokenizer::find(std::string_view piece) const { return state_->vocabulary.find(piece); }

const SpecialTokens& Tokenizer::special() const { return state_->vocabulary.special; }

bool Tokenizer::ends_generation(TokenId token) const {
  const std::vector<TokenId>& ends = state_->vocabulary.end_of_generation;
  return std::binary_search(ends.begin(), ends.end(), token);
}

const std::vector<std::string>& Tokenizer::warnings() const { return state_->vocabulary.warnings; }

const std::string& Tokenizer::description() const { return state_->description; }

}  // namespace plumb::text
