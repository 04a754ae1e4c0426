// Small and capital letters of ASCII; all other bytes stay as they are.
#pragma once

#include <string>
#include <utility>

namespace plumb {

inline char small_letter(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
inline char capital_letter(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

inline std::string in_small_letters(std::string text) {
  for (char& c : text) c = small_letter(c);
  return text;
}

inline std::string in_capital_letters(std::string text) {
  for (char& c : text) c = capital_letter(c);
  return text;
}

}  // namespace plumb
