// The part that differs between the three kinds of tokenizer: encoding a text between special tokens, and spelling a token.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "text/tokenizer/piece_cache.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/vocabulary.h"

namespace plumb::text {

class Encoder {
 public:
  Encoder() = default;
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  virtual ~Encoder() = default;

  // Appends the ids of `text`, which is not empty. `starts`: the text is first, or follows a special token.
  virtual Result<void> encode(std::string_view text, bool starts, std::vector<TokenId>& out) const = 0;

  // The bytes of an ordinary token (neither control nor user-defined) in the middle of a text.
  [[nodiscard]] virtual std::string spell(TokenId token) const = 0;

  // decode() drops one space at the start of a text.
  [[nodiscard]] virtual bool adds_space() const = 0;
};

// The vocabulary must outlive the encoders.
std::unique_ptr<Encoder> make_sentencepiece(const Vocabulary& vocabulary);
Result<std::unique_ptr<Encoder>> make_bpe(const gguf::File& file, const Vocabulary& vocabulary, PreTokenizer pre_tokenizer);
Result<std::unique_ptr<Encoder>> make_wordpiece(const gguf::File& file, const Vocabulary& vocabulary);

// `piece` with U+2581 as spaces.
std::string unblock_spaces(std::string_view piece);
// `text` with spaces as U+2581.
std::string block_spaces(std::string_view text);
inline constexpr std::string_view space_block = "\xe2\x96\x81";

}  // namespace plumb::text
