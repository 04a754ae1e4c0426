#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <fstream>
#include <sstream>

#include "text/tokenizer/merge.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/stand_ins.h"
#include "text/unicode/utf8.h"

namespace plumb::text {
namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::vector<std::string> split(const PreTokenizer& pre_tokenizer, std::string_view text) {
  const auto ends = pre_tokenizer.split(text);
  if (!ends) return {ends.error().message};
  std::vector<std::string> pieces;
  std::uint32_t begin = 0;
  for (const std::uint32_t end : *ends) {
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

// tests/data/text/tokenizer_splits.tsv: a name, a text in hexadecimal, and the lengths of llama.cpp's pieces.
TEST(PreTokenizer, SplitsAsLlamaCppDoes) {
  std::ifstream in(std::string(PLUMB_TEST_DATA) + "/text/tokenizer_splits.tsv");
  ASSERT_TRUE(in);
  int lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    std::istringstream fields(line);
    std::string name;
    std::string hex;
    fields >> name >> hex;
    const std::vector<std::size_t> expected{std::istream_iterator<std::size_t>(fields), {}};
    const auto pre_tokenizer = PreTokenizer::make(name);
    ASSERT_TRUE(pre_tokenizer) << pre_tokenizer.error().message;
    const std::string text = from_hex(hex);
    std::vector<std::size_t> lengths;
    for (const std::string& piece : split(*pre_tokenizer, text)) lengths.push_back(piece.size());
    EXPECT_EQ(lengths, expected) << name << ": " << text;
  }
  EXPECT_GT(lines, 500);
}

TEST(PreTokenizer, EveryNameSplitsEveryByteIntoPiecesThatAreNotEmpty) {
  std::string text = "It's 1234567 days, ÀÉ¾ 漢字\t\n\n  x\xff\xc0 e\u0301 \U0001f600 ";
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  for (const StandIn& s : stand_ins) unicode::append(text, s.first);
  EXPECT_GE(PreTokenizer::names().size(), 90u);
  for (const std::string_view name : PreTokenizer::names()) {
    const auto pre_tokenizer = PreTokenizer::make(name);
    ASSERT_TRUE(pre_tokenizer) << pre_tokenizer.error().message;
    std::string joined;
    for (const std::string& piece : split(*pre_tokenizer, text)) {
      EXPECT_FALSE(piece.empty()) << name;
      joined += piece;
    }
    EXPECT_EQ(joined, text) << name;
  }
}

TEST(PreTokenizer, LettersThatAreNewInUnicodeAreLetters) {
  const auto gpt2 = PreTokenizer::make("gpt-2");
  EXPECT_EQ(split(*gpt2, "a\U00031350\U0002ebf0b"), (std::vector<std::string>{"a\U00031350\U0002ebf0b"}));
  EXPECT_EQ(split(*gpt2, "a\u180eb"), (std::vector<std::string>{"a", "\u180e", "b"}));
}

// The definition: of all pairs of neighbours, merge the first with the lowest order, and begin again.
template <class Find>
void merge_plainly(std::vector<Symbol>& symbols, const Find& find) {
  for (;;) {
    std::optional<Merge> best;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const std::optional<Merge> merge = find(symbols[i], symbols[i + 1]);
      if (!merge || (best && merge->order >= best->order)) continue;
      best = merge;
      at = i;
    }
    if (!best) return;
    symbols[at].length += symbols[at + 1].length;
    symbols[at].id = best->id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

void expect_plain_merges(std::size_t count, unsigned kinds, unsigned seed) {
  // Any rule that depends on the two ids alone will do; this one merges a third of the pairs, with orders that collide.
  const auto find = [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
    const unsigned mixed =
        (static_cast<unsigned>(left.id) * 31 + static_cast<unsigned>(right.id) * 17 + seed) * 2654435761u;
    if ((mixed >> 16) % 3 != 0 || left.length + right.length > 24) return std::nullopt;
    return Merge{(mixed >> 8) % 50, static_cast<TokenId>((mixed >> 20) % (kinds * 4))};
  };
  std::vector<Symbol> symbols;
  unsigned state = seed;
  for (std::uint32_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    symbols.push_back({i, 1, static_cast<TokenId>((state >> 16) % kinds)});
  }
  std::vector<Symbol> expected = symbols;
  merge_plainly(expected, find);
  Merger().run(symbols, find);
  ASSERT_EQ(symbols.size(), expected.size()) << count << ' ' << kinds << ' ' << seed;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    ASSERT_EQ(symbols[i].start, expected[i].start);
    ASSERT_EQ(symbols[i].id, expected[i].id);
  }
}

RC_GTEST_PROP(Merger, MergesAsTheDefinitionDoes, ()) {
  const auto count = *rc::gen::inRange<std::size_t>(0, 200);
  expect_plain_merges(count, *rc::gen::inRange(1u, 6u), *rc::gen::arbitrary<unsigned>());
}

TEST(Merger, MergesLongRunsAsTheDefinitionDoes) {
  for (const unsigned seed : {1u, 2u, 3u, 4u, 5u, 6u}) expect_plain_merges(4500, 1 + seed % 4, seed);
}

}  // namespace
}  // namespace plumb::text
