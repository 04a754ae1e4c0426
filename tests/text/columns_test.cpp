#include "text/unicode/columns.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace plumb::text::unicode {
namespace {

constexpr std::string_view family = "\U0001F468\u200D\U0001F469\u200D\U0001F467", flag = "\U0001F1E9\U0001F1EA";

TEST(Columns, AClusterIsWhatTheEyeTakesForOneCharacter) {
  struct Case {
    std::string_view text;
    std::size_t columns;
  };
  for (const auto& [text, n] : {Case{"a", 1}, Case{"e\u0301", 1}, Case{"日", 2}, Case{"\u2764\uFE0F", 2}, Case{family, 2},
                                Case{flag, 2}, Case{"\n", 0}}) {
    const std::string twice = std::string(text) + std::string(text);
    EXPECT_EQ(columns(text), n) << text;
    EXPECT_EQ(cluster_end(twice, 0), text.size()) << text;
    EXPECT_EQ(cluster_begin(twice, twice.size()), text.size()) << text;
    EXPECT_EQ(cluster_begin(twice, text.size()), 0U) << text;
  }
}

// The rows as a screen would show them, with the indent as dots, and '>' behind those that wrap.
std::vector<std::string> shown(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  bool goes_on = false;
  for (const Row& row : rows(text, width, 2, 2)) {
    lines.push_back(std::string(row.first, '.') + std::string(text.substr(row.begin, row.end - row.begin)) +
                    (row.wraps ? ">" : ""));
    EXPECT_EQ(row.first, goes_on ? 0U : 2U);
    EXPECT_EQ(column(text, row, row.end), row.used);
    goes_on = row.wraps;
  }
  return lines;
}

TEST(Columns, RowsEndWhereATerminalWraps) {
  using Lines = std::vector<std::string>;
  EXPECT_EQ(shown("", 5), Lines({".."}));
  EXPECT_EQ(shown("ab", 5), Lines({"..ab"}));
  EXPECT_EQ(shown("abc", 5), Lines({"..abc>", ""}));
  EXPECT_EQ(shown("abcd", 5), Lines({"..abc>", "d"}));
  EXPECT_EQ(shown("abc\nd", 5), Lines({"..abc", "..d"}));
  EXPECT_EQ(shown("\n\nabcdefghij", 5), Lines({"..", "..", "..abc>", "defgh>", "ij"}));
  // A wide character does not stand over the edge.
  EXPECT_EQ(shown("日本語", 5), Lines({"..日>", "本語"}));
  EXPECT_EQ(shown("a日", 5), Lines({"..a日>", ""}));
  // Nor does a tab.
  EXPECT_EQ(rows("\tb", 20, 2, 2)[0].used, 9U);
  EXPECT_EQ(shown("\tb", 5), Lines({"..\t>", "b"}));
}

TEST(Columns, AByteIsFoundByItsColumn) {
  const std::string_view text = "a日本\nxyzuv";
  const auto all = rows(text, 6, 2, 2);
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(byte_at(text, all[0], 0), 0U);
  EXPECT_EQ(byte_at(text, all[0], 4), 1U) << "inside a wide character";
  EXPECT_EQ(byte_at(text, all[0], 9), 1U) << "the end of a row that wraps is the begin of the next";
  EXPECT_EQ(byte_at(text, all[1], 9), 7U);
  EXPECT_EQ(byte_at(text, all[3], 9), text.size());
}

}  // namespace
}  // namespace plumb::text::unicode
