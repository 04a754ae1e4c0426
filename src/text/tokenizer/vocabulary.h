// The vocabulary of a GGUF file: tokens, their attributes, and the rules for special tokens. Where the metadata leave a
// choice open, it is llama.cpp's, so that ids agree. The names and rules below come from llama.cpp's src/llama-vocab.cpp.
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

// A token's attributes; the first six are the types of tokenizer.ggml.token_type. It may have several: a "normal" token of
// the file is also control if llama.cpp knows it as an end of turn.
enum Attribute : std::uint8_t {
  attribute_normal = 1,
  attribute_unknown = 2,
  attribute_control = 4,
  attribute_user_defined = 8,
  attribute_unused = 16,
  attribute_byte = 32,
  attribute_lstrip = 64,   // in a text, removes white space on its left
  attribute_rstrip = 128,  // in a text, removes white space on its right
};

// Defaults that follow from the pre-tokenizer's name, for keys that the file leaves out.
struct Defaults {
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;
  bool forces_bos = false;  // adds BOS even if the file says not to
};

// The strings point into the file, which must stay mapped.
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
  std::vector<std::string> warnings;       // what is odd in the file and keeps no text from being encoded

  [[nodiscard]] std::optional<TokenId> find(std::string_view piece) const {
    const auto found = index.find(piece, [this](std::uint32_t i) { return pieces[i]; });
    return found ? std::optional(static_cast<TokenId>(*found)) : std::nullopt;
  }
  [[nodiscard]] std::string_view piece(TokenId token) const { return pieces[static_cast<std::size_t>(token)]; }
  [[nodiscard]] bool is(TokenId token, unsigned attribute) const {
    return (attributes[static_cast<std::size_t>(token)] & attribute) != 0;
  }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(pieces.size()); }
  // The byte of a token such as "<0x0A>"; nothing for other tokens.
  [[nodiscard]] std::optional<unsigned char> hex_byte(TokenId token) const;
};

// SentencePiece's token of a byte: "<0x0A>".
std::string hex_piece(unsigned char byte);

Result<Vocabulary> load_vocabulary(const gguf::File& file, Model model, const Defaults& defaults);

// Optional metadata: nothing if the key is missing, an error if its type is wrong.
Result<std::optional<std::string_view>> optional_string(const gguf::File& file, std::string_view key);
Result<bool> bool_or(const gguf::File& file, std::string_view key, bool otherwise);

}  // namespace plumb::text
