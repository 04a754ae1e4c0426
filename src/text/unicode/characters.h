// Properties and case mappings of characters, from utf8proc (Unicode 15 and later). They agree with Python's str methods,
// with a few exceptions: superscripts and enclosed digits (², ①) are numbers but not digits, Chinese numerals are letters
// and not numbers, and the title case of ŉ and of nine Greek letters with a small iota differs.
#pragma once

#include <string>
#include <string_view>

namespace plumb::text::unicode {

bool is_letter(char32_t c);       // general categories L*
bool is_mark(char32_t c);         // M*
bool is_decimal(char32_t c);      // Nd
bool is_number(char32_t c);       // N*
bool is_punctuation(char32_t c);  // P*
bool is_control(char32_t c);      // C*, unassigned ones left out
bool is_space(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);      // Lt
bool is_printable(char32_t c);  // as Python's repr has it

char32_t lower(char32_t c);
// The first character of the canonical decomposition (NFD).
char32_t base(char32_t c);

// Lower case of well-formed UTF-8. A capital sigma at a word's end becomes the final sigma.
std::string lower(std::string_view text);
std::string upper(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);

}  // namespace plumb::text::unicode
