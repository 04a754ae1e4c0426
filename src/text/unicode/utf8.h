// UTF-8, one character at a time. Well-formed means RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace plumb::text::unicode {

// Length in bytes of the well-formed character at `at`; 0 if there is none. `at` must be inside the text.
inline std::size_t length_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const std::size_t left = text.size() - at;
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  if (left < 2 || !continues(1)) return 0;
  if (lead < 0xe0) return 2;
  const unsigned second = byte(1);
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  if (left < 3 || !continues(2)) return 0;
  if (lead < 0xf0) return 3;
  return left >= 4 && continues(3) ? 4 : 0;
}

// The code point of a well-formed character of `length` bytes at `at`.
inline char32_t code_point(std::string_view text, std::size_t at, std::size_t length) {
  const auto bits = [&](std::size_t i, unsigned mask) { return static_cast<unsigned char>(text[at + i]) & mask; };
  switch (length) {
    case 1:
      return bits(0, 0x7f);
    case 2:
      return bits(0, 0x1f) << 6 | bits(1, 0x3f);
    case 3:
      return bits(0, 0x0f) << 12 | bits(1, 0x3f) << 6 | bits(2, 0x3f);
    default:
      return bits(0, 0x07) << 18 | bits(1, 0x3f) << 12 | bits(2, 0x3f) << 6 | bits(3, 0x3f);
  }
}

void append(std::string& text, char32_t c);

// The text with each byte that is not part of a well-formed character replaced by U+FFFD.
std::string repaired(std::string_view text);

// All that follows is for well-formed text.

// Bytes of the character with this first byte.
std::size_t width(char first);
// The code point at `position`, which moves past it.
char32_t next(std::string_view text, std::size_t& position);
// The code point that ends at `position` (above 0), which moves before it.
char32_t previous(std::string_view text, std::size_t& position);
// Number of code points.
std::size_t count(std::string_view text);
// The byte where code point number `index` starts; the length of the text where there are fewer.
std::size_t offset(std::string_view text, std::size_t index);
std::u32string decode(std::string_view text);

}  // namespace plumb::text::unicode
