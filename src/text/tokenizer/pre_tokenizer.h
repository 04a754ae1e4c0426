// Splits text into the pieces within which byte-level BPE may merge. tokenizer.ggml.pre names the regular expressions,
// which run on PCRE2 with Unicode properties.
//
// The expressions run one after the other, each on every piece of the one before. Each match becomes a piece, and so does
// the text between two matches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::text {

// The other rules that follow from tokenizer.ggml.pre.
struct PreTokenizerRules {
  bool ignore_merges = false;     // a piece that is a token becomes this token, regardless of merges
  bool add_bos = false;           // unless the file says otherwise
  bool byte_level = true;         // bytes are spelled in GPT-2's alphabet; false: characters as they are, and <0xXX> tokens
  bool spaces_as_blocks = false;  // ' ' becomes U+2581 first, as in SentencePiece
  bool forces_bos = false;        // adds BOS even when the file says not to
  bool whole_newlines = false;    // a piece of newlines that is a token becomes this token
};

class PreTokenizer {
 public:
  // The pre-tokenizer of that name. Error: the name is unknown.
  static Result<PreTokenizer> make(std::string_view name);

  [[nodiscard]] const PreTokenizerRules& rules() const;

  // The ends (byte offsets) of the pieces of `text`, which may be any bytes, up to 2 GiB. Bytes that are not UTF-8 count as
  // symbols.
  [[nodiscard]] Result<std::vector<std::uint32_t>> split(std::string_view text) const;

  // All names, for messages and tests.
  static std::vector<std::string_view> names();

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace plumb::text
