#include "text/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>

#include "text/tokenizer/stand_ins.h"
#include "text/unicode/utf8.h"

namespace plumb::text {

namespace {

// Numbers that are split from the right into groups of three. A look-ahead would take quadratic time on a long number.
enum class Digits : std::uint8_t {
  none,
  ascii_groups,        // superbpe: "(?=(\d{3})+(?!\d))", cuts before every group of three
  groups_with_prefix,  // afmoe, tiny_aya: groups of any digits (\p{N}); the text before a number stays with the first
                       // group
};

struct Stage {
  std::string_view pattern;
  Digits digits = Digits::none;
};

struct Entry {
  std::string_view name;
  std::span<const Stage> stages;
  PreTokenizerRules rules;
};

// The expressions are those of llama.cpp's src/llama-vocab.cpp and src/unicode.cpp, which follow the models'
// tokenizer.json. They have the same meaning as there: case classes cover ASCII only ("[^\P{L}a-z]" is a letter other than
// a–z), \d is an ASCII digit, and classes of code points leave out white space beyond ASCII. No match backtracks over more
// than one repetition, so they take linear time, and the stack does not grow with the text.
#define PLUMB_CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define PLUMB_SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PLUMB_WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define PLUMB_SYMBOLS " ?[^\\s\\p{L}\\p{N}]+"
#define PLUMB_CASED_WORD(suffix) \
  "[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]*[^\\P{L}A-Z]+" suffix "|[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]+[^\\P{L}A-Z]*" suffix
#define PLUMB_HAN                                                                                         \
  "\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{20000}-\\x{2A6DF}\\x{2A700}-\\x{2B73F}\\x{2B740}-\\x{2B81F}" \
  "\\x{2B820}-\\x{2CEAF}\\x{2CEB0}-\\x{2EBEF}\\x{F900}-\\x{FAFF}\\x{2F800}-\\x{2FA1F}"

constexpr std::string_view gpt2_pattern = "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
constexpr std::string_view qwen2_pattern =
    PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}|" PLUMB_SYMBOLS "[\\r\\n]*|" PLUMB_SPACES;
// Letters, marks and symbols as in DeepSeek V3, with any run of line ends after symbols.
constexpr std::string_view deepseek3_words =
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*"
    "|" PLUMB_SPACES;
constexpr std::string_view cjk_and_kana = "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+";
constexpr std::string_view deepseek_cjk =
    "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}"
    "\\x{2060}-\\x{2FFF}\\x{3001}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+";
constexpr std::string_view single_number = "\\p{N}";

constexpr auto llama3 = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}{1,3}|" PLUMB_SYMBOLS "[\\r\\n]*|" PLUMB_SPACES},
});
// A long run of spaces is taken 512 at a time; the look-behind avoids searching the rest for line ends each time.
constexpr auto jais2 = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}{1,3}|" PLUMB_SYMBOLS
                       "[\\r\\n]*|(?<![^\\S\\r\\n])\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!"
                       "\\S)|\\s{32}(?!\\S)|"
                       "\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"},
});
constexpr auto deepseek_llm = std::to_array<Stage>({
    {"[\\r\\n]"},
    {"\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"
     "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}"
     "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"
     "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"
     "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"
     "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}"
     "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"
     "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}"
     "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"
     "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"
     "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"
     "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"
     "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+"},
    {"\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3001}\\x{3002}]+"},
    {"(?<!\\s)\\s++\\z"},
    {deepseek_cjk},
    {"\\p{N}+"},
});
constexpr auto deepseek3 = std::to_array<Stage>({{"\\p{N}{1,3}"}, {cjk_and_kana}, {deepseek3_words}});
constexpr auto spark = std::to_array<Stage>({
    {"\\p{N}{1,3}"},
    {cjk_and_kana},
    {"[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+|[\\r\\n]|"
     "\\s+(?!\\S)|\\s+"},
    {single_number},
});
constexpr auto youtu = std::to_array<Stage>({
    {"[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}"
     "\\x{FF1B}"
     "\\x{FF0C}\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|"
     "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+(?:" PLUMB_CONTRACTION ")?|\\p{N}|" PLUMB_SYMBOLS "[\\r\\n/]*|" PLUMB_SPACES},
});
constexpr auto deepseek_coder =
    std::to_array<Stage>({{"[\\r\\n]"}, {"\\s?\\p{L}+"}, {"\\s?\\p{P}+"}, {deepseek_cjk}, {single_number}});
