// UTF-8 by its definition: every code point has one well-formed sequence of bytes (RFC 3629, section 4).
#include "text/unicode/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace plumb::text::unicode {
namespace {

std::string bytes_of(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | (c >> 6)), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | (c >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | (c >> 18)), tail(12), tail(6), tail(0)};
}

TEST(Utf8, EveryCodePointButSurrogatesIsWellFormed) {
  for (char32_t c = 0; c < 0x120000; ++c) {
    const std::string text = bytes_of(c);
    const bool is_character = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
    const std::size_t length = length_at(text, 0);
    ASSERT_EQ(length, is_character ? text.size() : 0) << std::hex << static_cast<std::uint32_t>(c);
    if (length > 0) {
      ASSERT_EQ(code_point(text, 0, length), c);
    }
  }
}

TEST(Utf8, OverlongAndCutSequencesAreNot) {
  for (const std::string text :
       {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xc3", "\xe2\x82",
        "\xf0\x9f\x98", "\x80", "\xff", "\xc3(", "\xe2(\xa1", "\xe2\x82("}) {
    EXPECT_EQ(length_at(text, 0), 0) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace plumb::text::unicode
