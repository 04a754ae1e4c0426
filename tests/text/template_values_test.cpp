// Slices against their definition for all bounds, and the order of equal keys after sorting.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/chat_template.h"

namespace plumb::text {
namespace {

using Json = nlohmann::ordered_json;

std::string printed(std::string_view source, const Json& variables) {
  const auto parsed = ChatTemplate::parse(source);
  if (!parsed) return parsed.error().message;
  const auto text = parsed->render(variables);
  return text ? *text : text.error().message;
}

using Bound = std::optional<int>;

// Python's [start:stop:step], defined in another way: walk from one end to the other, keep the elements between the bounds,
// and of these take every |step|-th from the first on.
std::vector<std::size_t> sliced(int length, Bound start, Bound stop, Bound step) {
  const int stride = step.value_or(1);
  const auto from_start = [&](int bound) { return bound < 0 ? bound + length : bound; };
  std::vector<std::size_t> between;
  for (int i = 0; i < length; ++i) {
    const int at = stride > 0 ? i : length - 1 - i;
    const bool begun = !start || (stride > 0 ? at >= from_start(*start) : at <= from_start(*start));
    const bool ended = stop && (stride > 0 ? at >= from_start(*stop) : at <= from_start(*stop));
    if (begun && !ended) between.push_back(static_cast<std::size_t>(at));
  }
  std::vector<std::size_t> taken;
  for (std::size_t i = 0; i < between.size(); i += static_cast<std::size_t>(std::abs(stride))) taken.push_back(between[i]);
  return taken;
}

Json json_of(Bound bound) { return bound ? Json(*bound) : Json(nullptr); }

TEST(TemplateSlices, AreThoseOfPythonForAllBounds) {
  const std::vector<std::string> characters{"a", "é", "漢", "🦜", "e", "f"};
  std::vector<Bound> bounds{std::nullopt};
  for (int bound = -8; bound <= 8; ++bound) bounds.emplace_back(bound);
  std::vector<Bound> steps{std::nullopt, -7, 7};
  for (int step = 1; step <= 3; ++step) steps.insert(steps.end(), {step, -step});

  for (int length = 0; length <= static_cast<int>(characters.size()); ++length) {
    Json cases = Json::array();
    std::vector<std::string> expected;
    for (const Bound start : bounds) {
      for (const Bound stop : bounds) {
        for (const Bound step : steps) {
          cases.push_back({json_of(start), json_of(stop), json_of(step)});
          std::string& text = expected.emplace_back();
          for (const std::size_t at : sliced(length, start, stop, step)) text += characters[at];
        }
      }
    }
    const Json items(std::vector<std::string>(characters.begin(), characters.begin() + length));
    const std::string ascii = std::string("abcdef").substr(0, static_cast<std::size_t>(length));
    const Json variables{{"items", items}, {"cases", cases}, {"ascii", ascii}};
    for (const char* sequence :
         {"items", "items | join", "range(items | length) | list", "ascii", "range(ascii | length)"}) {
      SCOPED_TRACE(fmt::format("{} of {}", sequence, length));
      const std::string shown =
          printed(fmt::format("{{% set s = {} %}}{{% for c in cases %}}{{% for x in s[c[0]:c[1]:c[2]] %}}"
                              "{{{{ items[x] if x is number else items[ascii.index(x)] if x in ascii else x }}}}"
                              "{{% endfor %}}|{{% endfor %}}",
                              sequence),
                  variables);
      std::vector<std::string> actual;
      for (std::size_t begin = 0, end = 0; (end = shown.find('|', begin)) != std::string::npos; begin = end + 1) {
        actual.push_back(shown.substr(begin, end - begin));
      }
      ASSERT_EQ(actual.size(), expected.size()) << shown.substr(0, 200);
      for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(actual[i], expected[i]) << cases[i].dump();
    }
  }
}

// JSON may have large integers that templates only pass on.
TEST(TemplateIntegers, OfJsonBeyond64BitsAreShownAndNotComputedWith) {
  const Json variables{{"n", 18446744073709551615u}};
  EXPECT_EQ(
      printed("{{ n }} {{ [n] }} {{ {'n': n} | tojson }} {{ n | int }} {{ n is integer }} {{ n is number }} {{ n == n }} "
              "{{ n | string | length }} {{ n | abs }} {{ n is string }} {{ 'y' if n else 'n' }} {{ {n: 1}[n] }} {{ n | "
              "float }}",
              variables),
      "18446744073709551615 [18446744073709551615] {\"n\": 18446744073709551615} 18446744073709551615 True True True 20 "
      "18446744073709551615 False y 1 1.8446744073709552e+19");
  for (const char* use : {"n + 1", "-n", "n < 1", "1 < n", "[n, 1] | sort", "'%d' % n", "range(n)", "n % 2", "'a' * n"}) {
    EXPECT_EQ(printed(fmt::format("{{{{ {} }}}}", use), variables),
              "chat template, line 1: an integer beyond 64 bits is not supported")
        << use;
  }
}

// Many entries with few keys, which differ only in case: enough for an unstable sort to show.
struct Entry {
  std::string key;
  int number;
};

std::vector<Entry> many_of_few_keys() {
  std::vector<Entry> entries;
  for (int i = 0; i < 120; ++i) {
    const char letter = static_cast<char>((i % 7 < 3 ? 'a' : 'A') + i * i * 31 % 5);
    entries.push_back({std::string(1, letter), i});
  }
  return entries;
}

std::string lower(std::string key) {
  for (char& c : key) c = static_cast<char>(c | 0x20);
  return key;
}

Json variables_of(const std::vector<Entry>& entries) {
  Json list = Json::array();
  Json dict = Json::object();
  for (const auto& [key, number] : entries) {
    list.push_back({{"k", key}, {"n", number}});
    dict[fmt::format("{}", number)] = key;
  }
  return {{"entries", list}, {"dict", dict}};
}

std::string numbers_of(const std::vector<Entry>& entries) {
  std::string text;
  for (const Entry& entry : entries) text += fmt::format("{},", entry.number);
  return text;
}

TEST(TemplateSorting, LeavesEqualKeysInTheirOrder) {
  std::vector<Entry> entries = many_of_few_keys();
  const Json variables = variables_of(entries);
  const auto insert_sorted = [&](auto before) {
    std::vector<Entry> sorted;
    for (const Entry& entry : entries) {
      auto at = sorted.end();
      while (at != sorted.begin() && before(lower(entry.key), lower((at - 1)->key))) --at;
      sorted.insert(at, entry);
    }
    return sorted;
  };
  const std::vector<Entry> ascending = insert_sorted(std::less<>());
  const std::vector<Entry> descending = insert_sorted(std::greater<>());
  const auto shown = [&](const std::string& filter) { return printed(filter, variables); };
  EXPECT_EQ(shown("{% for e in entries | sort(attribute='k') %}{{ e.n }},{% endfor %}"), numbers_of(ascending));
  EXPECT_EQ(shown("{% for e in entries | sort(attribute='k', reverse=true) %}{{ e.n }},{% endfor %}"),
            numbers_of(descending));
  EXPECT_EQ(shown("{% for n, k in dict | dictsort(by='value') %}{{ n }},{% endfor %}"), numbers_of(ascending));
  EXPECT_EQ(shown("{% for n, k in dict | dictsort(by='value', reverse=true) %}{{ n }},{% endfor %}"),
            numbers_of(descending));
  EXPECT_EQ(shown("{% for k, group in entries | groupby('k') %}{% for e in group %}{{ e.n }},{% endfor %}{% endfor %}"),
            numbers_of(ascending));
}

TEST(TemplateSorting, AGroupIsNamedByItsFirstMember) {
  const std::vector<Entry> entries = many_of_few_keys();
  std::string expected;
  for (char letter = 'a'; letter < 'f'; ++letter) {
    const auto first = std::ranges::find_if(entries, [&](const Entry& e) { return lower(e.key)[0] == letter; });
    if (first != entries.end()) expected += first->key;
  }
  EXPECT_EQ(printed("{% for g in entries | groupby('k') %}{{ g.grouper }}{% endfor %}", variables_of(entries)), expected);
}

TEST(TemplateSorting, TheFirstOfEqualsIsTheLeastAndTheGreatest) {
  const Json variables{{"names", {"b", "A", "a", "B"}}};
  EXPECT_EQ(printed("{{ names | min }}{{ names | max }}{{ names | unique | join }}", variables), "AbbA");
}

// loop.last has to look one element ahead; loop.length counts that one, too.
TEST(TemplateLoops, LengthCountsTheElementAhead) {
  EXPECT_EQ(printed("{% for x in 'abc' | map('upper') %}{{ loop.last }}{{ loop.length }} {% endfor %}", Json::object()),
            "False3 False3 True3 ");
}

}  // namespace
}  // namespace plumb::text
