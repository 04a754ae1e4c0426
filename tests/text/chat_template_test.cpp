// Chat templates against Python's jinja2, set up as in transformers (goldens by tools/make_template_goldens.py), and the
// limits of untrusted templates.
#include "text/chat_template.h"
#include "text/unicode/utf8.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace plumb::text {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const std::filesystem::path template_data = std::filesystem::path(PLUMB_TEST_DATA) / "text/templates";
const std::filesystem::path shared_templates = std::filesystem::path(PLUMB_SHARED) / "data/chat-templates";

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

Json file_json(const std::filesystem::path& path) { return Json::parse(file_text(path)); }

// 14 March 2025, 15:09:26.535897 local time: the moment of the goldens.
std::chrono::system_clock::time_point golden_time() {
  std::tm moment{};
  moment.tm_year = 125;
  moment.tm_mon = 2;
  moment.tm_mday = 14;
  moment.tm_hour = 15;
  moment.tm_min = 9;
  moment.tm_sec = 26;
  moment.tm_isdst = -1;
  return std::chrono::system_clock::from_time_t(std::mktime(&moment)) + std::chrono::microseconds(535897);
}

Result<std::string> rendered(std::string_view source, const Json& variables, const TemplateLimits& limits = {}) {
  PLUMB_TRY(const ChatTemplate parsed, ChatTemplate::parse(source, limits));
  return parsed.render(variables, golden_time());
}

Json variables_of(const Json& conversation, const Json& defaults) {
  Json variables = defaults;
  for (const auto& [key, value] : conversation.items()) {
    if (key != "name") variables[key] = value;
  }
  return variables;
}

// FNV-1a, 64 bits: other people's templates are not in this repository, and neither is the text that they make.
std::string hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

// `expected` holds "text", or "hash" and "bytes", or "error": a message, or null for any.
void expect_golden(const Result<std::string>& actual, const Json& expected) {
  if (expected.contains("error")) {
    ASSERT_FALSE(actual.has_value()) << "an error was expected, not:\n" << *actual;
    EXPECT_THAT(actual.error().message, HasSubstr("chat template"));
    if (expected["error"].is_string()) {
      EXPECT_THAT(actual.error().message, HasSubstr(expected["error"].get<std::string>()));
    }
    return;
  }
  ASSERT_TRUE(actual.has_value()) << actual.error().message;
  if (expected.contains("text")) {
    EXPECT_EQ(*actual, expected["text"].get<std::string>());
  } else {
    EXPECT_EQ(actual->size(), expected["bytes"].get<std::size_t>());
    EXPECT_EQ(hash_of(*actual), expected["hash"].get<std::string>()) << *actual;
  }
}

void expect_all_conversations(const std::string& source, const Json& goldens) {
  const Json stored = file_json(template_data / "conversations.json");
  ASSERT_EQ(stored["conversations"].size(), goldens.size());
  for (const Json& conversation : stored["conversations"]) {
    const auto name = conversation["name"].get<std::string>();
    SCOPED_TRACE("conversation: " + name);
    expect_golden(rendered(source, variables_of(conversation, stored["defaults"])), goldens.at(name));
  }
}

TEST(ChatTemplate, EveryFeatureDoesWhatJinjaDoes) {
  const Json stored = file_json(template_data / "conversations.json");
  const Json variables = variables_of(stored["conversations"][0], stored["defaults"]);
  const Json all = file_json(template_data / "features.json");
  for (const auto& [name, expected] : all.items()) {
    SCOPED_TRACE(name);
    expect_golden(rendered(file_text(template_data / "features" / name), variables), expected);
  }
}

TEST(ChatTemplate, EverySnippetDoesWhatJinjaDoes) {
  const Json stored = file_json(template_data / "conversations.json");
  const Json variables = variables_of(stored["conversations"][0], stored["defaults"]);
  const Json all = file_json(template_data / "snippets.json");
  EXPECT_GT(all.size(), 1000u);
  for (const auto& [source, expected] : all.items()) {
    SCOPED_TRACE(source);
    expect_golden(rendered(source, variables), expected);
  }
}

