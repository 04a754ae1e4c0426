// Makes text from files and other engines safe to show on a terminal.
#pragma once

#include <string>
#include <string_view>

namespace plumb {

// Writes out control characters other than '\n' ("\x1b"), the C1 set included: they could move the cursor or send commands
// to the terminal. The text is UTF-8.
inline std::string printable(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80;
    if (!is_c1 && (byte >= 0x20 || byte == '\n') && byte != 0x7f) {
      result += text[i];
      continue;
    }
    const unsigned char shown = is_c1 ? static_cast<unsigned char>(text[++i]) : byte;
    result += "\\x";
    result += digits[shown >> 4];
    result += digits[shown & 15];
  }
  return result;
}

}  // namespace plumb
