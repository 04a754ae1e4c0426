// Byte-level BPE, as in GPT-2 (https://github.com/openai/gpt-2/blob/master/src/encoder.py). Within each piece of the
// pre-tokenizer, the pair of neighbours that is first in the list of merges becomes one symbol. Bytes are spelled in an
// alphabet of printable characters. Some models spell characters as they are, and have SentencePiece's byte tokens.
#include <array>
#include <deque>

#include "text/tokenizer/encoder.h"
#include "text/tokenizer/merge.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

constexpr std::string_view merges_key = "tokenizer.ggml.merges";
constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD

bool prints_as_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// GPT-2's alphabet: a printable byte is the character U+0000 + byte; the other bytes are U+0100 and on, in order.
struct ByteAlphabet {
  std::array<std::uint16_t, 256> code_points{};
  std::array<std::int16_t, 512> bytes{};

  ByteAlphabet() {
    bytes.fill(-1);
    std::uint16_t other = 256;
    for (unsigned byte = 0; byte < 256; ++byte) {
      code_points[byte] = prints_as_itself(byte) ? static_cast<std::uint16_t>(byte) : other++;
      bytes[code_points[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet the_one;
  return the_one;
}

// Whether a byte never occurs in well-formed UTF-8.
bool never_in_utf8(unsigned byte) { return byte == 0xc0 || byte == 0xc1 || byte >= 0xf5; }

class Bpe final : public Encoder {
 public:
  Bpe(const Vocabulary& vocabulary, PreTokenizer pre_tokenizer)
      : vocabulary_(vocabulary), pre_tokenizer_(std::move(pre_tokenizer)), rules_(pre_tokenizer_.rules()) {}

  Result<void> load(const gguf::File& file) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      const auto value = static_cast<unsigned char>(byte);
      if (rules_.byte_level) {
        spelled_.clear();
        unicode::append(spelled_, alphabet().code_points[byte]);
        symbols_of_bytes_[byte] = symbol(spelled_);
      }
      const auto token = rules_.byte_level ? vocabulary_.find(spelled_) : vocabulary_.find(hex_piece(value));
      tokens_of_bytes_[byte] = token ? *token : none;
      // Some vocabularies lack these bytes, or have the letters that would spell them as added tokens, which mean the
      // letters.
      const bool added = token && vocabulary_.is(*token, attribute_user_defined | attribute_control);
      lost_when_invalid_[byte] = rules_.byte_level && (!token || (added && never_in_utf8(byte)));
      loses_invalid_ = loses_invalid_ || lost_when_invalid_[byte];
    }
    return load_merges(file);
  }

  Result<void> encode(std::string_view text, bool /*starts*/, std::vector<TokenId>& out) const override {
    std::string changed;
    if (rules_.spaces_as_blocks) {
      changed = block_spaces(text);
      text = changed;
    }
    std::string repaired;
    if (loses_invalid_) text = repair(text, repaired);
    PLUMB_TRY(const std::vector<std::uint32_t> ends, pre_tokenizer_.split(text));
    PieceCache cache;
    Work work;
    std::uint32_t begin = 0;
    for (const std::uint32_t end : ends) {
      const std::string_view word = text.substr(begin, end - begin);
      begin = end;
      if (cache.append(word, out)) continue;
      const std::size_t before = out.size();
      encode_word(word, work, out);
      cache.remember(word, std::span(out).subspan(before));
    }
    return {};
  }

  std::string spell(TokenId token) const override {
    const std::string_view piece = vocabulary_.piece(token);
    if (vocabulary_.is(token, attribute_byte))
      if (const auto byte = vocabulary_.hex_byte(token)) return std::string(1, static_cast<char>(*byte));
    if (rules_.spaces_as_blocks) return unblock_spaces(piece);
    if (!rules_.byte_level) return std::string(piece);
    std::string text;
    for (std::size_t at = 0; at < piece.size();) {
      const std::size_t length = unicode::length_at(piece, at);
      const char32_t c = length == 0 ? 0 : unicode::code_point(piece, at, length);
      if (length != 0 && c < alphabet().bytes.size() && alphabet().bytes[c] >= 0) {
        text += static_cast<char>(alphabet().bytes[c]);
      } else {
        text += piece.substr(at, std::max<std::size_t>(length, 1));
      }
      at += std::max<std::size_t>(length, 1);
    }
    return text;
  }

  bool adds_space() const override { return false; }

 private:
  static constexpr TokenId none = -1;
  struct Work {
    Merger merger;
    std::vector<Symbol> symbols;
    std::string spelled;
  };

  static std::uint64_t pair_key(TokenId left, TokenId right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }

  // The id under which a string takes part in merges: its token, or a number above all tokens if it is none.
  TokenId symbol(std::string_view text) {
    if (const auto token = vocabulary_.find(text)) return *token;
    const auto text_of = [this](std::uint32_t i) -> std::string_view { return extra_texts_[i]; };
    if (const auto known = extra_.find(text, text_of)) return static_cast<TokenId>(vocabulary_.size() + *known);
    const auto number = static_cast<std::uint32_t>(extra_texts_.size());
    extra_texts_.emplace_back(text);
    extra_.insert(extra_texts_.back(), number, text_of);
    return static_cast<TokenId>(vocabulary_.size() + number);
  }

  [[nodiscard]] TokenId find_symbol(std::string_view text) const {
    if (const auto token = vocabulary_.find(text)) return *token;
    const auto known = extra_.find(text, [this](std::uint32_t i) -> std::string_view { return extra_texts_[i]; });
    return known ? static_cast<TokenId>(vocabulary_.size() + *known) : none;
  }

  Result<void> load_merges(const gguf::File& file) {
    PLUMB_TRY(const gguf::Array* merges, file.get_array(merges_key, gguf::ValueType::string));
    merges_ = IntegerMap<Merge>(merges->count);
    std::uint32_t result = 0;
    for (std::uint32_t rank = 0; rank < merges->count; ++rank) {
      const std::string_view merge = merges->strings[rank];
      const std::size_t space = merge.find(' ', 1);
      if (space == std::string_view::npos || space + 1 == merge.size())
        return fail("{}: {}[{}] is '{}'; a merge is two pieces with a space between them", file.label(), merges_key, rank,
                    merge.substr(0, 60));
      const std::string_view left = merge.substr(0, space);
      const std::string_view right = merge.substr(space + 1);
      spelled_ = left;
      spelled_ += right;
      const TokenId left_symbol = symbol(left);
      const TokenId right_symbol = symbol(right);
      // Most vocabularies list the results of merges in the order of the merges.
      const bool next = result + 1 < vocabulary_.size() && vocabulary_.pieces[result + 1] == spelled_;
      const TokenId made = next ? static_cast<TokenId>(result + 1) : symbol(spelled_);
      result = static_cast<std::uint32_t>(made);
      merges_.insert(pair_key(left_symbol, right_symbol), Merge{rank, made});
    }
    return {};
  }

  // The text with U+FFFD in place of each byte that is not UTF-8 and has no token.
  std::string_view repair(std::string_view text, std::string& storage) const {
    std::size_t kept = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = unicode::length_at(text, at);
      if (length == 0 && lost_when_invalid_[static_cast<unsigned char>(text[at])]) {
        storage += text.substr(kept, at - kept);
        storage += replacement;
        kept = at + 1;
      }
      at += std::max<std::size_t>(length, 1);
    }
    if (kept == 0) return text;
    storage += text.substr(kept);
    return storage;
  }

  // The token of the whole `word`, if the rules prefer it to the merges.
  [[nodiscard]] std::optional<TokenId> whole(std::string_view word, std::string& spelled) const {
    const bool newlines = rules_.whole_newlines && word.find_first_not_of('\n') == std::string_view::npos;
    if (!rules_.ignore_merges && !newlines) return std::nullopt;
    if (!rules_.byte_level) return vocabulary_.find(word);
    if (word.size() > vocabulary_.longest) return std::nullopt;
    spelled.clear();
    for (const char c : word) unicode::append(spelled, alphabet().code_points[static_cast<unsigned char>(c)]);
    return vocabulary_.find(spelled);
  }

  void encode_word(std::string_view word, Work& work, std::vector<TokenId>& out) const {
    if (const auto token = whole(word, work.spelled)) {
      out.push_back(*token);
      return;
    }
    work.symbols.clear();
    for (std::uint32_t at = 0; at < word.size();) {
      if (rules_.byte_level) {
        work.symbols.push_back({at, 1, symbols_of_bytes_[static_cast<unsigned char>(word[at])]});
        ++at;
      } else {
        const auto length = static_cast<std::uint32_t>(std::max<std::size_t>(unicode::length_at(word, at), 1));
        work.symbols.push_back({at, length, find_symbol(word.substr(at, length))});
        at += length;
      }
    }
    work.merger.run(work.symbols, [this](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      if (left.id == none || right.id == none) return std::nullopt;
      const Merge* merge = merges_.find(pair_key(left.id, right.id));
      return merge != nullptr ? std::optional(*merge) : std::nullopt;
    });
    for (const Symbol& symbol : work.symbols) {
      if (symbol.id != none && static_cast<std::uint32_t>(symbol.id) < vocabulary_.size()) {
        out.push_back(symbol.id);
      } else {
        encode_bytes(word.substr(symbol.start, symbol.length), out);
      }
    }
  }

  // A byte without a token is left out, as llama.cpp and Hugging Face's tokenizers do with SmolLM2's vocabulary.
  void encode_bytes(std::string_view bytes, std::vector<TokenId>& out) const {
    for (const char c : bytes)
      if (const TokenId token = tokens_of_bytes_[static_cast<unsigned char>(c)]; token != none) out.push_back(token);
  }

  const Vocabulary& vocabulary_;
  PreTokenizer pre_tokenizer_;
  PreTokenizerRules rules_;
  IntegerMap<Merge> merges_;
  std::array<TokenId, 256> symbols_of_bytes_{};
  std::array<TokenId, 256> tokens_of_bytes_{};
  std::array<bool, 256> lost_when_invalid_{};
  bool loses_invalid_ = false;
  StringIndex extra_;  // strings in merges that are no tokens
  std::deque<std::string> extra_texts_;
  std::string spelled_;  // scratch while loading
};

}  // namespace

Result<std::unique_ptr<Encoder>> make_bpe(const gguf::File& file, const Vocabulary& vocabulary,
                                          PreTokenizer pre_tokenizer) {
  auto bpe = std::make_unique<Bpe>(vocabulary, std::move(pre_tokenizer));
  PLUMB_CHECK(bpe->load(file));
  return bpe;
}

}  // namespace plumb::text
