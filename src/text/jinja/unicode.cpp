#include "text/jinja/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "text/jinja/unicode_tables.h"

namespace plumb::text::jinja::unicode {

namespace {

bool in_ranges(std::span<const CodeRange> ranges, char32_t c) {
  const auto found = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t value, const CodeRange& range) { return value < range.first; });
  return found != ranges.begin() && c <= std::prev(found)->last;
}

struct CaseMap {
  std::span<const CaseRun> runs;
  std::span<const CaseExpansion> expansions;
  char32_t first_ascii;  // of the 26 letters that the map turns into their other case
};

constexpr CaseMap kLower{k_to_lower, k_to_lower_expansions, U'A'};
constexpr CaseMap kUpper{k_to_upper, k_to_upper_expansions, U'a'};
constexpr CaseMap kTitle{k_to_title, k_to_title_expansions, U'a'};
constexpr CaseMap kCasefold{k_to_casefold, k_to_casefold_expansions, U'A'};

void append_mapped(std::string& out, const CaseMap& map, char32_t c) {
  constexpr char32_t kAscii = 0x80;
  constexpr char32_t kOtherCase = 0x20;
  if (c < kAscii) {
    const bool is_letter = c >= map.first_ascii && c < map.first_ascii + 26;
    out += static_cast<char>(is_letter ? c ^ kOtherCase : c);
    return;
  }
  const auto expansion =
      std::ranges::lower_bound(map.expansions, c, {}, [](const CaseExpansion& e) { return char32_t{e.from}; });
  if (expansion != map.expansions.end() && expansion->from == c) {
    for (const std::uint32_t part : expansion->to) {
      if (part != 0) append(out, part);
    }
    return;
  }
  const auto found = std::upper_bound(map.runs.begin(), map.runs.end(), c,
                                      [](char32_t value, const CaseRun& run) { return value < run.first; });
  if (found != map.runs.begin()) {
    const CaseRun& run = *std::prev(found);
    if (c <= run.last && (c - run.first) % run.stride == 0) {
      append(out, static_cast<char32_t>(static_cast<std::int32_t>(c) + run.delta));
      return;
    }
  }
  append(out, c);
}

constexpr char32_t kCapitalSigma = 0x3A3;
constexpr char32_t kSmallSigma = 0x3C3;
constexpr char32_t kFinalSigma = 0x3C2;

// A capital sigma becomes the final form after a cased letter that no cased letter follows (Unicode, Final_Sigma).
bool ends_word(std::string_view text, std::size_t sigma_begin, std::size_t sigma_end) {
  bool cased_before = false;
  for (std::size_t at = sigma_begin; at > 0;) {
    const char32_t c = previous(text, at);
    if (in_ranges(k_case_ignorable, c)) continue;
    cased_before = in_ranges(k_cased, c);
    break;
  }
  if (!cased_before) return false;
  for (std::size_t at = sigma_end; at < text.size();) {
    const char32_t c = next(text, at);
    if (in_ranges(k_case_ignorable, c)) continue;
    return !in_ranges(k_cased, c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, std::size_t begin, std::size_t end, char32_t c) {
  if (c == kCapitalSigma) {
    append(out, ends_word(text, begin, end) ? kFinalSigma : kSmallSigma);
  } else {
    append_mapped(out, kLower, c);
  }
}

}  // namespace

bool has(char32_t c, Property property) {
  switch (property) {
    case Property::alpha:
      return in_ranges(k_alpha, c);
    case Property::decimal:
      return in_ranges(k_decimal, c);
    case Property::digit:
      return in_ranges(k_digit, c);
    case Property::numeric:
      return in_ranges(k_numeric, c);
    case Property::space:
      return in_ranges(k_space, c);
    case Property::lower:
      return in_ranges(k_lower, c);
    case Property::upper:
      return in_ranges(k_upper, c);
    case Property::title:
      return in_ranges(k_title, c);
    case Property::printable:
      return in_ranges(k_printable, c);
    case Property::identifier_start:
      return in_ranges(k_identifier_start, c);
    case Property::identifier_part:
      return in_ranges(k_identifier_part, c);
  }
  return false;
}

std::size_t width(char first) {
  const auto byte = static_cast<unsigned char>(first);
  if (byte < 0x80) return 1;
  if (byte < 0xE0) return 2;
  return byte < 0xF0 ? 3 : 4;
}

char32_t next(std::string_view text, std::size_t& position) {
  const auto first = static_cast<unsigned char>(text[position]);
  const std::size_t length = std::min(width(text[position]), text.size() - position);
  char32_t c = first;
  if (length == 2) c = first & 0x1Fu;
  if (length == 3) c = first & 0x0Fu;
  if (length == 4) c = first & 0x07u;
  for (std::size_t i = 1; i < length; ++i) c = (c << 6) | (static_cast<unsigned char>(text[position + i]) & 0x3Fu);
  position += length;
  return c;
}

char32_t previous(std::string_view text, std::size_t& position) {
  do {
    --position;
  } while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0u) == 0x80u);
  std::size_t at = position;
  return next(text, at);
}

