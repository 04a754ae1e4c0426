// The vocabulary of a GGUF file: tokens, what each of them is, and the rules for special tokens. Where the metadata leave a
// choice open, llama.cpp's is taken (src/llama-vocab.cpp there is the source of the names and rules below), so that ids
// agree.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "text/tokenizer/byte_trie.h"
#include "text/tokenizer/hash.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::text {

enum class Model : std::uint8_t { sentencepiece, bpe, wordpiece };

// What a token is. A token may be more than one: a file's "normal" token that llama.cpp knows as an end of turn is also
// control.
enum Attribute : std::uint8_t {
  attribute_normal = 1,
  attribute_unknown = 2,
  attribute_control = 4,
  attribute_user_defined = 8,
  attribute_unused = 16,
  attribute_byte = 32,
  attribute_lstrip = 64,   // swallows white space on its left when found in a text
  attribute_rstrip = 128,  // … on its right
};

// How the pre-tokenizer's name decides what the file does not say.
struct Defaults {
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;
  bool forces_bos = false;  // adds BOS whatever the file says
};

// Its strings point into the file, which must stay mapped.
struct Vocabulary {
  Model model = Model::bpe;
  std::vector<std::string_view> pieces;
  std::vector<float> scores;  // SentencePiece only
  std::vector<std::uint8_t> attributes;
  StringIndex index;
  std::size_t longest = 0;  // bytes of the longest piece
  SpecialTokens special;
  bool add_space_prefix = false;
  std::vector<TokenId> end_of_generation;  // sorted
  ByteTrie special_trie;                   // control, user-defined and unknown tokens

  [[nodiscard]] std::optional<TokenId> find(std::string_view piece) const {
    const auto found = index.find(piece, [this](std::uint32_t i) { return pieces[i]; });
    return found ? std::optional(static_cast<TokenId>(*found)) : std::nullopt;
  }
  [[nodiscard]] bool is(TokenId token, unsigned attribute) const {
    return (attributes[static_cast<std::size_t>(token)] & attribute) != 0;
  }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(pieces.size()); }
  // The byte that a token spells as "<0x0A>"; nothing if it does not.
  [[nodiscard]] std::optional<unsigned char> hex_byte(TokenId token) const;
};

// "<0x0A>", as SentencePiece spells the token of a byte.
std::string hex_piece(unsigned char byte);

Result<Vocabulary> load_vocabulary(const gguf::File& file, Model model, const Defaults& defaults);

// Optional metadata: nothing when the key is missing, an error when its type is wrong.
Result<std::optional<std::string_view>> optional_string(const gguf::File& file, std::string_view key);
Result<bool> bool_or(const gguf::File& file, std::string_view key, bool otherwise);

}  // namespace plumb::text
