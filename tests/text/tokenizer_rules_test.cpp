// The rules that a tokenizer follows where the metadata leave a choice: each key with its default, each name of a special
// token, each bound of a class of characters with its neighbours.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer_samples.h"
#include "text/unicode/utf8.h"

namespace plumb::text {
namespace {

using samples::Loaded;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr EncodeOptions bare{.add_special = false, .parse_special = false};
constexpr EncodeOptions parsed{.add_special = false, .parse_special = true};

std::vector<std::string> pieces(const Loaded& loaded, std::string_view text, EncodeOptions options = bare) {
  const auto tokens = loaded->encode(text, options);
  if (!tokens) return {tokens.error().message};
  std::vector<std::string> result;
  for (const TokenId token : *tokens) result.emplace_back(loaded->piece(token));
  return result;
}

std::string utf8(char32_t c) {
  std::string text;
  unicode::append(text, c);
  return text;
}

samples::Vocabulary of_size(samples::Vocabulary v, std::size_t size) {
  while (v.tokens.size() < size) v.add("filler" + std::to_string(v.tokens.size()));
  return v;
}

std::string message(const samples::Vocabulary& v) {
  const Loaded loaded = samples::load(v);
  return loaded.tokenizer ? "no error" : loaded.tokenizer.error().message;
}

TEST(TokenizerKeys, SentencePieceHasCustomaryTokens) {
  const Loaded t = samples::load(samples::sentencepiece());
  const SpecialTokens& s = t->special();
  EXPECT_EQ(s.bos, 1);
  EXPECT_EQ(s.eos, 2);
  EXPECT_EQ(s.unknown, 0);
  EXPECT_EQ(s.separator, std::nullopt);
  EXPECT_EQ(s.padding, std::nullopt);
  EXPECT_EQ(s.eot, std::nullopt);
  EXPECT_EQ(s.eom, std::nullopt);
  EXPECT_TRUE(s.add_bos);
  EXPECT_FALSE(s.add_eos);
  EXPECT_TRUE(t->ends_generation(2));
  EXPECT_FALSE(t->ends_generation(1));
}

// A vocabulary that is too small for the customary tokens has none.
TEST(TokenizerKeys, CustomaryTokensAreInTheVocabulary) {
  samples::Vocabulary v{.model = "llama"};
  v.add("a");
  v.more["tokenizer.ggml.add_bos_token"] = false;
  EXPECT_EQ(samples::load(v)->special().unknown, 0);
  EXPECT_EQ(samples::load(v)->special().bos, std::nullopt);
  v.add("b");
  EXPECT_EQ(samples::load(v)->special().bos, 1);
  EXPECT_EQ(samples::load(v)->special().eos, std::nullopt);
  v.add("c");
  EXPECT_EQ(samples::load(v)->special().eos, 2);
}

TEST(TokenizerKeys, BytePairsHaveNoCustomaryTokens) {
  const Loaded t = samples::load(of_size(samples::byte_pairs(), 300));
  const SpecialTokens& s = t->special();
  for (const auto& id : {s.bos, s.eos, s.unknown, s.separator, s.padding, s.eom}) EXPECT_EQ(id, std::nullopt);
  EXPECT_FALSE(s.add_bos);
  EXPECT_FALSE(s.add_eos);
}

TEST(TokenizerKeys, WordPieceHasTheTokensOfBert) {
  const Loaded t = samples::load(of_size(samples::Vocabulary{.model = "bert"}, 103));
  ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
  const SpecialTokens& s = t->special();
  EXPECT_EQ(s.bos, 101);
  EXPECT_EQ(s.separator, 102);
  EXPECT_EQ(s.unknown, 100);
  EXPECT_EQ(s.padding, 0);
  EXPECT_EQ(s.eos, std::nullopt);
  EXPECT_TRUE(s.add_bos);
  EXPECT_THAT(message(of_size(samples::Vocabulary{.model = "bert"}, 102)), HasSubstr("tokenizer.ggml.seperator_token_id"));
  EXPECT_THAT(message(of_size(samples::Vocabulary{.model = "bert"}, 101)), HasSubstr("tokenizer.ggml.bos_token_id"));
  samples::Vocabulary v = of_size(samples::Vocabulary{.model = "bert"}, 100);
  v.more["tokenizer.ggml.bos_token_id"] = std::uint32_t{1};
  v.more["tokenizer.ggml.seperator_token_id"] = std::uint32_t{2};
  EXPECT_THAT(message(v), HasSubstr("tokenizer.ggml.unknown_token_id is missing"));
}

TEST(TokenizerKeys, EachRoleIsReadFromItsKey) {
  using Role = std::optional<TokenId> SpecialTokens::*;
  struct {
    const char* key;
    Role role;
    std::string_view used_by;  // models
  } const roles[] = {
      {"bos", &SpecialTokens::bos, "llama bert"},         {"eos", &SpecialTokens::eos, "llama gpt2 bert"},
      {"eot", &SpecialTokens::eot, "llama gpt2 bert"},    {"eom", &SpecialTokens::eom, "llama gpt2 bert"},
      {"unknown", &SpecialTokens::unknown, "llama bert"}, {"seperator", &SpecialTokens::separator, "bert"},
      {"padding", &SpecialTokens::padding, ""},
  };
  for (const auto& make : {samples::sentencepiece, +[] { return samples::byte_pairs(); }, samples::wordpiece}) {
    for (const auto& [key, role, used_by] : roles) {
      samples::Vocabulary v = make();
      const std::string full = std::string("tokenizer.ggml.") + key + "_token_id";
      SCOPED_TRACE(v.model + ", " + full);
      const auto last = static_cast<std::uint32_t>(v.tokens.size() - 1);
      v.more[full] = last;
      EXPECT_EQ(samples::load(v)->special().*role, static_cast<TokenId>(last));
      v.more[full] = static_cast<std::int64_t>(last);
      EXPECT_EQ(samples::load(v)->special().*role, static_cast<TokenId>(last));
      // An id that nothing uses keeps no file from being read.
      for (const gguf::Value& odd : {gguf::Value{last + 1}, gguf::Value{-1}, gguf::Value{std::string_view("5")}}) {
        v.more[full] = odd;
        if (used_by.find(v.model) != std::string_view::npos) {
          EXPECT_THAT(message(v), HasSubstr(full));
          continue;
        }
        const auto tokenizer = samples::load(v);
        ASSERT_TRUE(tokenizer.tokenizer) << tokenizer.tokenizer.error().message;
        EXPECT_EQ(tokenizer->special().*role, std::nullopt);
        ASSERT_EQ(tokenizer->warnings().size(), 1U);
        EXPECT_THAT(tokenizer->warnings()[0], testing::AllOf(HasSubstr(full), HasSubstr("left out")));
      }
    }
  }
}

TEST(TokenizerKeys, FlagsAreTruthValues) {
  for (const char* key : {"add_bos_token", "add_eos_token", "add_space_prefix"}) {
    samples::Vocabulary v = samples::sentencepiece();
    const std::string full = std::string("tokenizer.ggml.") + key;
    v.more[full] = std::uint32_t{1};
    EXPECT_TRUE(samples::load(v).tokenizer);
    v.more[full] = std::uint32_t{2};
    EXPECT_THAT(message(v), HasSubstr(full));
  }
  for (const char* key : {"lowercase", "strip_accents"}) {
    samples::Vocabulary v = samples::wordpiece();
    const std::string full = std::string("tokenizer.ggml.normalizer.") + key;
    v.more[full] = std::uint32_t{1};
    EXPECT_TRUE(samples::load(v).tokenizer);
    v.more[full] = std::uint32_t{2};
    EXPECT_THAT(message(v), HasSubstr(full));
  }
}

TEST(TokenizerKeys, EosIsAddedWhereTheFileSaysSo) {
  samples::Vocabulary v = samples::byte_pairs();
  v.more["tokenizer.ggml.eos_token_id"] = std::uint32_t{7};
  EXPECT_NE(samples::load(v)->encode("a")->back(), 7);
  v.more["tokenizer.ggml.add_eos_token"] = true;
  EXPECT_EQ(samples::load(v)->encode("a")->back(), 7);
  EXPECT_EQ(samples::load(v)->encode("a", bare)->size(), 1u);
  samples::Vocabulary bert = samples::wordpiece();
  bert.more["tokenizer.ggml.add_bos_token"] = false;
  bert.more["tokenizer.ggml.add_eos_token"] = true;
  bert.more["tokenizer.ggml.eos_token_id"] = std::uint32_t{0};
  EXPECT_THAT(pieces(samples::load(bert), "hello", {}), ElementsAre("[CLS]", "▁hello", "[SEP]"));
}

TEST(TokenizerKeys, ABosThatIsToBeAddedMustBeKnown) {
  samples::Vocabulary v = samples::byte_pairs();
  v.more["tokenizer.ggml.add_bos_token"] = true;
  EXPECT_THAT(message(v), HasSubstr("tokenizer.ggml.bos_token_id is missing"));
  EXPECT_THAT(message(samples::byte_pairs("llama-bpe")), HasSubstr("tokenizer.ggml.bos_token_id is missing"));
}

TEST(TokenizerKeys, TheTypesOfTokens) {
  samples::Vocabulary v = samples::byte_pairs();
  const std::size_t first = v.tokens.size();
  for (std::int32_t type = -1; type <= 8; ++type) v.add("<type" + std::to_string(type) + ">", type);
  const Loaded t = samples::load(v);
  const TokenType expected[] = {TokenType::unused,  TokenType::unused,       TokenType::normal, TokenType::unknown,
                                TokenType::control, TokenType::user_defined, TokenType::unused, TokenType::byte,
                                TokenType::unused,  TokenType::unused};
  for (std::size_t i = 0; i < std::size(expected); ++i)
    EXPECT_EQ(t->type(static_cast<TokenId>(first + i)), expected[i]) << v.tokens[first + i];
  EXPECT_EQ(t->type(-1), TokenType::unused);
  EXPECT_EQ(t->type(static_cast<TokenId>(t->size())), TokenType::unused);
  EXPECT_EQ(t->piece(static_cast<TokenId>(t->size())), "");
  EXPECT_EQ(t->token_text(static_cast<TokenId>(t->size())), "");
  EXPECT_EQ(t->piece(static_cast<TokenId>(t->size() - 1)), "<type8>");
  EXPECT_EQ(t->size(), v.tokens.size());
  for (const char* hidden : {"<type2>", "<type3>"}) {
    EXPECT_EQ(t->token_text(*t->find(hidden)), "");
    EXPECT_EQ(t->token_text(*t->find(hidden), true), hidden);
  }
  EXPECT_EQ(t->token_text(*t->find("<type4>")), "<type4>");
  // Control, user-defined and unknown tokens are found in a text; the others are spelled.
  for (const char* special : {"<type2>", "<type3>", "<type4>"})
    EXPECT_THAT(pieces(t, special, parsed), ElementsAre(special));
  for (const char* plain : {"<type1>", "<type5>", "<type6>"}) EXPECT_GT(pieces(t, plain, parsed).size(), 1u) << plain;
  EXPECT_THAT(pieces(t, "<type4>"), ElementsAre("<type4>"));
  EXPECT_GT(pieces(t, "<type2>").size(), 1u);
  EXPECT_GT(pieces(t, "<type3>").size(), 1u);
}

TEST(TokenizerKeys, WithoutTypesAllTokensAreNormal) {
  gguf::Writer writer;
  const std::vector<std::string_view> tokens{"a", "<|im_end|>"}, merges{"a b"};
  writer.set("tokenizer.ggml.model", std::string_view("gpt2"));
  writer.set("tokenizer.ggml.tokens", gguf::array_of(tokens));
  writer.set("tokenizer.ggml.merges", gguf::array_of(merges));
  const auto bytes = writer.to_memory();
  const auto loaded = Tokenizer::load(*gguf::File::from_memory(*bytes, "sample.gguf"));
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->type(0), TokenType::normal);
  EXPECT_EQ(loaded->type(1), TokenType::control);
}

// The names that llama.cpp knows as ends of a generation.
TEST(SpecialNames, ThatEndAGeneration) {
  for (const char* name : {"<|eot_id|>",
                           "<|im_end|>",
                           "<|end|>",
                           "<|return|>",
                           "<|call|>",
                           "<|flush|>",
                           "<|calls|>",
                           "<end_of_turn>",
                           "<|endoftext|>",
                           "</s>",
                           "<|eom_id|>",
                           "<EOT>",
                           "_<EOT>",
                           "[EOT]",
                           "[EOS]",
                           "<|end_of_text|>",
                           "<end_of_utterance>",
                           "<eos>",
                           "<turn|>",
                           "<|tool_response>",
                           "<｜end▁of▁sentence｜>",
                           "[e~[",
                           "<|fim_pad|>",
                           "<fim-pad>",
                           "<fim_pad>",
                           "<PAD>",
                           "[PAD]",
                           "<|fim_repo|>",
                           "<|repo_name|>",
                           "<fim-repo>",
                           "<REPO>",
                           "<reponame>",
                           "<|file_sep|>"}) {
    samples::Vocabulary v{.model = "gpt2", .pre = "gpt-2"};
    v.add("a");
    v.add(name);
    v.merges = {"a b"};
    const Loaded t = samples::load(v);
    ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
    EXPECT_TRUE(t->ends_generation(1)) << name;
    EXPECT_FALSE(t->ends_generation(0)) << name;
    EXPECT_EQ(t->type(1), TokenType::control) << name;
  }
}

TEST(SpecialNames, OfFillInTheMiddleAreControlTokens) {
  for (const char* name :
       {"<|fim_prefix|>",  "<fim-prefix>",  "<fim_prefix>",    "<｜fim▁begin｜>", "<PRE>",           "▁<PRE>",
        "<|code_prefix|>", "<|prefix|>",    "<|fim_suffix|>",  "<fim-suffix>",    "<fim_suffix>",    "<｜fim▁hole｜>",
        "<SUF>",           "▁<SUF>",        "<|code_suffix|>", "<|suffix|>",      "<|fim_middle|>",  "<fim-middle>",
        "<fim_middle>",    "<｜fim▁end｜>", "<MID>",           "▁<MID>",          "<|code_middle|>", "<|middle|>"}) {
    samples::Vocabulary v = samples::byte_pairs();
    v.add(name);
    const Loaded t = samples::load(v);
    EXPECT_EQ(t->type(*t->find(name)), TokenType::control) << name;
    EXPECT_FALSE(t->ends_generation(*t->find(name))) << name;
  }
}

// A key comes before the names; an old key, before the names but after the new one.
TEST(SpecialNames, GiveWayToKeys) {
  const auto type_with = [](const char* piece, std::initializer_list<const char*> keys) {
    samples::Vocabulary v = samples::byte_pairs();
    v.add(piece);
    std::uint32_t id = 3;
    for (const char* key : keys) v.more[std::string("tokenizer.ggml.") + key + "_token_id"] = id++;
    const Loaded t = samples::load(v);
    return std::pair(t->type(*t->find(piece)), t->ends_generation(3));
  };
  struct Case {
    const char* piece;
    const char* key;
    const char* old_key;
    bool ends;
  };
  for (const auto& [piece, key, old_key, ends] :
       {Case{"<|fim_prefix|>", "fim_pre", "prefix", false}, Case{"<|fim_suffix|>", "fim_suf", "suffix", false},
        Case{"<|fim_middle|>", "fim_mid", "middle", false}, Case{"<|fim_pad|>", "fim_pad", nullptr, true},
        Case{"<|fim_repo|>", "fim_rep", nullptr, true}, Case{"<|file_sep|>", "fim_sep", nullptr, true},
        Case{"<|eom_id|>", "eom", nullptr, true}, Case{"<|eot_id|>", "eot", nullptr, true}}) {
    SCOPED_TRACE(piece);
    const bool known_end = std::string_view(piece) == "<|eom_id|>" || std::string_view(piece) == "<|eot_id|>";
    EXPECT_EQ(type_with(piece, {}), std::pair(TokenType::control, false));
    EXPECT_EQ(type_with(piece, {key}), std::pair(known_end ? TokenType::control : TokenType::normal, ends));
    if (old_key != nullptr) {
      EXPECT_EQ(type_with(piece, {old_key}), std::pair(TokenType::normal, false));
    }
  }
}

TEST(SpecialNames, TheFirstKnownNameIsTheEndOfTurn) {
  samples::Vocabulary v = samples::byte_pairs();
  v.add("<|eot_id|>");
  v.add("<|eom_id|>");
  const Loaded t = samples::load(v);
  EXPECT_EQ(t->special().eot, t->find("<|eot_id|>"));
  EXPECT_EQ(t->special().eom, t->find("<|eom_id|>"));
  EXPECT_EQ(samples::load(samples::byte_pairs())->special().eot, samples::load(samples::byte_pairs())->find("<|im_end|>"));
}

// In the "harmony" format and in Solar's, <|end|> closes a message only.
TEST(SpecialNames, AMessagesEndIsNoEndWhereToolsAreCalled) {
  const auto end_of = [](std::initializer_list<const char*> names) {
    samples::Vocabulary v = samples::byte_pairs();
    v.add("<|end|>", 3);
    for (const char* name : names) v.add(name, 3);
    const Loaded t = samples::load(v);
    const TokenId end = *t->find("<|end|>");
    return std::pair(t->ends_generation(end), t->type(end));
  };
  const std::pair stays(true, TokenType::control), goes(false, TokenType::user_defined);
  EXPECT_EQ(end_of({}), stays);
  EXPECT_EQ(end_of({"<|call|>"}), stays);
  EXPECT_EQ(end_of({"<|calls|>"}), stays);
  EXPECT_EQ(end_of({"<|return|>"}), stays);
  EXPECT_EQ(end_of({"<|flush|>"}), stays);
  EXPECT_EQ(end_of({"<|return|>", "<|flush|>"}), stays);
  EXPECT_EQ(end_of({"<|call|>", "<|calls|>"}), stays);
  EXPECT_EQ(end_of({"<|call|>", "<|return|>"}), goes);
  EXPECT_EQ(end_of({"<|calls|>", "<|flush|>"}), goes);
  EXPECT_EQ(end_of({"<|call|>", "<|flush|>"}), goes);
  EXPECT_EQ(end_of({"<|calls|>", "<|return|>"}), goes);
}

TEST(SpecialNames, EosIsTextWhereToolsRespond) {
  samples::Vocabulary v = samples::byte_pairs();
  v.add("</s>", 3);
  EXPECT_TRUE(samples::load(v)->ends_generation(*samples::load(v)->find("</s>")));
  v.add("<|tool_response>", 3);
  const Loaded t = samples::load(v);
  EXPECT_FALSE(t->ends_generation(*t->find("</s>")));
  EXPECT_EQ(t->type(*t->find("</s>")), TokenType::normal);
}

TEST(SpecialNames, HarmonysMarksAreText) {
  for (const char* name : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
    samples::Vocabulary v = samples::byte_pairs();
    v.add(name, 3);
    const Loaded t = samples::load(v);
    EXPECT_EQ(t->type(*t->find(name)), TokenType::user_defined) << name;
    EXPECT_THAT(pieces(t, name), ElementsAre(name));
  }
}

// Python's str.strip drops more; these are C's isspace.
TEST(Stripping, DropsTheSixSpacesOfAscii) {
  samples::Vocabulary right = samples::sentencepiece();
  right.add("<|user|>", 3);
  right.more["general.name"] = std::string_view("phi3");
  right.more["tokenizer.ggml.add_space_prefix"] = false;
  samples::Vocabulary left = samples::byte_pairs("jina-v2-code");
  left.add("<mask>", 4);
  const Loaded r = samples::load(right), l = samples::load(left);
  for (int byte = 0; byte < 128; ++byte) {
    const bool space = byte == ' ' || byte == '\t' || byte == '\n' || byte == '\v' || byte == '\f' || byte == '\r';
    const std::string one(1, static_cast<char>(byte));
    EXPECT_EQ(pieces(r, "<|user|>" + one + one + "the", parsed).size(),
              pieces(r, "<|user|>the", parsed).size() +
                  (space ? 0 : pieces(r, one + one + "the").size() - pieces(r, "the").size()))
        << byte;
    EXPECT_EQ(pieces(l, "the" + one + one + "<mask>").size() == 2, space) << byte;
    EXPECT_GT(pieces(r, one + "<|user|>", parsed).size(), 1u) << "only on the right";
    EXPECT_GT(pieces(l, "<mask>" + one).size(), 1u) << "only on the left";
  }
}

TEST(Stripping, IsOfTheModelsThatWantIt) {
  const auto strips_left = [](const char* pre, const char* architecture, const char* name, const char* token) {
    samples::Vocabulary v = samples::byte_pairs(pre);
    v.add(token, 4);
    v.more["general.architecture"] = std::string_view(architecture);
    v.more["general.name"] = std::string_view(name);
    return pieces(samples::load(v), std::string("the ") + token).size() == 2;
  };
  for (const char* pre : {"jina-v2-de", "jina-v2-es", "jina-v2-code"})
    EXPECT_TRUE(strips_left(pre, "bert", "a", "<mask>")) << pre;
  for (const char* architecture : {"nomic-bert-moe", "jina-bert-v3"})
    EXPECT_TRUE(strips_left("gpt-2", architecture, "a", "<mask>")) << architecture;
  EXPECT_TRUE(strips_left("gpt-2", "modern-bert", "Modern-BERT base", "[MASK]"));
  EXPECT_FALSE(strips_left("gpt-2", "bert", "Modern-BERT base", "<mask>"));
  EXPECT_FALSE(strips_left("gpt-2", "bert", "a", "<mask>"));
  EXPECT_FALSE(strips_left("jina-v2-de", "bert", "a", "[MASK]"));
}

TEST(Stripping, OfPhiIsForAllSpecialTokensButFour) {
  const auto strips_right = [](const char* token, std::int32_t type, const char* name) {
    samples::Vocabulary v = samples::sentencepiece();
    const auto known = std::ranges::find(v.tokens, token);
    if (known == v.tokens.end()) v.add(token, type);
    v.more["general.name"] = std::string_view(name);
    v.more["tokenizer.ggml.add_space_prefix"] = false;
    return pieces(samples::load(v), std::string(token) + " the", parsed) ==
           pieces(samples::load(v), std::string(token) + "the", parsed);
  };
  for (const char* name : {"phi-3", "Phi3 mini", "My PHI-3"}) {
    for (const std::int32_t type : {2, 3, 4}) EXPECT_TRUE(strips_right("<x>", type, name)) << name << type;
    EXPECT_TRUE(strips_right("</s>", 3, name));
    for (const char* token : {"<unk>", "<s>", "<|endoftext|>"}) EXPECT_FALSE(strips_right(token, 3, name)) << token;
  }
  EXPECT_FALSE(strips_right("<x>", 3, "phi-2"));
}

TEST(WordPieceRules, AccentsStayWithCaseUnlessTheFileSaysOtherwise) {
  const auto made = [](std::optional<bool> lower, std::optional<bool> strip) {
    samples::Vocabulary v = samples::wordpiece();
    for (const char* token : {"▁Café", "▁Cafe", "▁café"}) v.add(token);
    if (lower) v.more["tokenizer.ggml.normalizer.lowercase"] = *lower;
    if (strip) v.more["tokenizer.ggml.normalizer.strip_accents"] = *strip;
    return pieces(samples::load(v), "Café").front();
  };
  EXPECT_EQ(made({}, {}), "▁cafe");
  EXPECT_EQ(made(true, {}), "▁cafe");
  EXPECT_EQ(made(false, {}), "▁Café");
  EXPECT_EQ(made({}, false), "▁café");
  EXPECT_EQ(made({}, true), "▁cafe");
  EXPECT_EQ(made(true, false), "▁café");
  EXPECT_EQ(made(false, true), "▁Cafe");
  EXPECT_EQ(made(false, false), "▁Café");
}

// What becomes of "a" + c + "a": one word, two words around nothing, two words around c, or one word without c.
enum class Effect { joins, separates, stands_alone, vanishes };

Effect effect_of(const Loaded& t, char32_t c) {
  const std::vector<std::string> got = pieces(t, "a" + utf8(c) + "a");
  if (got == std::vector<std::string>{"▁a", "a"}) return Effect::vanishes;
  if (got == std::vector<std::string>{"▁a", "▁a"}) return Effect::separates;
  if (got.size() == 3 && got[0] == "▁a" && got[2] == "▁a") return Effect::stands_alone;
  return Effect::joins;
}

TEST(WordPieceRules, WhatCharactersDoToWords) {
  samples::Vocabulary v = samples::wordpiece();
  v.add("▁a");
  v.add("a");
  v.more["tokenizer.ggml.normalizer.lowercase"] = false;
  const Loaded t = samples::load(v);
  ASSERT_TRUE(t.tokenizer) << t.tokenizer.error().message;
  const std::pair<char32_t, char32_t> cjk[] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                               {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                               {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
  const auto is_cjk = [&](char32_t c) {
    return std::ranges::any_of(cjk, [c](const auto& block) { return block.first <= c && c <= block.second; });
  };
  for (const auto& [first, last] : cjk) {
    for (const std::uint32_t near : {first - 1, first + 0, first + 1, last - 1, last + 0, last + 1}) {
      const auto c = static_cast<char32_t>(near);
      // Neighbours of a block that are unassigned, or symbols, join words.
      EXPECT_EQ(effect_of(t, c) == Effect::stands_alone, is_cjk(c)) << std::hex << static_cast<std::uint32_t>(c);
    }
  }
  for (char32_t c = 1; c < 0x80; ++c) {
    if (c == 'a') continue;
    const bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    const Effect expected = letter                            ? Effect::joins
                            : c == ' ' || (c >= 9 && c <= 13) ? Effect::separates
                            : c < 0x20 || c == 0x7f           ? Effect::vanishes
                                                              : Effect::stands_alone;
    EXPECT_EQ(effect_of(t, c), expected) << static_cast<std::uint32_t>(c);
  }
  EXPECT_EQ(pieces(t, std::string("a\0a", 3)), (std::vector<std::string>{"▁a", "a"}));
  EXPECT_EQ(effect_of(t, 0xfffd), Effect::vanishes);
  EXPECT_EQ(effect_of(t, 0xad), Effect::vanishes);  // a format character
  EXPECT_EQ(effect_of(t, 0xa0), Effect::separates);
  EXPECT_EQ(effect_of(t, 0x2003), Effect::separates);
  EXPECT_EQ(effect_of(t, 0x3000), Effect::separates);
  EXPECT_EQ(effect_of(t, 0x2014), Effect::stands_alone);  // a dash
  EXPECT_EQ(effect_of(t, 0x20ac), Effect::joins);         // the sign of the euro: a symbol beyond ASCII
  EXPECT_EQ(effect_of(t, 0x301), Effect::joins);          // a mark
  v.more["tokenizer.ggml.normalizer.strip_accents"] = true;
  EXPECT_EQ(effect_of(samples::load(v), 0x301), Effect::vanishes);
  EXPECT_THAT(pieces(t,
                     "a\xff"
                     "a\xe4"
                     "a"),
              ElementsAre("▁a", "a", "a"))
      << "bytes that are not UTF-8 vanish";
}

TEST(WordPieceRules, AWordWithoutPiecesIsUnknownAsAWhole) {
  const Loaded t = samples::load(samples::wordpiece());
  EXPECT_THAT(pieces(t, "hello hellox hello"), ElementsAre("▁hello", "[UNK]", "▁hello"));
  EXPECT_THAT(pieces(t, ""), ElementsAre());
  EXPECT_THAT(pieces(t, " \n "), ElementsAre());
}

TEST(HexPieces, AreBytesOnlyIfSpelledAsSentencePieceDoes) {
  for (const char* wrong :
       {"<0x0a>", "<0x0A", "<0x0A>>", "0x0A>", "<0X0A>", "<0x0G>", "<0x/0>", "<0x:0>", "<0x@0>", "<0xA>", "<1x0A>"}) {
    samples::Vocabulary v = samples::sentencepiece();
    v.add(wrong, 6);
    const Loaded t = samples::load(v);
    EXPECT_EQ(t->token_text(*t->find(wrong)), wrong);
  }
  const Loaded t = samples::load(samples::sentencepiece());
  for (unsigned byte = 0; byte < 256; ++byte)
    EXPECT_EQ(t->token_text(*t->find(samples::hex_token(byte))), std::string(1, static_cast<char>(byte)));
}

// Without <0x..> tokens a byte is the token of one character, or the unknown token.
TEST(HexPieces, HaveSubstitutes) {
  samples::Vocabulary v{.model = "llama"};
  v.add("<unk>", 2);
  v.add("<s>", 3);
  v.add("▁");
  v.add("a");
  const Loaded t = samples::load(v);
  EXPECT_THAT(pieces(t, "ab"), ElementsAre("▁", "a", "<unk>"));
  EXPECT_THAT(pieces(t, "é"), ElementsAre("▁", "<unk>", "<unk>"));
  EXPECT_THAT(pieces(t, " a"), ElementsAre("▁", "▁", "a"));
}

TEST(StringsThatAreNoTokens, TakePartInMerges) {
  samples::Vocabulary v = samples::byte_pairs();
  v.merges.insert(v.merges.begin(), {"x y", "xy z"});  // "xy" is no token, "xyz" is one
  v.add("xyz");
  const Loaded t = samples::load(v);
  EXPECT_THAT(pieces(t, "xyz"), ElementsAre("xyz"));
  EXPECT_THAT(pieces(t, "xyw"), ElementsAre("x", "y", "w"));
}

// llama.cpp's names: the expressions that a name shares with another, and its rules.
TEST(PreTokenizerNames, ShareExpressionsAndHaveRules) {
  struct Rules {
    const char* like;
    bool whole_tokens = false;
    bool bos = false;
  };
  const std::map<std::string_view, Rules> expected = {
      {"a.x-4.0", {"gpt-2"}},
      {"bailingmoe2", {"bailingmoe"}},
      {"chatglm-bpe", {"llama-bpe"}},
      {"chameleon", {"chameleon", false, true}},
      {"codeshell", {"starcoder"}},
      {"cohere2moe", {"tiny_aya"}},
      {"command-r", {"starcoder"}},
      {"dbrx", {"llama-bpe"}},
      {"deepseek-r1-qwen", {"qwen2"}},
      {"exaone", {"starcoder"}},
      {"exaone4", {"gpt-2"}},
      {"f2llmv2", {"qwen2"}},
      {"falcon-h1", {"llama-bpe", true, true}},
      {"falcon3", {"llama-bpe", true, true}},
      {"gigachat", {"gpt-2"}},
      {"glm4", {"llama-bpe"}},
      {"gpt3-finnish", {"bloom"}},
      {"granite-docling", {"gpt-2"}},
      {"granite-embed-multi-97m", {"granite-embed-multi-97m", true}},
      {"grok-2", {"qwen2"}},
      {"hunyuan", {"qwen2"}},
      {"hunyuan-dense", {"deepseek-v3"}},
      {"hy_v4", {"deepseek-v3"}},
      {"jais", {"gpt-2"}},
      {"jina-de", {"gpt-2"}},
      {"jina-es", {"gpt-2"}},
      {"jina-v1-en", {"gpt-2"}},
      {"jina-v2-code", {"gpt-2"}},
      {"jina-v2-de", {"gpt-2"}},
      {"jina-v2-es", {"gpt-2"}},
      {"jina-v5-nano", {"llama-bpe", true, true}},
      {"joyai-llm", {"deepseek-v3"}},
      {"kanana2", {"gpt-4o"}},
      {"kormo", {"qwen2"}},
      {"lfm2", {"llama-bpe", true, true}},
      {"llada-moe", {"bailingmoe"}},
      {"llama-bpe", {"llama-bpe", true, true}},
      {"llama-v3", {"llama-bpe", true, true}},
      {"llama3", {"llama-bpe", true, true}},
      {"llama4", {"gpt-4o"}},
      {"megrez", {"qwen2"}},
      {"mellum", {"gpt-2"}},
      {"mellum2", {"starcoder"}},
      {"midm-2.0", {"llama-bpe", true, true}},
      {"minerva-7b", {"starcoder"}},
      {"minicpm5", {"minicpm5", true}},
      {"minimax-m2", {"gpt-4o"}},
      {"modern-bert", {"gpt-2"}},
      {"mpt", {"gpt-2"}},
      {"olmo", {"gpt-2"}},
      {"phi-2", {"gpt-2"}},
      {"pixtral", {"llama-bpe", true, true}},
      {"poro-chat", {"bloom"}},
      {"refact", {"starcoder"}},
      {"roberta-bpe", {"gpt-2"}},
      {"smaug-bpe", {"llama-bpe"}},
      {"smollm", {"starcoder"}},
      {"solar-open", {"qwen2"}},
      {"stablelm2", {"qwen2"}},
      {"talkie", {"gpt-4o"}},
      {"tekken", {"tekken", true, true}},
      {"trillion", {"gpt-2"}},
      {"youtu", {"youtu", true}},
      {"granite-embed-multi-311m", {"gemma4"}},
      {"sarvam-moe", {"gemma4"}},
  };
  const std::set<std::string_view> of_characters{"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"};
  const std::string text =
      "It's I'LL 1234567 days, ÀÉ¾ 漢字カナ\t\n\n  x e\u0301É \u0915\u093f <sentinel:12> $5.00 a/b\r\n!\n/ HELLOWorld ,.!  "
      " \n x";
  for (const std::string_view name : PreTokenizer::names()) {
    SCOPED_TRACE(name);
    const auto found = expected.find(name);
    const Rules rules = found == expected.end() ? Rules{nullptr} : found->second;
    const auto made = PreTokenizer::make(name);
    ASSERT_TRUE(made) << made.error().message;
    const PreTokenizerRules got = made->rules();
    const bool gemma = name == "gemma4" || name == "granite-embed-multi-311m";
    EXPECT_EQ(got.ignore_merges, rules.whole_tokens);
    EXPECT_EQ(got.add_bos, rules.bos);
    EXPECT_EQ(got.forces_bos, gemma);
    EXPECT_EQ(got.whole_newlines, gemma);
    EXPECT_EQ(got.byte_level, !of_characters.contains(name));
    EXPECT_EQ(got.spaces_as_blocks, of_characters.contains(name) && name != "whitespace");
    if (rules.like != nullptr) {
      EXPECT_EQ(*made->split(text), *PreTokenizer::make(rules.like)->split(text));
    }
  }
}

}  // namespace
}  // namespace plumb::text