void append(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xC0 | (c >> 6));
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    text += static_cast<char>(0xE0 | (c >> 12));
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | (c >> 18));
    text += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::size_t count(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::size_t offset(std::string_view text, std::size_t index) {
  std::size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += width(text[at]);
  return std::min(at, text.size());
}

std::string repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    std::size_t length = 0;
    std::uint32_t lowest_second = 0x80;
    std::uint32_t highest_second = 0xBF;
    if (first < 0x80) length = 1;
    if (first >= 0xC2 && first <= 0xDF) length = 2;
    if (first >= 0xE0 && first <= 0xEF) length = 3;
    if (first >= 0xF0 && first <= 0xF4) length = 4;
    if (first == 0xE0) lowest_second = 0xA0;
    if (first == 0xED) highest_second = 0x9F;
    if (first == 0xF0) lowest_second = 0x90;
    if (first == 0xF4) highest_second = 0x8F;
    bool valid = length != 0 && at + length <= text.size();
    for (std::size_t i = 1; valid && i < length; ++i) {
      const auto byte = static_cast<unsigned char>(text[at + i]);
      valid = byte >= (i == 1 ? lowest_second : 0x80u) && byte <= (i == 1 ? highest_second : 0xBFu);
    }
    if (valid) {
      out.append(text, at, length);
      at += length;
    } else {
      append(out, 0xFFFD);
      ++at;
    }
  }
  return out;
}

std::u32string decode(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) out += next(text, at);
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next(text, at);
    append_lower(out, text, begin, at, c);
  }
  return out;
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) append_mapped(out, kUpper, next(text, at));
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool inside_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next(text, at);
    if (inside_word) {
      append_lower(out, text, begin, at, c);
    } else {
      append_mapped(out, kTitle, c);
    }
    inside_word = in_ranges(k_cased, c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next(text, at);
    if (begin == 0) {
      append_mapped(out, kTitle, c);
    } else {
      append_lower(out, text, begin, at, c);
    }
  }
  return out;
}

std::string swapcase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next(text, at);
    if (in_ranges(k_upper, c)) {
      append_lower(out, text, begin, at, c);
    } else if (in_ranges(k_lower, c)) {
      append_mapped(out, kUpper, c);
    } else {
      append(out, c);
    }
  }
  return out;
}

std::string casefold(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) append_mapped(out, kCasefold, next(text, at));
  return out;
}

int decimal_value(char32_t c) {
  // Every script lays its ten digits out in a row that starts at a multiple of ten from the start of its range.
  const std::span<const CodeRange> ranges = k_decimal;
  const auto found = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t value, const CodeRange& range) { return value < range.first; });
  if (found == ranges.begin() || c > std::prev(found)->last) return -1;
  return static_cast<int>((c - std::prev(found)->first) % 10);
}

}  // namespace plumb::text::jinja::unicode