TEST(ChatTemplate, TemplatesInTheMannerOfKnownModels) {
  const Json all = file_json(template_data / "styles.json");
  for (const auto& [name, goldens] : all.items()) {
    SCOPED_TRACE(name);
    expect_all_conversations(file_text(template_data / "styles" / name), goldens);
  }
}

TEST(ChatTemplate, TemplatesOfKnownModels) {
  if (!std::filesystem::exists(shared_templates)) GTEST_SKIP() << "needs the templates in " << shared_templates;
  const Json all = file_json(template_data / "shared.json");
  for (const auto& [name, golden] : all.items()) {
    SCOPED_TRACE(name);
    const std::string source = file_text(shared_templates / name);
    ASSERT_EQ(hash_of(source), golden["hash"].get<std::string>()) << "the template is not the one of the golden";
    expect_all_conversations(source, golden["cases"]);
  }
}

struct Unbounded {
  const char* name;
  std::string source;
  const char* message;
};

std::string times(std::size_t count, std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

// A tenth of the usual steps and a quarter of the memory: under the sanitizers, the usual ones take a minute.
constexpr TemplateLimits quick{.max_steps = 1'000'000, .max_output_bytes = 32u << 20, .max_memory_bytes = 64u << 20};

// Templates that would never end, or use all memory or the whole stack.
std::vector<Unbounded> unbounded() {
  const char* const steps = "more than 1000000 steps";
  const char* const memory = "more than 67108864 bytes of memory";
  const char* const depth = "nested more than 200 levels deep";
  const char* const chain = "a chain of more than 200";
  const char* const integer = "an integer beyond 64 bits is not supported";
  const std::string doubled =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  return {
      {"Range", "{% for i in range(10**9) %}x{% endfor %}", "Range too big"},
      {"Loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", steps},
      {"StringTimes", "{{ 'a' * 10**9 }}", memory},
      {"ListTimes", "{{ [1] * 10**9 }}", memory},
      {"StringDoubles", "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
       memory},
      {"ListDoubles", "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       memory},
      {"Power", "{{ 10**(10**10) }}", integer},
      {"Squares", "{% set ns = namespace(x=10) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
       integer},
      {"Sum", "{{ [9223372036854775807, 1] | sum }}", integer},
      {"Difference", "{{ -9223372036854775807 - 2 }}", integer},
      {"Negation", "{{ -(-9223372036854775807 - 1) }}", integer},
      {"Quotient", "{{ (-9223372036854775807 - 1) // -1 }}", integer},
      {"Literal", "{{ 9223372036854775808 }}", integer},
      {"IntegerOfText", "{{ '9223372036854775808' | int }}", integer},
      {"IntegerOfReal", "{{ 1e19 | int }}", integer},
      {"MacroCallsItself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", depth},
      {"MacroDoubles", "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}", steps},
      {"LoopCallsItself", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", depth},
      {"Parentheses", "{{ " + times(100000, "(") + times(100000, ")") + " }}", depth},
      {"Brackets", "{{ " + times(100000, "[") + times(100000, "]") + " }}", depth},
      {"Not", "{{ " + times(100000, "not ") + "1 }}", depth},
      {"Else", "{{ " + times(50000, "1 if 0 else ") + "1 }}", depth},
      {"If", times(40000, "{% if 1 %}") + times(40000, "{% endif %}"), depth},
      {"Filters", "{{ 'a'" + times(50000, "|upper") + " }}", chain},
      {"Attributes", "{{ a" + times(100000, ".b") + " }}", chain},
      {"Calls", "{{ a" + times(100000, "()") + " }}", chain},
      {"Lists", "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}", depth},
      {"ShowsItself", "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", depth},
      {"ShowsTree", doubled + "{{ ns.x }}", steps},
      {"TreeAsJson", doubled + "{{ ns.x | tojson }}", steps},
      {"ComparesTrees", doubled + "{{ ns.x == ns.y }}", steps},
      {"Replace", "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}", memory},
      {"Join", "{% set a = 'a' * 100000 %}{{ a | join(a) }}", memory},
      {"PercentWidth", "{{ '%1000000000d' % 1 }}", memory},
      {"BraceWidth", "{{ '{:1000000000}'.format(1) }}", memory},
      {"Precision", "{{ '%.1000000000f' % 1.5 }}", "a precision of 1000000000"},
      {"Center", "{{ 'a' | center(10**9) }}", memory},
      {"Indent", "{{ ('a\\n' * 1000000) | indent(100000) }}", memory},
      {"Justify", "{{ 'a'.ljust(10**9) }}", memory},
      {"Batch", "{{ [1] | batch(10**9, 'x') | list }}", steps},
      {"Slice", "{{ [1] | slice(10**9) | list }}", memory},
      {"ListSearch", "{% set l = range(99999) | list %}{% for i in l if -1 in l %}{% endfor %}", steps},
      {"TextSearch", "{% set l = 'a' * 1000000 %}{% for i in range(99999) if 'ab' in l %}{% endfor %}", steps},
      {"Sort", "{% for i in range(9999) %}{% set x = range(99999) | sort(reverse=true) %}{% endfor %}", steps},
      {"SortTexts", "{{ (['a' * 1000000] * 1000) | sort | length }}", steps},
      {"Spread", "{% set l = range(99999) | list %}{% for i in l %}{{ '%s'.format(*l) }}{% endfor %}", steps},
      {"DictGrows",
       "{% set ns = namespace(d={}) %}{% for i in range(99999) %}"
       "{% set ns.d = dict(ns.d, **{i | string: i}) %}{% endfor %}",
       steps},
      {"Output", "{% set a = 'a' * 1000000 %}{% for i in range(100) %}{{ a }}{% endfor %}", "more than 33554432 bytes"},
      {"Source", times(2u << 20, " "), "at most 1048576 are accepted"},
  };
}

class TemplateBounds : public ::testing::TestWithParam<Unbounded> {};

TEST_P(TemplateBounds, EndWithAnErrorInGoodTime) {
  const auto begin = std::chrono::steady_clock::now();
  const auto text = rendered(GetParam().source, Json::object(), quick);
  const auto taken = std::chrono::steady_clock::now() - begin;
  ASSERT_FALSE(text.has_value()) << text->substr(0, 200);
  EXPECT_THAT(text.error().message, HasSubstr(GetParam().message));
  // A release build needs less than 2 s for each with the usual limits. This test only catches templates that never end.
  EXPECT_LT(taken, std::chrono::seconds(60));
}

INSTANTIATE_TEST_SUITE_P(ChatTemplate, TemplateBounds, ::testing::ValuesIn(unbounded()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ChatTemplate, LimitsAreWhatTheCallerSays) {
  const Json none = Json::object();
  EXPECT_THAT(rendered("{% for i in range(50) %}{% endfor %}", none, {.max_steps = 40}).error().message,
              HasSubstr("more than 40 steps"));
  EXPECT_THAT(rendered("{{ ((((1)))) }}", none, {.max_depth = 3}).error().message, HasSubstr("more than 3 levels"));
  EXPECT_THAT(rendered("0123456789", none, {.max_output_bytes = 9}).error().message, HasSubstr("more than 9 bytes"));
  EXPECT_THAT(rendered("{% set a = 'a' * 5000 %}", none, {.max_memory_bytes = 4000}).error().message,
              HasSubstr("more than 4000 bytes of memory"));
  EXPECT_THAT(rendered("0123456789", none, {.max_source_bytes = 9}).error().message, HasSubstr("10 bytes long, at most 9"));
}

TEST(ChatTemplate, ErrorsNameLineAndCause) {
  const std::pair<const char*, const char*> cases[] = {
      {"one\n{{ two", "chat template, line 2: a tag is not closed"},
      {"{% if a %}\n\n", "chat template, line 2: the template ends; 'endif' is missing for what begins in line 1"},
      {"\n\n{% endfor %}", "chat template, line 3: "},
      {"{{ 1 +\n* 2 }}", "chat template, line 2: "},
      {"a\n{% frob x %}", "chat template, line 2: unknown tag 'frob'"},
      {"a\n{{ x | nope }}", "chat template, line 2: No filter named 'nope'"},
      {"a\n{{ x is nope }}", "chat template, line 2: No test named 'nope'"},
      {"a\n{% for x in [] %}\n{{ x | nope }}{{ x is nope }}{% endfor %}", "chat template, line 3: No filter named 'nope'"},
      {"{% if true %}\n{{ 1 | nope }}{% endif %}", "chat template, line 2: No filter named 'nope'"},
      {"{{ [[1]] | unique | list }}", "chat template, line 1: unhashable type: 'list'"},
      {"a\nb\n{{ missing.role }}", "chat template, line 3: 'missing' is undefined"},
      {"{% set m = {'role': 'user'} %}\n{{ m.content.text }}",
       "chat template, line 2: 'dict object' has no attribute 'content'"},
      {"{% for x in 5 %}\n{% endfor %}", "chat template, line 1: 'int' object is not iterable"},
      {"\n{{ 'a' + 1 }}", "chat template, line 2: can only concatenate str (not \"int\") to str"},
      {"\n\n{{ raise_exception('Roles must alternate!') }}", "chat template, line 3: Roles must alternate!"},
      {"{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n{{ m() }}", "chat template, line 2: division by zero"},
      {"\n{{ '\\N{BULLET}' }}", "chat template, line 2: the escape '\\N' is not supported"},
      {"{{ '\\101' }}", "chat template, line 1: the escape '\\1' is not supported"},
      {"{{ größe }}", "chat template, line 1: unexpected char 'ö'"},
      {"{{ 0x1F }}", "chat template, line 1: numbers with underscores or in another base than 10 are not supported"},
      {"{{ 1_000 }}", "chat template, line 1: numbers with underscores or in another base than 10 are not supported"},
      {"{{ '1f' | int(base=16) }}", "chat template, line 1: another base than 10 of the filter 'int' is not supported"},
      {"{{ 25 | round(-1) }}", "chat template, line 1: a precision of -1 of the filter 'round' is not supported"},
      {"{{ messages | sort(attribute='a,b') }}", "chat template, line 1: sorting by several attributes is not supported"},
      {"{{ 'a' | attr('upper') }}", "chat template, line 1: the filter 'attr' is not supported"},
      {"{{ '%s' | format(a=1) }}", "chat template, line 1: named arguments of the filter 'format' are not supported"},
      {"\n{{ cycler('a', 'b') }}", "chat template, line 2: the function 'cycler' is not supported"},
      {"{{ joiner() }}", "chat template, line 1: the function 'joiner' is not supported"},
      {"{{ 'upper' is filter }}", "chat template, line 1: the test 'filter' is not supported"},
      {"{% macro m() %}{% endmacro %}{{ m.name }}",
       "chat template, line 1: the attribute 'name' of a macro is not supported"},
      {"a\n{% block b %}{% endblock %}", "chat template, line 2: the tag 'block' is not supported"},
      {"{% print 1 %}", "chat template, line 1: the tag 'print' is not supported"},
      {"{% include 'x' %}", "chat template, line 1: the tag 'include' is not supported"},
      {"{{ 'a b' | wordwrap(1) }}", "chat template, line 1: the filter 'wordwrap' is not supported"},
      {"\n{{ {} | xmlattr }}", "chat template, line 2: the filter 'xmlattr' is not supported"},
      {"{% if true %}\n{{ 1 | pprint }}{% endif %}", "chat template, line 2: the filter 'pprint' is not supported"},
      {"{{ ['a'] | map('urlencode') | list }}", "chat template, line 1: the filter 'urlencode' is not supported"},
      {"\n{{ 'a'.expandtabs(4) }}", "chat template, line 2: 'expandtabs' of 'str' is not supported"},
      {"{{ (1).real }}", "chat template, line 1: 'real' of 'int' is not supported"},
      {"{% autoescape true %}{% endautoescape %}", "chat template, line 1: the tag 'autoescape' is not supported"},
      {"{{ '%#x' % 1 }}", "chat template, line 1: the format character '#' is not supported"},
      {"{{ '%x' % 1 }}", "chat template, line 1: the format character 'x' is not supported"},
      {"{{ '%(a)s' % {'a': 1} }}", "chat template, line 1: the format character '(' is not supported"},
      {"{{ '%.3d' % 1 }}", "chat template, line 1: a precision of the conversion %d is not supported"},
      {"{{ '{:x}'.format(1) }}", "chat template, line 1: the format 'x' of a value of type 'int' is not supported"},
      {"{{ '{:,}'.format(1) }}", "chat template, line 1: the format ',' of a value of type 'int' is not supported"},
      {"{{ '{:=5}'.format(1) }}", "chat template, line 1: the format '=5' of a value of type 'int' is not supported"},
      {"{{ '{:*=5}'.format(1) }}", "chat template, line 1: the format '*=5' of a value of type 'int' is not supported"},
      {"{{ '{:.3}'.format(1.5) }}", "chat template, line 1: the format '.3' of a value of type 'float' is not supported"},
      {"{{ '{:{}}'.format(1, 2) }}", "chat template, line 1: the field '{:{}' of a format is not supported"},
      {"{{ '{!r}'.format(1) }}", "chat template, line 1: the field '{!r}' of a format is not supported"},
      {"{{ '{0.a}'.format({}) }}", "chat template, line 1: the field '{0.a}' of a format is not supported"},
  };
  for (const auto& [source, message] : cases) {
    SCOPED_TRACE(source);
    const auto text = rendered(source, Json::object());
    ASSERT_FALSE(text.has_value()) << *text;
    EXPECT_THAT(text.error().message, HasSubstr(message));
  }
}

rc::Gen<std::string> any_text() {
  return rc::gen::container<std::string>(rc::gen::oneOf(
      rc::gen::arbitrary<char>(), rc::gen::elementOf(std::string("{}%#-+ \n\r\t'\"\\|~")), rc::gen::inRange('a', 'z')));
}

rc::Gen<Json> any_json(int depth) {
  const auto leaf =
      rc::gen::oneOf(rc::gen::map(rc::gen::arbitrary<std::int64_t>(), [](std::int64_t n) { return Json(n); }),
                     rc::gen::map(rc::gen::arbitrary<bool>(), [](bool b) { return Json(b); }), rc::gen::just(Json(nullptr)),
                     rc::gen::map(rc::gen::inRange(-1'000'000, 1'000'000), [](int n) { return Json(n / 64.0); }),
                     rc::gen::map(rc::gen::string<std::string>(), [](const std::string& s) {
                       std::string ascii = s;
                       for (char& c : ascii) c = static_cast<char>(c & 0x7f);
                       return Json(ascii);
                     }));
  if (depth == 0) return leaf;
  const auto inner = any_json(depth - 1);
  const auto key = rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::inRange('a', 'z')));
  constexpr double fewer = 0.1;  // of RapidCheck's usual size: depth multiplies it
  return rc::gen::oneOf(leaf,
                        rc::gen::map(rc::gen::scale(fewer, rc::gen::container<std::vector<Json>>(inner)),
                                     [](const auto& items) { return Json(items); }),
                        rc::gen::map(rc::gen::scale(fewer, rc::gen::container<std::map<std::string, Json>>(key, inner)),
                                     [](const auto& entries) { return Json(entries); }));
}

// The text of messages stays as it is, whatever it contains: no part of it is read as a template.
RC_GTEST_PROP(ChatTemplateProperty, TextOfMessagesIsNeverRead, ()) {
  const std::string content = *rc::gen::map(any_text(), [](std::string text) {
    for (char& c : text) c = static_cast<char>(c & 0x7f);
    return text;
  });
  const auto text = rendered("{% for m in messages %}[{{ m.content }}]{% endfor %}",
                             Json{{"messages", {{{"content", content}}, {{"content", "b"}}}}});
  RC_ASSERT(text.has_value());
  RC_ASSERT(*text == "[" + content + "][b]");
}

RC_GTEST_PROP(ChatTemplateProperty, ToJsonGivesTheValueBack, ()) {
  const Json value = *any_json(3);
  for (const char* filter : {"tojson", "tojson(indent=2)", "tojson(separators=(',', ':'), ensure_ascii=true)"}) {
    const auto text = rendered(fmt::format("{{{{ value | {} }}}}", filter), Json{{"value", value}});
    RC_ASSERT(text.has_value());
    RC_ASSERT(Json::parse(*text) == value);
  }
}

// A string written as a literal, cut into pieces and joined again, is unchanged.
RC_GTEST_PROP(ChatTemplateProperty, PiecesOfTextMakeTheText, ()) {
  std::u32string points = *rc::gen::container<std::u32string>(
      rc::gen::map(rc::gen::oneOf(rc::gen::inRange(0, 0x300), rc::gen::inRange(0x1f300, 0x1f700)),
                   [](int point) { return static_cast<char32_t>(point); }));
  const Json text(unicode::repaired([&] {
    std::string utf8;
    for (const char32_t point : points) unicode::append(utf8, point);
    return utf8;
  }()));
  const auto cut = *rc::gen::inRange(-20, 20);
  const Json variables{{"t", text}, {"n", cut}};
  for (const char* same : {"t", "t[:n] ~ t[n:]", "t[::-1][::-1]", "t | list | join", "t | reverse | list | reverse | join",
                           "t.partition('a') | join", "t.split('a') | join('a')", "t.splitlines(true) | join",
                           "(t ~ 'x')[:-1]", "t.rpartition('\u00e9') | join", "'%s' % t", "'{}'.format(t)",
                           "(t | length * 'a') and t or t", "t.rjust((t | length) + 3, '*')[3:]"}) {
    const auto made = rendered(fmt::format("{{{{ {} }}}}", same), variables);
    RC_ASSERT(made.has_value());
    RC_ASSERT(*made == text.get<std::string>());
  }
}

// Any source gives a text, or an error that says where it is; a second run gives the same.
RC_GTEST_PROP(ChatTemplateProperty, AnySourceEndsWell, ()) {
  const std::string source = *rc::gen::map(
      rc::gen::container<std::vector<std::string>>(rc::gen::oneOf(
          any_text(),
          rc::gen::elementOf(std::vector<std::string>{"{{ ",    " }}",      "{% ",        " %}",      "{#",
                                                      "#}",     "if x",     "else",       "endif",    "for x in messages",
                                                      "endfor", "set x = ", "macro m(a)", "endmacro", "messages",
                                                      "[0]",    ".role",    "|tojson",    " is ",     "defined",
                                                      "(",      ")",        "1",          "'a'",      " + ",
                                                      " in ",   "-%}",      "{%-"}))),
      [](const std::vector<std::string>& parts) { return std::accumulate(parts.begin(), parts.end(), std::string()); });
  const Json variables{{"messages", {{{"role", "user"}, {"content", "Hi"}}}}};
  const auto text = rendered(source, variables);
  const auto again = rendered(source, variables);
  RC_ASSERT(text.has_value() == again.has_value());
  if (text) {
    RC_ASSERT(*text == *again);
    RC_ASSERT(unicode::repaired(*text) == *text);
  } else {
    RC_ASSERT(text.error().message.starts_with("chat template"));
    RC_ASSERT(text.error().message == again.error().message);
  }
}

// Compares with transformers' _alias_reasoning_fields on the same messages.
TEST(RenderChat, AMessageHasItsReasoningUnderAllNames) {
  const auto chat_template = ChatTemplate::parse(
      "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ [tools, documents, add_generation_prompt, bos_token] }}");
  ASSERT_TRUE(chat_template.has_value()) << chat_template.error().message;
  ChatInput input;
  input.bos_token = "<s>";
  input.messages = Json::parse(R"([
    {"role": "assistant", "reasoning": "r"},
    {"role": "assistant", "thinking": "t", "reasoning": "r"},
    {"role": "assistant", "reasoning_content": "c", "thinking": "t"},
    {"role": "assistant", "reasoning_content": null, "thinking": null, "reasoning": ""},
    {"role": "user", "content": "no reasoning", "thinking": null}
  ])");
  const auto text = render_chat(*chat_template, input);
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(*text,
            R"({"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"}
{"thinking": "t", "role": "assistant", "reasoning": "r", "reasoning_content": "t"}
{"thinking": "t", "role": "assistant", "reasoning_content": "c"}
{"thinking": null, "role": "assistant", "reasoning_content": "", "reasoning": ""}
{"role": "user", "content": "no reasoning", "thinking": null}
[None, None, True, '<s>'])");
}

}  // namespace
}  // namespace plumb::text