constexpr auto falcon = std::to_array<Stage>({{"[\\p{P}$+<=>^~|`]+"}, {gpt2_pattern}, {"[0-9][0-9][0-9]"}});
constexpr auto starcoder = std::to_array<Stage>({{single_number}, {gpt2_pattern}});
constexpr auto gpt2 = std::to_array<Stage>({{gpt2_pattern}});
constexpr auto qwen2 = std::to_array<Stage>({{qwen2_pattern}});
constexpr auto qwen35 = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" PLUMB_SPACES},
});
constexpr std::string_view not_sentence_end =
    " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+";
constexpr auto bloom = std::to_array<Stage>({{not_sentence_end}});
constexpr auto viking = std::to_array<Stage>({{not_sentence_end}, {single_number}});
constexpr auto tekken = std::to_array<Stage>({{PLUMB_CASED_WORD("") "|\\p{N}|" PLUMB_SYMBOLS "[\\r\\n/]*|" PLUMB_SPACES}});
constexpr auto chameleon = std::to_array<Stage>({
    {"<sentinel:[0-9]+>"},
    {"IMGIMG[A-I]{1,4}Z"},
    {"[\\t\\n]|    |  "},
    {single_number},
    {"[\\p{P}!-/:-@\\[-`{-~]"},
    {gpt2_pattern},
});
constexpr auto gpt4o = std::to_array<Stage>(
    {{PLUMB_CASED_WORD("(?:" PLUMB_CONTRACTION ")?") "|\\p{N}{1,3}|" PLUMB_SYMBOLS "[\\r\\n/]*|" PLUMB_SPACES}});
constexpr auto granite_embedding = std::to_array<Stage>({
    {"[^\\r\\n\\p{L}\\p{N}]?[^a-z\\p{C}\\p{N}\\p{P}\\p{S}\\p{Z}]*[^A-Z\\p{C}\\p{N}\\p{P}\\p{S}\\p{Z}]+(?:" PLUMB_CONTRACTION
     ")?"
     "|[^\\r\\n\\p{L}\\p{N}]?[^a-z\\p{C}\\p{N}\\p{P}\\p{S}\\p{Z}]+[^A-Z\\p{C}\\p{N}\\p{P}\\p{S}\\p{Z}]*(?"
     ":" PLUMB_CONTRACTION ")?"
     "|\\p{N}{1,3}|" PLUMB_SYMBOLS "[\\r\\n/]*|" PLUMB_SPACES},
});
constexpr auto tiny_aya = std::to_array<Stage>({
    {"", Digits::groups_with_prefix},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+(?:" PLUMB_CONTRACTION ")?|\\p{N}{1,3}|" PLUMB_SYMBOLS
     "[\\r\\n/]*|" PLUMB_SPACES},
});
constexpr auto kimi_k2 = std::to_array<Stage>({
    {"[" PLUMB_HAN "]+|(?:[^\\r\\n\\p{L}\\p{N}" PLUMB_HAN "])?[^\\P{L}" PLUMB_HAN "]+(?:" PLUMB_CONTRACTION
     ")?|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" PLUMB_SPACES},
});
constexpr auto superbpe = std::to_array<Stage>({{"\\p{N}+"}, {"", Digits::ascii_groups}});
constexpr auto bailing = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}|" PLUMB_SYMBOLS "[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
});
constexpr auto seed_coder = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" PLUMB_SPACES},
});
constexpr auto ufakzeka = std::to_array<Stage>({{PLUMB_WORD "|\\p{N}|" PLUMB_SYMBOLS "[\\r\\n]*|" PLUMB_SPACES}});
constexpr auto afmoe = std::to_array<Stage>({
    {"", Digits::groups_with_prefix},
    {"[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{8C48}-\\x{FAFF}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}\\x{FF65}-\\x{FF9F}"
     "\\x{2F00}-\\x{2FDF}\\x{E40}-\\x{E7F}\\x{E80}-\\x{EFF}\\x{1780}-\\x{17FF}\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}"
     "\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}]+"},
    {deepseek3_words},
});
constexpr std::string_view lines_pattern = "[^\\n]+|[\\n]+";
constexpr auto laguna = std::to_array<Stage>({{lines_pattern}, {qwen2_pattern}});
constexpr auto lines = std::to_array<Stage>({{lines_pattern}});
constexpr auto exaone_moe = std::to_array<Stage>({
    {PLUMB_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}(?:\\p{M}| ?\\p{L})*+|\\p{N}|" PLUMB_SYMBOLS
                       "[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
});
constexpr auto minicpm5 = std::to_array<Stage>({
    {"\\p{N}{1,3}"},
    {PLUMB_CONTRACTION "|" PLUMB_WORD "|\\p{N}+|" PLUMB_SYMBOLS "[\\r\\n]*|" PLUMB_SPACES},
});
constexpr auto not_spaces = std::to_array<Stage>({{"\\S+"}});
constexpr auto by_default = std::to_array<Stage>({{"[\\p{P}$+<=>^~|]+"}, {gpt2_pattern}, {"\\p{N}+"}, {"[0-9][0-9][0-9]"}});

