// Text to token ids and back, as the GGUF file describes it (tokenizer.ggml.*): SentencePiece ("llama"), byte-level BPE
// ("gpt2", with the pre-tokenizer named by tokenizer.ggml.pre) and WordPiece ("bert").
//
// Any bytes can be encoded, invalid UTF-8 included. With byte-level BPE, and SentencePiece with byte fallback, decode()
// gives the same bytes back, with these exceptions: U+2581 becomes a space, as in SentencePiece; some models' special
// tokens remove the white space next to them; a byte without a token in a BPE vocabulary is left out (in invalid UTF-8 it
// becomes U+FFFD). Memory and time are near-linear in the text (no quadratic merges).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"

namespace plumb::text {

using TokenId = std::int32_t;

// tokenizer.ggml.token_type of a token.
enum class TokenType : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct EncodeOptions {
  bool add_special = true;               // BOS/EOS (or [CLS]/[SEP]) where the file's rules ask for them
  bool parse_special = false;            // the text of control tokens ("<|im_start|>") becomes their ids;
                                         // the text of user-defined tokens always does
  std::span<const std::size_t> plain{};  // bytes of the text at which no control token begins, in ascending order
};

struct SpecialTokens {
  std::optional<TokenId> bos, eos, eot, eom, unknown, separator, padding;
  bool add_bos = false;
  bool add_eos = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*; works on a vocabulary-only file. The result keeps `file` mapped. An unknown model or
  // pre-tokenizer, a missing key, or arrays of unequal length is an error that names the key.
  static Result<Tokenizer> load(const gguf::File& file);

  [[nodiscard]] Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;

  // The bytes of a text at which the text of a control token begins, in ascending order.
  [[nodiscard]] std::vector<std::size_t> control_tokens(std::string_view text) const;

  // The text of a sequence: the tokens' texts one after the other. Control and unknown tokens are skipped unless `special`
  // is set. The space that SentencePiece and WordPiece put before a text is dropped at the start.
  [[nodiscard]] std::string decode(std::span<const TokenId> tokens, bool special = false) const;
  // The bytes of one token in the middle of a text, for streaming; they may be a part of a UTF-8 character. Control tokens
  // give nothing unless `special` is set.
  [[nodiscard]] std::string token_text(TokenId token, bool special = false) const;

  [[nodiscard]] std::uint32_t size() const;
  // Error: one of the tokens is outside the vocabulary.
  [[nodiscard]] Result<void> check(std::span<const TokenId> tokens) const;
  [[nodiscard]] std::string_view piece(TokenId token) const;  // as the vocabulary spells it
  [[nodiscard]] TokenType type(TokenId token) const;
  [[nodiscard]] std::optional<TokenId> find(std::string_view piece) const;
  [[nodiscard]] const SpecialTokens& special() const;
  // Whether a token ends a generation: EOS, EOT, EOM, and tokens known to do so ("<|im_end|>", "<|eot_id|>", …).
  [[nodiscard]] bool ends_generation(TokenId token) const;
  // What is odd in the file's metadata, and was left out: sentences that name the file and the key.
  [[nodiscard]] const std::vector<std::string>& warnings() const;
  // "SentencePiece", "BPE (smollm)", …: for people.
  [[nodiscard]] const std::string& description() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace plumb::text
