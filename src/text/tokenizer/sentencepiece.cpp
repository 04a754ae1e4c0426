// SentencePiece BPE: merges characters by the score of the result (T. Kudo and J. Richardson, 2018,
// https://arxiv.org/abs/1808.06226). A space becomes U+2581; no other character changes. Text without a token is spelled in
// bytes.
#include <array>
#include <bit>

#include "text/tokenizer/encoder.h"
#include "text/tokenizer/merge.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

// Lower for higher scores, in the order of floats.
std::uint32_t order_of(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0f);  // -0 equals 0
  const std::uint32_t ascending = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

class SentencePiece final : public Encoder {
 public:
  explicit SentencePiece(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      auto token = vocabulary_.find(hex_piece(static_cast<unsigned char>(byte)));
      const char text = static_cast<char>(byte);
      if (!token) token = vocabulary_.find(std::string_view(&text, 1));
      bytes_[byte] = token ? *token : vocabulary_.special.unknown.value_or(none);
    }
    for (const std::string_view piece : vocabulary_.pieces) look_for_borders(piece);
  }

  Result<void> encode(std::string_view text, bool starts, std::vector<TokenId>& out) const override {
    std::string blocked;
    if (starts && vocabulary_.add_space_prefix) blocked = space_block;
    blocked += block_spaces(text);
    if (blocked.size() > max_bytes) return fail("the text has {} bytes; one call can tokenize at most 1 GiB", text.size());
    PieceCache cache;
    Merger merger;
    std::vector<Symbol> symbols;
    const std::string_view all = blocked;
    for (std::size_t begin = 0; begin < all.size();) {
      const std::size_t end = next_border(all, begin);
      const std::string_view part = all.substr(begin, end - begin);
      if (!cache.append(part, out)) {
        const std::size_t before = out.size();
        PLUMB_CHECK(encode_part(part, merger, symbols, out));
        cache.remember(part, std::span(out).subspan(before));
      }
      begin = end;
    }
    return {};
  }

  std::string spell(TokenId token) const override {
    if (vocabulary_.is(token, attribute_byte))
      if (const auto byte = vocabulary_.hex_byte(token)) return std::string(1, static_cast<char>(*byte));
    return unblock_spaces(vocabulary_.piece(token));
  }

  bool adds_space() const override { return vocabulary_.add_space_prefix; }

 private:
  static constexpr TokenId none = -1;
  static constexpr std::size_t max_bytes = 1u << 31;

  // A merge makes a token. So if no token has two characters as neighbours, they are never merged, and the text may be cut
  // between them. This is so before a space, if no token has a space after another character; and around a character that
  // occurs in no token but its own.
  void look_for_borders(std::string_view piece) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
      const auto c = static_cast<unsigned char>(piece[i]);
      if (i > 0) starts_only_[c] = false;
      if (i + 1 < piece.size()) ends_only_[c] = false;
      if (i > 0 && piece.substr(i).starts_with(space_block) && !piece.substr(0, i).ends_with(space_block))
        spaces_start_ = false;
    }
  }

  std::size_t next_border(std::string_view text, std::size_t begin) const {
    for (std::size_t i = begin;;) {
      const auto c = static_cast<unsigned char>(text[i]);
      const bool space = c == 0xe2 && text.substr(i).starts_with(space_block);
      i += space ? space_block.size() : 1;
      if (i >= text.size()) return text.size();
      if (c < 0x80 && ends_only_[c]) return i;
      const auto next = static_cast<unsigned char>(text[i]);
      if (next < 0x80 && starts_only_[next]) return i;
      if (spaces_start_ && next == 0xe2 && !space && text.substr(i).starts_with(space_block)) return i;
    }
  }

  Result<void> encode_part(std::string_view part, Merger& merger, std::vector<Symbol>& symbols,
                           std::vector<TokenId>& out) const {
    const auto token_at = [&](std::uint32_t start, std::uint32_t length) {
      return vocabulary_.find(part.substr(start, length)).value_or(none);
    };
    symbols.clear();
    for (std::uint32_t at = 0; at < part.size();) {
      const auto length = static_cast<std::uint32_t>(std::max<std::size_t>(unicode::length_at(part, at), 1));
      symbols.push_back({at, length, token_at(at, length)});
      at += length;
    }
    merger.run(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      const std::uint32_t length = left.length + right.length;
      if (length > vocabulary_.longest) return std::nullopt;
      const TokenId token = token_at(left.start, length);
      if (token == none) return std::nullopt;
      return Merge{order_of(vocabulary_.scores[static_cast<std::size_t>(token)]), token};
    });
    for (const Symbol& symbol : symbols) {
      if (symbol.id != none) {
        out.push_back(symbol.id);
        continue;
      }
      for (const char c : part.substr(symbol.start, symbol.length)) {
        const TokenId token = bytes_[static_cast<unsigned char>(c)];
        if (token == none)
          return fail("the vocabulary has no token for byte 0x{:02X}, nor an unknown token", static_cast<unsigned char>(c));
        out.push_back(token);
      }
    }
    return {};
  }

  static constexpr std::array<bool, 256> all_true() {
    std::array<bool, 256> flags{};
    flags.fill(true);
    return flags;
  }

  const Vocabulary& vocabulary_;
  std::array<TokenId, 256> bytes_{};
  std::array<bool, 256> starts_only_ = all_true();  // by ASCII character: no token has it after its start
  std::array<bool, 256> ends_only_ = all_true();    // … before its end
  bool spaces_start_ = true;                        // no token has U+2581 after another character
};

}  // namespace

std::string unblock_spaces(std::string_view piece) {
  std::string text;
  for (std::size_t at = 0; at < piece.size();) {
    const bool space = piece.substr(at).starts_with(space_block);
    text += space ? ' ' : piece[at];
    at += space ? space_block.size() : 1;
  }
  return text;
}

std::string block_spaces(std::string_view text) {
  std::string blocked;
  blocked.reserve(text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') {
      blocked += space_block;
    } else {
      blocked += c;
    }
  }
  return blocked;
}

std::unique_ptr<Encoder> make_sentencepiece(const Vocabulary& vocabulary) {
  return std::make_unique<SentencePiece>(vocabulary);
}

}  // namespace plumb::text