#undef PLUMB_CONTRACTION
#undef PLUMB_SPACES
#undef PLUMB_WORD
#undef PLUMB_SYMBOLS
#undef PLUMB_CASED_WORD
#undef PLUMB_HAN

constexpr PreTokenizerRules plain{};
constexpr PreTokenizerRules whole_tokens{.ignore_merges = true};
constexpr PreTokenizerRules whole_tokens_bos{.ignore_merges = true, .add_bos = true};
constexpr PreTokenizerRules with_bos{.add_bos = true};
constexpr PreTokenizerRules characters{.byte_level = false};
constexpr PreTokenizerRules spaces_become_blocks{.byte_level = false, .spaces_as_blocks = true};
constexpr PreTokenizerRules gemma4{
    .byte_level = false, .spaces_as_blocks = true, .forces_bos = true, .whole_newlines = true};

constexpr auto known_table = std::to_array<Entry>({
    {"default", by_default, plain},
    {"a.x-4.0", gpt2, plain},
    {"afmoe", afmoe, plain},
    {"bailingmoe", bailing, plain},
    {"bailingmoe2", bailing, plain},
    {"bloom", bloom, plain},
    {"chameleon", chameleon, with_bos},
    {"chatglm-bpe", llama3, plain},
    {"codeshell", starcoder, plain},
    {"cohere2moe", tiny_aya, plain},
    {"command-r", starcoder, plain},
    {"dbrx", llama3, plain},
    {"deepseek-coder", deepseek_coder, plain},
    {"deepseek-llm", deepseek_llm, plain},
    {"deepseek-r1-qwen", qwen2, plain},
    {"deepseek-v3", deepseek3, plain},
    {"exaone", starcoder, plain},
    {"exaone-moe", exaone_moe, plain},
    {"exaone4", gpt2, plain},
    {"f2llmv2", qwen2, plain},
    {"falcon", falcon, plain},
    {"falcon-h1", llama3, whole_tokens_bos},
    {"falcon3", llama3, whole_tokens_bos},
    {"gemma4", lines, gemma4},
    {"gigachat", gpt2, plain},
    {"glm4", llama3, plain},
    {"gpt-2", gpt2, plain},
    {"gpt-4o", gpt4o, plain},
    {"gpt3-finnish", bloom, plain},
    {"granite-docling", gpt2, plain},
    {"granite-embed-multi-311m", lines, gemma4},
    {"granite-embed-multi-97m", granite_embedding, whole_tokens},
    {"grok-2", qwen2, plain},
    {"hunyuan", qwen2, plain},
    {"hunyuan-dense", deepseek3, plain},
    {"hy_v4", deepseek3, plain},
    {"jais", gpt2, plain},
    {"jais-2", jais2, plain},
    {"jina-de", gpt2, plain},
    {"jina-es", gpt2, plain},
    {"jina-v1-en", gpt2, plain},
    {"jina-v2-code", gpt2, plain},
    {"jina-v2-de", gpt2, plain},
    {"jina-v2-es", gpt2, plain},
    {"jina-v5-nano", llama3, whole_tokens_bos},
    {"joyai-llm", deepseek3, plain},
    {"kanana2", gpt4o, plain},
    {"kimi-k2", kimi_k2, plain},
    {"kormo", qwen2, plain},
    {"laguna", laguna, plain},
    {"lfm2", llama3, whole_tokens_bos},
    {"llada-moe", bailing, plain},
    {"llama-bpe", llama3, whole_tokens_bos},
    {"llama-v3", llama3, whole_tokens_bos},
    {"llama3", llama3, whole_tokens_bos},
    {"llama4", gpt4o, plain},
    {"megrez", qwen2, plain},
    {"mellum", gpt2, plain},
    {"mellum2", starcoder, plain},
    {"midm-2.0", llama3, whole_tokens_bos},
    {"minerva-7b", starcoder, plain},
    {"minicpm5", minicpm5, whole_tokens},
    {"minimax-m2", gpt4o, plain},
    {"modern-bert", gpt2, plain},
    {"mpt", gpt2, plain},
    {"olmo", gpt2, plain},
    {"phi-2", gpt2, plain},
    {"pixtral", llama3, whole_tokens_bos},
    {"poro-chat", bloom, plain},
    {"qwen2", qwen2, plain},
    {"qwen35", qwen35, plain},
    {"refact", starcoder, plain},
    {"roberta-bpe", gpt2, plain},
    {"sarvam-moe", lines, spaces_become_blocks},
    {"seed-coder", seed_coder, plain},
    {"smaug-bpe", llama3, plain},
    {"smollm", starcoder, plain},
    {"solar-open", qwen2, plain},
    {"spark2_5", spark, plain},
    {"stablelm2", qwen2, plain},
    {"starcoder", starcoder, plain},
    {"superbpe", superbpe, plain},
    {"talkie", gpt4o, plain},
    {"tekken", tekken, whole_tokens_bos},
    {"tiny_aya", tiny_aya, plain},
    {"trillion", gpt2, plain},
    {"ufakzeka", ufakzeka, plain},
    {"viking", viking, plain},
    {"whitespace", not_spaces, characters},
    {"youtu", youtu, whole_tokens},
});

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 128> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

