// Splits text into the pieces within which byte-level BPE may merge: the regular expressions that
// tokenizer.ggml.pre stands for, run on PCRE2 with Unicode properties.
//
// The expressions are applied one after the other, each to every piece that the one before it left. Within a piece, what
// matches becomes a piece, and so does what lies between two matches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::text {

// What tokenizer.ggml.pre decides besides the splitting.
struct PreTokenizerRules {
  bool ignore_merges = false;     // a piece that is a token becomes that token whatever the merges say
  bool add_bos = false;           // unless the file says otherwise
  bool byte_level = true;         // bytes spelled in GPT-2's alphabet; otherwise characters as they are, with <0xXX> tokens
  bool spaces_as_blocks = false;  // ' ' becomes U+2581 first, as SentencePiece has it
  bool forces_bos = false;        // adds BOS even when the file says not to
  bool whole_newlines = false;    // a piece of newlines that is a token becomes that token
};

class PreTokenizer {
 public:
  // The pre-tokenizer of that name; an unknown name is an error that says so.
  static Result<PreTokenizer> make(std::string_view name);

  [[nodiscard]] const PreTokenizerRules& rules() const;

  // Ends (byte offsets) of the pieces of `text`, which may hold any bytes, up to 2 GiB. Bytes that are not UTF-8 count as
  // symbols.
  [[nodiscard]] Result<std::vector<std::uint32_t>> split(std::string_view text) const;

  // All names, for messages and tests.
  static std::vector<std::string_view> names();

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace plumb::text
