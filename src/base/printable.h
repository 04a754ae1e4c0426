// Text of files and of other engines as a terminal may show it.
#pragma once

#include <string>
#include <string_view>

namespace plumb {

// UTF-8 with control characters other than '\n' written out ("\x1b"), C1's among them: they could move the cursor, or give
// a terminal commands.
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
