#include "text/unicode/characters.h"

#include <utf8proc.h>

#include <array>

#include "text/unicode/utf8.h"

namespace plumb::text::unicode {

namespace {

utf8proc_int32_t plain(char32_t c) { return static_cast<utf8proc_int32_t>(c); }

// In utf8proc's numbering, the general categories with the same first letter are neighbours.
bool between(char32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  const utf8proc_category_t category = utf8proc_category(plain(c));
  return category >= first && category <= last;
}

bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

// Whether a character is skipped when deciding if a sigma is a word's last letter: marks, formats, modifiers, apostrophes.
bool is_ignored(char32_t c) {
  switch (utf8proc_category(plain(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_CF:
      return true;
    default:
      return c == U'\'' || c == U'.' || c == U':' || c == U'\u00b7' || c == U'\u2019';
  }
}

// Unicode's Final_Sigma: a cased letter comes before, and none after.
bool ends_word(std::string_view text, std::size_t begin, std::size_t end) {
  const auto first_that_counts = [&](std::size_t at, std::size_t past, auto step) -> char32_t {
    while (at != past) {
      if (const char32_t c = step(text, at); !is_ignored(c)) return c;
    }
    return 0;
  };
  return is_cased(first_that_counts(begin, 0, previous)) && !is_cased(first_that_counts(end, text.size(), next));
}

constexpr char32_t capital_sigma = U'\u03a3';
constexpr char32_t final_sigma = U'\u03c2';
constexpr char32_t dotted_capital_i = U'\u0130';

char32_t upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(plain(c))); }
char32_t title(char32_t c) { return static_cast<char32_t>(utf8proc_totitle(plain(c))); }

// Case folding splits characters whose other case is several characters: ß, ligatures, some Greek letters, and İ.
std::u32string folded(char32_t c) {
  std::array<utf8proc_int32_t, 4> parts{};
  int boundary = 0;
  const auto n = utf8proc_decompose_char(plain(c), parts.data(), parts.size(), UTF8PROC_CASEFOLD, &boundary);
  return n > 0 ? std::u32string(parts.begin(), parts.begin() + n) : std::u32string(1, c);
}

void append_lower(std::string& out, std::string_view text, std::size_t begin, std::size_t end, char32_t c) {
  if (c == dotted_capital_i) {
    for (const char32_t part : folded(c)) append(out, part);
  } else {
    append(out, c == capital_sigma && ends_word(text, begin, end) ? final_sigma : lower(c));
  }
}

void append_upper(std::string& out, char32_t c) {
  if (const auto parts = folded(c); parts.size() > 1 && !is_upper(c)) {
    for (const char32_t part : parts) append(out, upper(part));
  } else {
    append(out, upper(c));
  }
}

void append_title(std::string& out, char32_t c) {
  const auto parts = folded(c);
  const bool one_letter = parts.size() == 1 || is_upper(c) || is_title(c) || (title(c) != c && c != U'\u00df');
  append(out, title(one_letter ? c : parts[0]));
  if (!one_letter) {
    for (const char32_t part : parts.substr(1)) append(out, part);
  }
}

// Calls visit(c, begin, end) for each character, whose bytes are [begin, end).
template <class Visit>
std::string mapped(std::string_view text, const Visit& visit) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next(text, at);
    visit(out, c, begin, at);
  }
  return out;
}

}  // namespace

bool is_letter(char32_t c) { return between(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO); }
bool is_mark(char32_t c) { return between(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME); }
bool is_decimal(char32_t c) { return between(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_ND); }
bool is_number(char32_t c) { return between(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO); }
bool is_punctuation(char32_t c) { return between(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO); }
bool is_control(char32_t c) { return between(c, UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO); }
bool is_lower(char32_t c) { return utf8proc_islower(plain(c)) != 0; }
bool is_upper(char32_t c) { return utf8proc_isupper(plain(c)) != 0; }
bool is_title(char32_t c) { return between(c, UTF8PROC_CATEGORY_LT, UTF8PROC_CATEGORY_LT); }
bool is_printable(char32_t c) { return c == U' ' || between(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_SO); }

bool is_space(char32_t c) {
  if (c < 0x80) return c == U' ' || (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f);
  return c == 0x85 || between(c, UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZP);
}

char32_t lower(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(plain(c))); }

char32_t base(char32_t c) {
  std::array<utf8proc_int32_t, 8> parts{};
  int boundary = 0;
  const auto count = utf8proc_decompose_char(plain(c), parts.data(), parts.size(), UTF8PROC_DECOMPOSE, &boundary);
  return count > 0 ? static_cast<char32_t>(parts[0]) : c;
}

std::string lower(std::string_view text) {
  return mapped(text, [&](std::string& out, char32_t c, std::size_t begin, std::size_t end) {
    append_lower(out, text, begin, end, c);
  });
}

std::string upper(std::string_view text) {
  return mapped(text, [](std::string& out, char32_t c, std::size_t, std::size_t) { append_upper(out, c); });
}

std::string title(std::string_view text) {
  bool inside_word = false;
  return mapped(text, [&](std::string& out, char32_t c, std::size_t begin, std::size_t end) {
    if (inside_word) {
      append_lower(out, text, begin, end, c);
    } else {
      append_title(out, c);
    }
    inside_word = is_cased(c);
  });
}

std::string capitalize(std::string_view text) {
  return mapped(text, [&](std::string& out, char32_t c, std::size_t begin, std::size_t end) {
    if (begin == 0) {
      append_title(out, c);
    } else {
      append_lower(out, text, begin, end, c);
    }
  });
}

std::string swapcase(std::string_view text) {
  return mapped(text, [&](std::string& out, char32_t c, std::size_t begin, std::size_t end) {
    if (is_upper(c)) {
      append_lower(out, text, begin, end, c);
    } else if (is_title(c)) {
      append(out, c);
    } else {
      append_upper(out, c);
    }
  });
}

}  // namespace plumb::text::unicode