using Ends = std::vector<std::uint32_t>;

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

// The text for PCRE2, with the same length: bytes that are not UTF-8 become a control character, and characters newer than
// PCRE2's tables become older ones of their kind. `storage` is used only if the text has such bytes or characters.
std::string_view subject_of(std::string_view text, std::string& storage) {
  const auto replace = [&](std::size_t at, std::string_view by) {
    if (storage.empty()) storage = text;
    std::copy(by.begin(), by.end(), storage.begin() + static_cast<std::ptrdiff_t>(at));
  };
  const auto may_have_stand_in = [](unsigned char lead) { return (lead >= 0xe0 && lead <= 0xe3) || lead == 0xf0; };
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = unicode::length_at(text, at);
    if (length == 0) {
      replace(at++, "\x01");
      continue;
    }
    if (may_have_stand_in(lead)) {
      const char32_t c = unicode::code_point(text, at, length);
      if (const char32_t instead = stand_in(c); instead != c) {
        std::string spelled;
        unicode::append(spelled, instead);
        replace(at, spelled);
      }
    }
    at += length;
  }
  return storage.empty() ? text : std::string_view(storage);
}

// Adds the cuts inside one number that ends at `end` and whose digits begin at `starts`.
void cut_number(std::span<const std::uint32_t> starts, std::uint32_t end, bool cut_before, bool cut_after, Ends& ends) {
  const std::size_t first_group = starts.size() % 3;
  for (std::size_t i = first_group; i < starts.size(); i += 3)
    if (i > 0 || cut_before) ends.push_back(starts[i]);
  if (cut_after) ends.push_back(end);
}

}  // namespace

struct PreTokenizer::State {
  struct Step {
    Code code;  // none for digits
    Digits digits = Digits::none;
  };
  std::vector<Step> steps;
  Code number;  // \p{N}+, for the groups of any digits
  PreTokenizerRules rules;
};

namespace {

Result<Code> compile(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error,
                          &offset, nullptr));
  if (!code)
    return fail(
        "PCRE2 cannot compile the pre-tokenizer expression '{}' (at {}): {}; this PCRE2 may be built without Unicode",
        pattern, offset, pcre2_message(error));
  // If PCRE2 has no just-in-time compiler for this machine it interprets: slower, with the same result.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// Runs expressions over pieces of one text.
