#include "base/printable.h"

#include <gtest/gtest.h>

namespace plumb {
namespace {

TEST(Printable, TextStaysAsItIs) {
  EXPECT_EQ(printable(""), "");
  EXPECT_EQ(printable("two\nlines, caf\xc3\xa9 \xf0\x9f\x90\x95"), "two\nlines, caf\xc3\xa9 \xf0\x9f\x90\x95");
}

TEST(Printable, ControlCharactersAreWrittenOut) {
  EXPECT_EQ(printable("\x1b[31mred\x07\r\x7f"), "\\x1b[31mred\\x07\\x0d\\x7f");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\xc2\x9b"
                      "2J, but \xc2\xa0"),
            "\\x9b2J, but \xc2\xa0");  // U+009B, the control sequence introducer of C1
}

TEST(Printable, LinesStayUnlessTheyAreNames) {
  EXPECT_EQ(printable("a\nb\tc"), "a\nb\tc");
  EXPECT_EQ(printable("a\nb\tc", Lines::escape), "a\\x0ab\\x09c");
}

TEST(Printable, MarksThatReorderTextAreWrittenOut) {
  EXPECT_EQ(printable("a\u202eb\u2066c\u200fd\u061ce"), "a\\u202eb\\u2066c\\u200fd\\u061ce");
  EXPECT_EQ(printable("a\u2028b\u2029"), "a\\u2028b\\u2029");
  EXPECT_EQ(printable("\u0634\u200d\u2030"), "\u0634\u200d\u2030");  // letters, joiners and signs beside them stay
}

TEST(Printable, BytesThatAreNoTextAreWrittenOut) {
  EXPECT_EQ(printable("cut \xc2"), "cut \\xc2");
  EXPECT_EQ(printable("\x9b 2J\xff"), "\\x9b 2J\\xff");
  EXPECT_EQ(printable("\xed\xa0\x80 \xc0\xaf \xf4\x90\x80\x80"), "\\xed\\xa0\\x80 \\xc0\\xaf \\xf4\\x90\\x80\\x80");
}

}  // namespace
}  // namespace plumb
