// String functions, shared by the str methods, the filters of the same names and the operators.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Searches in linear time, counted as steps; npos if nothing is found.
std::size_t find_first(Runtime& runtime, std::string_view text, std::string_view needle, std::size_t from = 0);
std::size_t find_last(Runtime& runtime, std::string_view text, std::string_view needle);

// Replaces at most `most` times; negative: all.
std::string replaced(Runtime& runtime, std::string_view text, std::string_view old, std::string_view fresh,
                     std::int64_t most);
std::string repeated_text(Runtime& runtime, std::string_view unit, std::int64_t times);  // none for times below 1
enum class Align : std::uint8_t { left, right, center };
// The text with `fill` at the sides up to a width, in characters.
std::string padded(Runtime& runtime, const std::string& text, Align align, std::int64_t width, std::string_view fill = " ");
// The number with zeros after its sign up to a width.
std::string zero_filled(Runtime& runtime, const std::string& number, std::int64_t width);
std::vector<std::string_view> lines_of(Runtime& runtime, std::string_view text, bool keep_ends);

// Writes HTML's five special characters as entities. A text that is marked as HTML stays as it is.
std::string html_escaped(Runtime& runtime, const String& text);

enum class Side : std::uint8_t { left = 1, right = 2, both = 3 };
// The text without the characters of `drop` at these sides, or without white space if `drop` is empty.
std::string_view stripped(std::string_view text, Side side, std::u32string_view drop = {});
inline std::string_view trimmed(std::string_view text) { return stripped(text, Side::both); }

}  // namespace plumb::text::jinja