class Splitter {
 public:
  explicit Splitter(std::string_view subject)
      : subject_(subject), data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
    // The expressions need far less. The limits turn an unexpected hang into an error.
    pcre2_set_match_limit(context_.get(), 1u << 28);
    pcre2_set_heap_limit(context_.get(), 1u << 18);
  }

  // The next match in [at, end); the expression sees no other text. Offsets are in the subject.
  Result<std::optional<std::pair<std::uint32_t, std::uint32_t>>> next(const pcre2_code* code, std::uint32_t begin,
                                                                      std::uint32_t at, std::uint32_t end) {
    const int count = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject_.data() + begin), end - begin, at - begin,
                                  PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data_.get(), context_.get());
    if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (count < 0) return fail("the pre-tokenizer gave up at byte {} of the text: {}", at, pcre2_message(count));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    return std::pair(begin + static_cast<std::uint32_t>(offsets[0]), begin + static_cast<std::uint32_t>(offsets[1]));
  }

  Result<void> split(const pcre2_code* code, std::uint32_t begin, std::uint32_t end, Ends& ends) {
    for (std::uint32_t at = begin; at < end;) {
      PLUMB_TRY(const auto match, next(code, begin, at, end));
      if (!match) break;
      if (match->first > at) ends.push_back(match->first);
      ends.push_back(match->second);
      at = match->second;
    }
    finish(begin, end, ends);
    return {};
  }

  Result<void> split_numbers(Digits digits, const pcre2_code* number, std::uint32_t begin, std::uint32_t end, Ends& ends) {
    std::vector<std::uint32_t> starts;
    for (std::uint32_t at = begin; at < end;) {
      std::uint32_t last = 0;
      starts.clear();
      if (digits == Digits::groups_with_prefix) {
        PLUMB_TRY(const auto match, next(number, begin, at, end));
        if (!match) break;
        last = match->second;
        for (std::uint32_t i = match->first; i < last; ++i)
          if ((static_cast<unsigned char>(subject_[i]) & 0xc0u) != 0x80u) starts.push_back(i);
        // The first group is cut only at its end.
        cut_number(starts, last, false, true, ends);
      } else {
        while (at < end && !is_ascii_digit(subject_[at])) ++at;
        if (at == end) break;
        for (last = at; last < end && is_ascii_digit(subject_[last]); ++last) starts.push_back(last);
        cut_number(starts, last, starts.front() > begin, false, ends);
      }
      at = last;
    }
    finish(begin, end, ends);
    return {};
  }

 private:
  static void finish(std::uint32_t begin, std::uint32_t end, Ends& ends) {
    if (begin < end && (ends.empty() || ends.back() != end)) ends.push_back(end);
  }

  std::string_view subject_;
  MatchData data_;
  MatchContext context_;
};

}  // namespace

Result<PreTokenizer> PreTokenizer::make(std::string_view name) {
  const auto entry = std::find_if(known_table.begin(), known_table.end(), [&](const Entry& e) { return e.name == name; });
  if (entry == known_table.end())
    return fail(
        "unknown pre-tokenizer '{}' in tokenizer.ggml.pre: how this model splits text into words is not known here, and "
        "another's splitting would give wrong tokens",
        name.substr(0, 60));
  auto state = std::make_shared<State>();
  state->rules = entry->rules;
  for (const Stage& stage : entry->stages) {
    State::Step& step = state->steps.emplace_back();
    step.digits = stage.digits;
    if (stage.digits == Digits::none) {
      PLUMB_TRY(step.code, compile(stage.pattern));
    } else if (stage.digits == Digits::groups_with_prefix) {
      PLUMB_TRY(state->number, compile("\\p{N}+"));
    }
  }
  PreTokenizer result;
  result.state_ = std::move(state);
  return result;
}

const PreTokenizerRules& PreTokenizer::rules() const { return state_->rules; }

Result<std::vector<std::uint32_t>> PreTokenizer::split(std::string_view text) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max())
    return fail("the text has {} bytes; one call can tokenize at most 2 GiB", text.size());
  std::string storage;
  Splitter splitter(subject_of(text, storage));
  Ends ends;
  if (text.empty()) return ends;
  ends.push_back(static_cast<std::uint32_t>(text.size()));
  for (const State::Step& step : state_->steps) {
    Ends next;
    next.reserve(ends.size());
    std::uint32_t begin = 0;
    for (const std::uint32_t end : ends) {
      if (step.digits == Digits::none) {
        PLUMB_CHECK(splitter.split(step.code.get(), begin, end, next));
      } else {
        PLUMB_CHECK(splitter.split_numbers(step.digits, state_->number.get(), begin, end, next));
      }
      begin = end;
    }
    ends = std::move(next);
  }
  return ends;
}

std::vector<std::string_view> PreTokenizer::names() {
  std::vector<std::string_view> names;
  names.reserve(known_table.size());
  for (const Entry& entry : known_table) names.push_back(entry.name);
  return names;
}

}  // namespace plumb::text
