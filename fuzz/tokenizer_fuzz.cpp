// Any tokenizer metadata and any text. The first byte chooses the vocabulary, the second says how it is damaged or used.
// The rest is the text; damage is drawn from its bytes. Encoding must succeed or say why, ids must be in the vocabulary,
// and a vocabulary that has every byte must decode to the same text.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <string>
#include <string_view>

#include "../tests/text/tokenizer_samples.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer.h"

namespace {

using namespace plumb;
using text::TokenId;

void require(bool condition) {
  if (!condition) std::abort();
}

// Bytes of the input, taken from its end so that the text at its start stays readable.
class Source {
 public:
  explicit Source(std::string_view bytes) : bytes_(bytes) {}
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const auto last = static_cast<std::uint8_t>(bytes_.back());
    bytes_.remove_suffix(1);
    return last;
  }
  std::uint32_t number() {
    std::uint32_t n = 0;
    for (int i = 0; i < 4; ++i) n = n << 8 | byte();
    return n;
  }
  std::string text(std::size_t length) {
    length = std::min(length, bytes_.size());
    std::string part(bytes_.substr(bytes_.size() - length));
    bytes_.remove_suffix(length);
    return part;
  }
  [[nodiscard]] std::string_view rest() const { return bytes_; }

 private:
  std::string_view bytes_;
};

// Six of eight choices are byte-level BPE, with each pre-tokenizer's name in turn.
std::string pre_tokenizer_of(std::uint8_t choice) {
  static const auto names = text::PreTokenizer::names();
  return std::string(names[choice % names.size()]);
}

bool is_sentencepiece(std::uint8_t choice) { return choice % 8 == 0; }
bool is_wordpiece(std::uint8_t choice) { return choice % 8 == 1; }

bool spells_bytes(std::uint8_t choice) {
  static std::map<std::string, bool> known;
  const std::string name = pre_tokenizer_of(choice);
  if (!known.contains(name)) known[name] = text::PreTokenizer::make(name)->rules().byte_level;
  return known[name];
}

text::samples::Vocabulary chosen(std::uint8_t choice) {
  if (is_sentencepiece(choice)) return text::samples::sentencepiece();
  if (is_wordpiece(choice)) return text::samples::wordpiece();
  auto v = text::samples::byte_pairs(pre_tokenizer_of(choice));
  v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{0};
  return v;
}

void damage(text::samples::Vocabulary& v, Source& source) {
  static constexpr const char* keys[] = {
      "tokenizer.ggml.bos_token_id",         "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
      "tokenizer.ggml.unknown_token_id",     "tokenizer.ggml.padding_token_id", "tokenizer.ggml.seperator_token_id",
      "tokenizer.ggml.fim_pre_token_id",     "tokenizer.ggml.add_bos_token",    "tokenizer.ggml.add_eos_token",
      "tokenizer.ggml.add_space_prefix",     "tokenizer.ggml.scores",           "tokenizer.ggml.token_type",
      "tokenizer.ggml.normalizer.lowercase",
  };
  for (int changes = source.byte() % 8; changes > 0; --changes) {
    const std::uint32_t at = source.number();
    switch (source.byte() % 10) {
      case 0:
        v.tokens[at % v.tokens.size()] = source.text(source.byte() % 16);
        break;
      case 1:
        v.add(source.text(source.byte() % 16), static_cast<std::int32_t>(at % 8), static_cast<float>(at));
        break;
      case 2:
        v.types[at % v.types.size()] = static_cast<std::int32_t>(source.byte() % 9);
        break;
      case 3:
        v.merges.push_back(source.text(source.byte() % 16));
        break;
      case 4: {
        const std::uint32_t bits = source.number();
        std::memcpy(&v.scores[at % v.scores.size()], &bits, sizeof bits);
        break;
      }
      case 5:
        v.more[keys[at % std::size(keys)]] = source.number() % 600;
        break;
      case 6:
        v.more[keys[at % std::size(keys)]] = (source.byte() & 1) != 0;
        break;
      case 7:
        v.more[keys[at % std::size(keys)]] = source.number();
        break;
      case 8:
        v.types.resize(at % (v.types.size() + 2), 1);
        break;
      default:
        v.model = at % 5 == 0 ? source.text(8) : at % 2 == 0 ? "gemma4" : "llama";
        break;
    }
    if (v.types.empty() || v.tokens.empty()) return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  Source source(std::string_view(reinterpret_cast<const char*>(data), size).substr(2));
  const bool damaged = (data[1] & 1) != 0;
  // Undamaged vocabularies are loaded only once: they are few, and loading takes longer than the rest.
  static std::map<std::uint8_t, text::samples::Loaded> whole;
  text::samples::Loaded own{{}, fail("unused")};
  if (damaged) {
    auto vocabulary = chosen(data[0]);
    damage(vocabulary, source);
    own = text::samples::load(vocabulary);
  } else if (!whole.contains(data[0])) {
    whole.emplace(data[0], text::samples::load(chosen(data[0])));
  }
  const text::samples::Loaded& loaded = damaged ? own : whole.at(data[0]);
  if (!loaded.tokenizer) {
    require(damaged && !loaded.tokenizer.error().message.empty());
    return 0;
  }
  const text::Tokenizer& tokenizer = *loaded.tokenizer;
  const text::EncodeOptions options{.add_special = (data[1] & 2) != 0, .parse_special = (data[1] & 4) != 0};
  const std::string_view input = source.rest();
  const auto tokens = tokenizer.encode(input, options);
  if (tokens) {
    for (const TokenId token : *tokens) require(token >= 0 && static_cast<std::uint32_t>(token) < tokenizer.size());
    const std::string back = tokenizer.decode(*tokens);
    const bool whole_text = !damaged && !options.add_special && !options.parse_special;
    const bool has_bytes = is_sentencepiece(data[0]) ? input.find("\xe2\x96\x81") == std::string_view::npos
                                                     : !is_wordpiece(data[0]) && spells_bytes(data[0]);
    if (whole_text && has_bytes) require(back == input);
  }
  std::vector<TokenId> any;
  for (std::size_t i = 0; i + 4 <= size; i += 4) {
    TokenId token = 0;
    std::memcpy(&token, data + i, sizeof token);
    any.push_back((i & 4) != 0 ? token : token % 600);
  }
  std::string joined;
  for (const TokenId token : any) {
    joined += tokenizer.token_text(token, true);
    require(!tokenizer.ends_generation(token) || tokenizer.type(token) != text::TokenType::byte || damaged);
  }
  const std::string decoded = tokenizer.decode(any, true);
  require(decoded == joined || " " + decoded == joined);
  return 0;
}
