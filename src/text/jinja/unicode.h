// Unicode as Python's str methods see it, for the template interpreter: code points of UTF-8 text, properties, and case
// mappings (full mappings, the final sigma included).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace plumb::text::jinja::unicode {

enum class Property {
  alpha,
  decimal,
  digit,
  numeric,
  space,
  lower,
  upper,
  title,
  printable,
  identifier_start,
  identifier_part,
};

bool has(char32_t c, Property property);

// The code point at `position` of valid UTF-8, which moves past it.
char32_t next(std::string_view text, std::size_t& position);
// The code point that ends at `position` (above 0) of valid UTF-8, which moves before it.
char32_t previous(std::string_view text, std::size_t& position);
void append(std::string& text, char32_t c);
// Bytes of the UTF-8 character with this first byte.
std::size_t width(char first);
std::size_t count(std::string_view text);
// The byte where code point number `index` starts; the length of the text where there are fewer.
std::size_t offset(std::string_view text, std::size_t index);

// The text with each byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string repaired(std::string_view text);

std::u32string decode(std::string_view text);

std::string lower(std::string_view text);
std::string upper(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

// The value of a decimal digit of any script; -1 for everything else.
int decimal_value(char32_t c);

}  // namespace plumb::text::jinja::unicode
