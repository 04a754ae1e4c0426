// Small vocabularies, made in memory, for the tests and the fuzzer of the tokenizer.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/file.h"
#include "gguf/writer.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::text::samples {

// The tokenizer metadata of a GGUF file.
struct Vocabulary {
  std::string model;
  std::optional<std::string> pre;
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;
  std::map<std::string, gguf::Value> more;  // other keys; string_views must outlive bytes()

  void add(std::string token, std::int32_t type = 1, float score = 0.0f) {
    tokens.push_back(std::move(token));
    types.push_back(type);
    scores.push_back(score);
  }

  [[nodiscard]] std::vector<std::byte> bytes() const {
    const auto views = [](const std::vector<std::string>& strings) {
      return std::vector<std::string_view>(strings.begin(), strings.end());
    };
    const auto token_views = views(tokens);
    const auto merge_views = views(merges);
    gguf::Writer writer;
    writer.set("tokenizer.ggml.model", std::string_view(model));
    if (pre) writer.set("tokenizer.ggml.pre", std::string_view(*pre));
    writer.set("tokenizer.ggml.tokens", gguf::array_of(token_views));
    if (model == "llama") writer.set("tokenizer.ggml.scores", gguf::array_of(scores));
    writer.set("tokenizer.ggml.token_type", gguf::array_of(types));
    if (model != "llama" && model != "bert") writer.set("tokenizer.ggml.merges", gguf::array_of(merge_views));
    for (const auto& [key, value] : more) writer.set(key, value);
    auto bytes = writer.to_memory();
    return bytes ? *bytes : std::vector<std::byte>();
  }
};

inline std::string hex_token(unsigned byte) { return fmt::format("<0x{:02X}>", byte); }

// <unk> <s> </s>, 256 bytes, and a few words. Scores fall as ids rise.
inline Vocabulary sentencepiece() {
  Vocabulary v{.model = "llama", .pre = "default"};
  v.add("<unk>", 2);
  v.add("<s>", 3);
  v.add("</s>", 3);
  for (unsigned byte = 0; byte < 256; ++byte) v.add(hex_token(byte), 6);
  float score = 0.0f;
  for (const char* token :
       {"▁t", "he", "▁the", "▁▁", "▁▁▁▁", "ab", "abab", "aa", "▁a", "bc", "▁", "t", "h", "e", "a", "b", "c", "é", "1"})
    v.add(token, 1, score -= 1.0f);
  return v;
}

// GPT-2's character for a byte.
inline std::string spelled(unsigned byte) {
  const auto prints = [](unsigned b) { return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae; };
  unsigned c = byte;
  if (!prints(byte)) {
    c = 256;
    for (unsigned b = 0; b < byte; ++b) c += prints(b) ? 0 : 1;
  }
  std::string text;
  if (c < 0x80) return text += static_cast<char>(c);
  text += static_cast<char>(0xc0 | c >> 6);
  text += static_cast<char>(0x80 | (c & 0x3f));
  return text;
}

// The 256 bytes, a few merges, <|end|> (control) and <tool> (user-defined).
inline Vocabulary byte_pairs(std::string pre = "gpt-2") {
  Vocabulary v{.model = "gpt2", .pre = std::move(pre)};
  for (unsigned byte = 0; byte < 256; ++byte) v.add(spelled(byte));
  for (const char* merge : {"h e", "t he", "Ġ the", "a a", "aa aa", "Ġ Ġ", "1 2", "Ã ©", "c a", "ca fÃ©"}) {
    const std::string_view both = merge;
    const std::size_t space = both.find(' ');
    const std::string made = std::string(both.substr(0, space)) + std::string(both.substr(space + 1));
    v.merges.emplace_back(both);
    v.add(made);
  }
  v.add("cafe");  // a token that no merge makes
  v.add("<|im_end|>", 3);
  v.add("<tool>", 4);
  v.add("<tool>x", 4);
  return v;
}

inline Vocabulary wordpiece() {
  Vocabulary v{.model = "bert"};
  v.add("[PAD]", 3);
  v.add("[UNK]", 3);
  v.add("[CLS]", 3);
  v.add("[SEP]", 3);
  for (const char* token : {"▁hello", "▁he", "llo", "▁w", "orld", "▁,", "▁!", "▁cafe", "s", "▁漢", "▁字", "▁i", "▁~"})
    v.add(token);
  v.more["tokenizer.ggml.unknown_token_id"] = std::uint32_t{1};
  v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{2};
  v.more["tokenizer.ggml.seperator_token_id"] = std::uint32_t{3};
  return v;
}

// A tokenizer and the bytes that it views.
struct Loaded {
  std::vector<std::byte> bytes;
  Result<Tokenizer> tokenizer;

  const Tokenizer* operator->() const { return &*tokenizer; }
};

inline Loaded load(const Vocabulary& vocabulary) {
  std::vector<std::byte> bytes = vocabulary.bytes();
  auto file = gguf::File::from_memory(bytes, "sample.gguf");
  auto tokenizer = file ? Tokenizer::load(*file) : Result<Tokenizer>(fail(file.error()));
  return {std::move(bytes), std::move(tokenizer)};
}

}  // namespace plumb::text::samples
