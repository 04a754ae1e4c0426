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
  EXPECT_EQ(printable("cut \xc2"), "cut \xc2");
}

}  // namespace
}  // namespace plumb
