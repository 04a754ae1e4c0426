// WordPiece, as in BERT, with vocabularies in llama.cpp's form: a piece that starts a word begins with U+2581, and the
// others have no "##". Words are normalized (case, accents) and split at spaces, punctuation and CJK characters. A word is
// spelled with the longest pieces from its start on, or is unknown. Normalization follows llama.cpp, so that ids agree:
// only the first character of a decomposition counts, and all marks are accents.
#include <algorithm>
#include <array>

#include "text/tokenizer/encoder.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

// The blocks that BERT splits into single characters.
bool is_cjk(char32_t c) {
  constexpr auto blocks = std::to_array<std::pair<char32_t, char32_t>>({
      {0x3400, 0x4dbf},
      {0x4e00, 0x9fff},
      {0xf900, 0xfaff},
      {0x20000, 0x2a6df},
      {0x2a700, 0x2b73f},
      {0x2b740, 0x2b81f},
      {0x2b920, 0x2ceaf},
      {0x2f800, 0x2fa1f},
  });
  return std::ranges::any_of(blocks, [c](const auto& block) { return c >= block.first && c <= block.second; });
}

bool is_ascii_symbol(char32_t c) {
  return c < 0x7f && std::string_view("$+<=>^`|~").find(static_cast<char>(c)) != std::string_view::npos;
}

class WordPiece final : public Encoder {
 public:
  explicit WordPiece(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
    for (std::uint32_t i = 0; i < vocabulary_.size(); ++i)
      if (!vocabulary_.pieces[i].empty()) pieces_.insert(vocabulary_.pieces[i], static_cast<TokenId>(i));
  }

  Result<void> load(const gguf::File& file) {
    PLUMB_TRY(lower_case_, bool_or(file, "tokenizer.ggml.normalizer.lowercase", true));
    PLUMB_TRY(strip_accents_, bool_or(file, "tokenizer.ggml.normalizer.strip_accents", lower_case_));
    if (!vocabulary_.special.unknown)
      return fail("{}: tokenizer.ggml.unknown_token_id is missing, and WordPiece needs it", file.label());
    return {};
  }

  Result<void> encode(std::string_view text, bool /*starts*/, std::vector<TokenId>& out) const override {
    std::string word(space_block);
    const auto finish = [&] {
      if (word.size() > space_block.size()) encode_word(word, out);
      word = space_block;
    };
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = unicode::length_at(text, at);
      char32_t c = length == 0 ? 0 : unicode::code_point(text, at, length);
      at += std::max<std::size_t>(length, 1);
      if (strip_accents_) c = unicode::base(c);
      // Unlike in Python, the separators of files, groups, records and units are no white space here.
      if (unicode::is_space(c) && !(c >= 0x1c && c <= 0x1f)) {
        finish();
        continue;
      }
      if (c == 0 || c == 0xfffd || unicode::is_control(c)) continue;
      if (strip_accents_ && unicode::is_mark(c)) continue;
      const bool alone = unicode::is_punctuation(c) || is_ascii_symbol(c) || is_cjk(c);
      if (alone) finish();
      unicode::append(word, lower_case_ ? unicode::lower(c) : c);
      if (alone) finish();
    }
    finish();
    return {};
  }

  std::string spell(TokenId token) const override { return unblock_spaces(vocabulary_.piece(token)); }

  bool adds_space() const override { return true; }

 private:
  void encode_word(std::string_view word, std::vector<TokenId>& out) const {
    const std::size_t before = out.size();
    for (std::size_t at = 0; at < word.size();) {
      TokenId longest = 0;
      std::size_t longest_length = 0;
      pieces_.for_each_prefix(word, at, [&](TokenId token, std::size_t length) {
        longest = token;
        longest_length = length;
      });
      if (longest_length == 0) {
        out.resize(before);
        out.push_back(*vocabulary_.special.unknown);
        return;
      }
      out.push_back(longest);
      at += longest_length;
    }
  }

  const Vocabulary& vocabulary_;
  ByteTrie pieces_;
  bool lower_case_ = true;
  bool strip_accents_ = true;
};

}  // namespace

Result<std::unique_ptr<Encoder>> make_wordpiece(const gguf::File& file, const Vocabulary& vocabulary) {
  auto wordpiece = std::make_unique<WordPiece>(vocabulary);
  PLUMB_CHECK(wordpiece->load(file));
  return wordpiece;
}

}  // namespace plumb::text
