#include "text/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "text/tokenizer_samples.h"

namespace plumb::text {
namespace {

using samples::Loaded;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Pieces of a text's tokens, as the vocabulary spells them.
std::vector<std::string> pieces(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {false, false}) {
  const auto tokens = tokenizer.encode(text, options);
  if (!tokens) return {tokens.error().message};
  std::vector<std::string> result;
  for (const TokenId token : *tokens) result.emplace_back(tokenizer.piece(token));
  return result;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr EncodeOptions with_special{.add_special = true, .parse_special = true};
constexpr EncodeOptions parsed{.add_special = false, .parse_special = true};

// The vocabularies and cases of llama.cpp's tests/test-tokenizer-0: texts in .inp, their ids in .out.
class SharedCases : public testing::TestWithParam<const char*> {
 protected:
  static std::filesystem::path path() {
    return std::filesystem::path(PLUMB_SHARED) / "data/tokenizers" / (std::string("ggml-vocab-") + GetParam() + ".gguf");
  }
};

TEST_P(SharedCases, EveryIdIsTheSame) {
  if (!std::filesystem::exists(path())) GTEST_SKIP() << path() << " is not here";
  const auto file = gguf::File::open(path());
  ASSERT_TRUE(file) << file.error().message;
  const auto tokenizer = Tokenizer::load(*file);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::string texts = read(path().string() + ".inp");
  std::istringstream lines(read(path().string() + ".out"));
  constexpr std::string_view separator = "\n__ggml_vocab_test__\n";
  int cases = 0;
  for (std::size_t at = 0; at < texts.size();) {
    const std::size_t end = std::min(texts.find(separator, at), texts.size());
    const std::string text = texts.substr(at, end - at);
    at = end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    std::istringstream ids(line);
    const std::vector<TokenId> expected{std::istream_iterator<TokenId>(ids), {}};
    const auto got = tokenizer->encode(text, {.add_special = false});
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(*got, expected) << text;
    EXPECT_EQ(tokenizer->decode(*got), text);
    ++cases;
  }
  EXPECT_GE(cases, 40);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, SharedCases,
                         testing::Values("deepseek-coder", "deepseek-llm", "gpt-2", "llama-spm", "phi-3"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SentencePiece, OnlySpacesBecomeBlocks) {
  const Loaded t = samples::load(samples::sentencepiece());
  ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
  EXPECT_THAT(pieces(*t.tokenizer, "the\nthe\tthe"), ElementsAre("▁the", "<0x0A>", "t", "he", "<0x09>", "t", "he"));
  EXPECT_EQ(t->description(), "SentencePiece");
}

TEST(SentencePiece, MergesByScoreAndThenFromTheLeft) {
  const Loaded t = samples::load(samples::sentencepiece());
  EXPECT_THAT(pieces(*t.tokenizer, " a"), ElementsAre("▁▁", "a"));  // "▁▁" scores above "▁a"
  EXPECT_THAT(pieces(*t.tokenizer, "aaa"), ElementsAre("▁", "aa", "a"));
  EXPECT_THAT(pieces(*t.tokenizer, "abc"), ElementsAre("▁", "ab", "c"));
  EXPECT_THAT(pieces(*t.tokenizer, "1ababab"), ElementsAre("▁", "1", "abab", "ab"));
  EXPECT_THAT(pieces(*t.tokenizer, "   1"), ElementsAre("▁▁▁▁", "1")) << "the vocabulary's longest token";
}

TEST(SentencePiece, SpellsWhatIsNoTokenInBytes) {
  const Loaded t = samples::load(samples::sentencepiece());
  EXPECT_THAT(pieces(*t.tokenizer, "é漢"), ElementsAre("▁", "é", "<0xE6>", "<0xBC>", "<0xA2>"));
  EXPECT_THAT(pieces(*t.tokenizer, "\xff a"), ElementsAre("▁", "<0xFF>", "▁a"));
  EXPECT_THAT(pieces(*t.tokenizer, "\xe4 a"), ElementsAre("▁", "<0xE4>", "▁a"));
}

TEST(SentencePiece, AddsSpaceAtTheStartAndAfterSpecialTokens) {
  samples::Vocabulary v = samples::sentencepiece();
  const Loaded t = samples::load(v);
  EXPECT_THAT(pieces(*t.tokenizer, "the</s>the", with_special), ElementsAre("<s>", "▁the", "</s>", "▁the"));
  EXPECT_THAT(pieces(*t.tokenizer, "", with_special), ElementsAre("<s>"));
  EXPECT_EQ(t->decode(*t->encode("the", with_special)), "the");
  EXPECT_EQ(t->decode(*t->encode("  the", with_special)), "  the");
  v.more["tokenizer.ggml.add_space_prefix"] = false;
  v.more["tokenizer.ggml.add_bos_token"] = false;
  v.more["tokenizer.ggml.add_eos_token"] = true;
  const Loaded bare = samples::load(v);
  EXPECT_THAT(pieces(*bare.tokenizer, "the", with_special), ElementsAre("t", "he", "</s>"));
  EXPECT_EQ(bare->decode(*bare->encode(" the")), " the");
}

TEST(BytePairs, MergesInTheOrderOfTheFile) {
  const Loaded t = samples::load(samples::byte_pairs());
  ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
  EXPECT_THAT(pieces(*t.tokenizer, "the the"), ElementsAre("the", "Ġthe"));
  EXPECT_THAT(pieces(*t.tokenizer, "aaaaaaa"), ElementsAre("aaaa", "aa", "a"));
  EXPECT_THAT(pieces(*t.tokenizer, "café"), ElementsAre("ca", "f", "Ã©"));
  EXPECT_THAT(pieces(*t.tokenizer, "a\n"), ElementsAre("a", "Ċ"));
  EXPECT_EQ(t->description(), "BPE (gpt-2)");
}

TEST(BytePairs, WholeWordsComeFirstWhereTheModelHasItSo) {
  samples::Vocabulary v = samples::byte_pairs();
  EXPECT_THAT(pieces(*samples::load(v).tokenizer, "cafe"), ElementsAre("ca", "f", "e"));
  v.pre = "llama-bpe";
  v.more["tokenizer.ggml.add_bos_token"] = false;
  EXPECT_THAT(pieces(*samples::load(v).tokenizer, "cafe"), ElementsAre("cafe"));
}

TEST(BytePairs, ThePreTokenizerDecidesWhetherToAddBos) {
  samples::Vocabulary v = samples::byte_pairs("llama-bpe");
  v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{5};
  EXPECT_EQ(samples::load(v)->encode("a")->front(), 5);
  v.pre = "qwen2";
  EXPECT_NE(samples::load(v)->encode("a")->front(), 5);
  v.more["tokenizer.ggml.add_bos_token"] = true;
  EXPECT_EQ(samples::load(v)->encode("a")->front(), 5);
}

TEST(BytePairs, SaysWhenTheFileNamesNoPreTokenizer) {
  samples::Vocabulary v = samples::byte_pairs();
  v.pre.reset();
  const Loaded t = samples::load(v);
  ASSERT_TRUE(t.tokenizer);
  EXPECT_THAT(t->description(), HasSubstr("names no pre-tokenizer"));
}

TEST(BytePairs, LeavesOutWhatTheVocabularyLacks) {
  samples::Vocabulary v = samples::byte_pairs();
  v.tokens[0xf1] = "unreachable";
  v.tokens[0xff] = "unreachable too";
  const Loaded t = samples::load(v);
  EXPECT_EQ(pieces(*t.tokenizer, "a\xf1\x80\x80\x80").size(), 4);  // of a well-formed character, one byte is missing
  EXPECT_EQ(t->decode(*t->encode("a\xff\xfe")), "a\xef\xbf\xbd\xfe");
}

TEST(BytePairs, LettersThatAreAddedTokensAreLetters) {
  samples::Vocabulary v = samples::byte_pairs();
  v.types[0xf8] = 4;  // "ø", which spells byte 0xF8
  const Loaded t = samples::load(v);
  EXPECT_EQ(t->decode(*t->encode("ø")), "ø");
  EXPECT_EQ(t->decode(*t->encode("\xf8")), "\xef\xbf\xbd");
}

TEST(Gemma, KeepsCharactersAndFallsBackToBytes) {
  samples::Vocabulary v = samples::sentencepiece();
  v.model = "gemma4";
  v.merges = {"▁ t", "h e", "▁t he", "a b"};
  v.add("\n\n");
  const Loaded t = samples::load(v);
  ASSERT_FALSE(t.tokenizer);  // adds BOS always, and needs to know it
  EXPECT_THAT(t.tokenizer.error().message, HasSubstr("tokenizer.ggml.bos_token_id"));
  v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{1};
  const Loaded gemma = samples::load(v);
  ASSERT_TRUE(gemma.tokenizer) << gemma.tokenizer.error().message;
  EXPECT_THAT(pieces(*gemma.tokenizer, "ab the\n\né漢", {true, false}),
              ElementsAre("<s>", "ab", "▁the", "\n\n", "é", "<0xE6>", "<0xBC>", "<0xA2>"));
  EXPECT_EQ(gemma->decode(*gemma->encode("ab the\n\né漢")), "ab the\n\né漢");
}

TEST(WordPiece, NormalizesAndTakesTheLongestPieces) {
  const Loaded t = samples::load(samples::wordpiece());
  ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
  EXPECT_THAT(pieces(*t.tokenizer, "Hello, WORLD!"), ElementsAre("▁hello", "▁,", "▁w", "orld", "▁!"));
  EXPECT_THAT(pieces(*t.tokenizer, "Cafés Cafe\u0301s"), ElementsAre("▁cafe", "s", "▁cafe", "s"));
  EXPECT_THAT(pieces(*t.tokenizer, "漢字~hellox\u00a0he\u00adllo İ"),
              ElementsAre("▁漢", "▁字", "▁~", "[UNK]", "▁hello", "▁i"));
  EXPECT_THAT(pieces(*t.tokenizer, "hello", {}), ElementsAre("[CLS]", "▁hello", "[SEP]"));
  EXPECT_EQ(t->decode(*t->encode("hello worlds")), "hello worlds");
}

TEST(WordPiece, KeepsCaseAndAccentsWhereTheFileSaysSo) {
  samples::Vocabulary v = samples::wordpiece();
  v.more["tokenizer.ggml.normalizer.lowercase"] = false;
  EXPECT_THAT(pieces(*samples::load(v).tokenizer, "Hello hello"), ElementsAre("[UNK]", "▁hello"));
}

TEST(SpecialTokens, ControlOnlyWhenAskedAndUserDefinedAlways) {
  const Loaded t = samples::load(samples::byte_pairs());
  EXPECT_THAT(pieces(*t.tokenizer, "the<|im_end|>", parsed), ElementsAre("the", "<|im_end|>"));
  EXPECT_GT(pieces(*t.tokenizer, "the<|im_end|>").size(), 5);
  EXPECT_THAT(pieces(*t.tokenizer, "<tool>the<tool>xthe"), ElementsAre("<tool>", "the", "<tool>x", "the"));
  const std::vector<TokenId> tokens = *t->encode("a<|im_end|><tool>", parsed);
  EXPECT_EQ(t->decode(tokens), "a<tool>");
  EXPECT_EQ(t->decode(tokens, true), "a<|im_end|><tool>");
}

TEST(SpecialTokens, LongerOnesFirstWhereverTheyStand) {
  samples::Vocabulary v = samples::byte_pairs();
  v.add("ab", 4);
  v.add("bcd", 4);
  EXPECT_THAT(pieces(*samples::load(v).tokenizer, "abcd"), ElementsAre("a", "bcd"));
}

TEST(SpecialTokens, PhiSwallowsSpaceAfterThem) {
  samples::Vocabulary v = samples::sentencepiece();
  v.add("<|user|>", 3);
  v.more["general.name"] = std::string_view("Phi-3 mini");
  const Loaded t = samples::load(v);
  EXPECT_THAT(pieces(*t.tokenizer, "<|user|> \n the<s> a", parsed), ElementsAre("<|user|>", "▁the", "<s>", "▁▁", "a"));
}

TEST(SpecialTokens, MasksOfJinaSwallowSpaceBeforeThem) {
  samples::Vocabulary v = samples::byte_pairs("jina-v2-de");
  v.add("<mask>", 4);
  EXPECT_THAT(pieces(*samples::load(v).tokenizer, "the  <mask> the"), ElementsAre("the", "<mask>", "Ġthe"));
}

TEST(SpecialTokens, KnowsWhatEndsAGeneration) {
  samples::Vocabulary v = samples::byte_pairs();
  v.add("<|eot_id|>");
  v.add("<|endoftext|>", 3);
  v.add("<file>");
  v.more["tokenizer.ggml.eos_token_id"] = std::uint32_t(v.tokens.size() - 1);
  const Loaded t = samples::load(v);
  for (const char* end : {"<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<file>"})
    EXPECT_TRUE(t->ends_generation(*t->find(end))) << end;
  EXPECT_FALSE(t->ends_generation(*t->find("<tool>")));
  EXPECT_FALSE(t->ends_generation(-1));
  EXPECT_EQ(t->special().eot, t->find("<|eot_id|>"));
  EXPECT_EQ(t->type(*t->find("<|eot_id|>")), TokenType::control);  // whatever the file says
}

TEST(SpecialTokens, HarmonyGoesOnAfterTheEndOfAMessage) {
  samples::Vocabulary v = samples::byte_pairs();
  for (const char* token : {"<|end|>", "<|return|>", "<|call|>"}) v.add(token, 3);
  const Loaded t = samples::load(v);
  EXPECT_FALSE(t->ends_generation(*t->find("<|end|>")));
  EXPECT_TRUE(t->ends_generation(*t->find("<|return|>")));
}

struct BadFile {
  const char* name;
  samples::Vocabulary (*make)();
  const char* names;  // the key that the message must name
  const char* says;
};

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

class BadFiles : public testing::TestWithParam<BadFile> {};

TEST_P(BadFiles, AreErrorsThatNameTheKey) {
  const Loaded t = samples::load(GetParam().make());
  ASSERT_FALSE(t.tokenizer);
  EXPECT_THAT(t.tokenizer.error().message,
              AllOf(HasSubstr("sample.gguf"), HasSubstr(GetParam().names), HasSubstr(GetParam().says)));
}

template <class Change>
samples::Vocabulary changed(samples::Vocabulary v, const Change& change) {
  change(v);
  return v;
}

INSTANTIATE_TEST_SUITE_P(
    Tokenizer, BadFiles,
    testing::Values(
        BadFile{"NoTokens",
                [] {
                  return changed(samples::byte_pairs(), [](auto& v) {
                    v.tokens.clear();
                    v.types.clear();
                  });
                },
                "tokenizer.ggml.tokens", "empty"},
        BadFile{"TwiceTheSame", [] { return changed(samples::byte_pairs(), [](auto& v) { v.add("the"); }); },
                "tokenizer.ggml.tokens", "twice"},
        BadFile{"FewScores", [] { return changed(samples::sentencepiece(), [](auto& v) { v.scores.pop_back(); }); },
                "tokenizer.ggml.scores", "as many"},
        BadFile{"ScoreIsNaN", [] { return changed(samples::sentencepiece(), [](auto& v) { v.scores[5] = NAN; }); },
                "tokenizer.ggml.scores[5]", "not a number"},
        BadFile{"ManyTypes", [] { return changed(samples::byte_pairs(), [](auto& v) { v.types.push_back(1); }); },
                "tokenizer.ggml.token_type", "as many"},
        BadFile{"BosOutside",
                [] {
                  return changed(samples::byte_pairs(), [](auto& v) {
                    v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{100000};
                    v.more["tokenizer.ggml.add_bos_token"] = true;
                  });
                },
                "tokenizer.ggml.bos_token_id", "100000"},
        BadFile{
            "EosUnknown",
            [] { return changed(samples::byte_pairs(), [](auto& v) { v.more["tokenizer.ggml.add_eos_token"] = true; }); },
            "tokenizer.ggml.eos_token_id", "missing"},
        BadFile{"MergeOfOne", [] { return changed(samples::byte_pairs(), [](auto& v) { v.merges[3] = "abc"; }); },
                "tokenizer.ggml.merges[3]", "abc"},
        BadFile{"MergeOfNothing", [] { return changed(samples::byte_pairs(), [](auto& v) { v.merges[2] = "abc "; }); },
                "tokenizer.ggml.merges[2]", "abc"},
        BadFile{"UnknownPreTokenizer", [] { return samples::byte_pairs("gpt-9"); }, "tokenizer.ggml.pre", "gpt-9"},
        BadFile{"Unigram", [] { return changed(samples::byte_pairs(), [](auto& v) { v.model = "t5"; }); },
                "tokenizer.ggml.model", "'t5'"},
        BadFile{"Rwkv", [] { return changed(samples::byte_pairs(), [](auto& v) { v.model = "rwkv"; }); },
                "tokenizer.ggml.model", "'rwkv'"},
        BadFile{"NoVocabulary", [] { return changed(samples::byte_pairs(), [](auto& v) { v.model = "none"; }); },
                "tokenizer.ggml.model", "no tokenizer"},
        BadFile{"TypesAreText",
                [] {
                  return changed(samples::byte_pairs(),
                                 [](auto& v) { v.more["tokenizer.ggml.token_type"] = std::string_view("x"); });
                },
                "tokenizer.ggml.token_type", ""}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(Tokenizer, MissingScoresAreAnError) {
  const samples::Vocabulary v = samples::sentencepiece();
  const auto tokens = std::vector<std::string_view>(v.tokens.begin(), v.tokens.end());
  gguf::Writer writer;
  writer.set("tokenizer.ggml.model", std::string_view("llama"));
  writer.set("tokenizer.ggml.tokens", gguf::array_of(tokens));
  const auto bytes = writer.to_memory();
  const auto loaded = Tokenizer::load(*gguf::File::from_memory(*bytes, "sample.gguf"));
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message, HasSubstr("tokenizer.ggml.scores"));
}

TEST(Tokenizer, TokensOutsideTheVocabularyAreNothing) {
  const Loaded t = samples::load(samples::byte_pairs());
  EXPECT_THAT(t->decode(std::vector<TokenId>{-1, 1 << 30}), IsEmpty());
  EXPECT_THAT(t->token_text(-5), IsEmpty());
  EXPECT_THAT(t->piece(1 << 30), IsEmpty());
}

TEST(Tokenizer, LongRunsTakeNoLongTime) {
  for (const auto& vocabulary :
       {samples::sentencepiece(), samples::byte_pairs(), samples::byte_pairs("smollm"), samples::wordpiece()}) {
    const Loaded t = samples::load(vocabulary);
    for (const char c : {'a', ' ', '\n', '7', '!'}) {
      const std::string text(200'000, c);
      const auto tokens = t->encode(text);
      ASSERT_TRUE(tokens) << tokens.error().message;
      if (vocabulary.model != "bert") {
        EXPECT_EQ(t->decode(*tokens), text);
      }
    }
  }
}

// Runs of few different bytes, so that merges, caches and long words all occur; and any bytes at all.
rc::Gen<std::string> text_or_bytes() {
  const auto bytes = rc::gen::container<std::string>(rc::gen::arbitrary<char>());
  const auto words = rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(std::vector<std::string>{
                                      "a", "aa", "ab", "the", " the", " ",    "  ",       "\n",     "é",  "caf",
                                      "é", "漢", "12", "'s",  "\xff", "\xe4", "\xf0\x9f", "<tool>", "\t", "\r\n"})),
                                  [](const std::vector<std::string>& parts) {
                                    std::string text;
                                    for (const std::string& part : parts) text += part;
                                    return text;
                                  });
  return rc::gen::oneOf(bytes, words);
}

RC_GTEST_PROP(TokenizerProperty, SentencePieceGivesAnyBytesBack, ()) {
  static const Loaded t = samples::load(samples::sentencepiece());
  const std::string text = *text_or_bytes();
  RC_ASSERT(t->decode(*t->encode(text)) == text);
}

RC_GTEST_PROP(TokenizerProperty, BytePairsGiveAnyBytesBack, ()) {
  static const std::vector<Loaded> all = [] {
    std::vector<Loaded> loaded;
    for (const char* pre :
         {"gpt-2", "qwen2", "smollm", "deepseek-v3", "deepseek-llm", "tekken", "superbpe", "afmoe", "exaone-moe"}) {
      samples::Vocabulary v = samples::byte_pairs(pre);
      v.more["tokenizer.ggml.add_bos_token"] = false;
      loaded.push_back(samples::load(v));
    }
    return loaded;
  }();
  const std::string text = *text_or_bytes();
  for (const Loaded& t : all) {
    const std::vector<TokenId> tokens = *t->encode(text);
    RC_ASSERT(t->decode(tokens) == text);
    std::string joined;
    for (const TokenId token : tokens) joined += t->token_text(token);
    RC_ASSERT(joined == text);
  }
}

RC_GTEST_PROP(TokenizerProperty, AnyTokensDecode, (std::vector<TokenId> tokens)) {
  static const Loaded t = samples::load(samples::byte_pairs());
  std::string joined;
  for (TokenId& token : tokens) {
    token %= 300;
    joined += t->token_text(token, true);
  }
  RC_ASSERT(t->decode(tokens, true) == joined);
}

}  // namespace
}  // namespace plumb::text
