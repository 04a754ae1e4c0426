// WordPiece as BERT has it, on vocabularies written for llama.cpp: a piece that starts a word begins with U+2581, and the
// others have lost their "##". Words are normalized (case, accents) and split at spaces, punctuation and CJK characters; a
// word is spelled by the longest pieces from its start, or is unknown. Normalization follows llama.cpp, so that ids agree:
// a character's decomposition counts with its first character only, and all marks are accents.
#include <algorithm>
#include <array>

#include "text/tokenizer/encoder.h"
#include "text/unicode/tables.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

template <class Range>
const Range* range_of(std::span<const Range> table, std::uint32_t c) {
  const auto above =
      std::upper_bound(table.begin(), table.end(), c, [](std::uint32_t value, const Range& r) { return value < r.first; });
  if (above == table.begin() || c > std::prev(above)->last) return nullptr;
  return &*std::prev(above);
}

std::uint32_t mapped(std::span<const MappedRange> table, std::uint32_t c) {
  const MappedRange* range = range_of(table, c);
  if (range == nullptr || (c - range->first) % range->stride != 0) return c;
  return c + static_cast<std::uint32_t>(range->delta);
}

bool is_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_cjk(std::uint32_t c) {
  constexpr auto blocks = std::to_array<CodePointRange>({
      {0x3400, 0x4dbf},
      {0x4e00, 0x9fff},
      {0xf900, 0xfaff},
      {0x20000, 0x2a6df},
      {0x2a700, 0x2b73f},
      {0x2b740, 0x2b81f},
      {0x2b920, 0x2ceaf},
      {0x2f800, 0x2fa1f},
  });
  return range_of(std::span<const CodePointRange>(blocks), c) != nullptr;
}

bool is_ascii_symbol(std::uint32_t c) {
  return c < 0x7f && std::string_view("$+<=>^`|~").find(static_cast<char>(c)) != std::string_view::npos;
}

std::uint32_t base_of(std::uint32_t c) {
  constexpr std::uint32_t first_syllable = 0xac00;
  constexpr std::uint32_t last_syllable = 0xd7a3;
  constexpr std::uint32_t per_leading_consonant = 588;
  if (c >= first_syllable && c <= last_syllable) return 0x1100 + (c - first_syllable) / per_leading_consonant;
  return mapped(decomposition_bases, c);
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
      const std::size_t length = utf8_length(text, at);
      std::uint32_t c = length == 0 ? 0 : utf8_code_point(text, at, length);
      at += std::max<std::size_t>(length, 1);
      if (strip_accents_) c = base_of(c);
      if (is_space(c)) {
        finish();
        continue;
      }
      if (c == 0 || c == 0xfffd || range_of(controls, c) != nullptr) continue;
      if (strip_accents_ && range_of(marks, c) != nullptr) continue;
      const bool alone = range_of(punctuation, c) != nullptr || is_ascii_symbol(c) || is_cjk(c);
      if (alone) finish();
      append_utf8(word, lower_case_ ? mapped(lower_case, c) : c);
      if (alone) finish();
    }
    finish();
    return {};
  }

  std::string spell(TokenId token) const override {
    return unblock_spaces(vocabulary_.pieces[static_cast<std::size_t>(token)]);
  }

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
