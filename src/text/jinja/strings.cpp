#include "text/jinja/strings.h"

#include <algorithm>
#include <cstring>

#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

std::size_t find_first(Runtime& runtime, std::string_view text, std::string_view needle, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const std::string_view rest = text.substr(from);
  // memmem takes linear time, where std::string_view::find may take the product of both lengths.
  const void* found = memmem(rest.data(), rest.size(), needle.data(), needle.size());
  const std::size_t at =
      found == nullptr ? rest.size() : static_cast<std::size_t>(static_cast<const char*>(found) - rest.data());
  constexpr std::size_t as_much_as_copies = 16;
  runtime.budget.work(at * as_much_as_copies);
  return found == nullptr ? std::string_view::npos : from + at;
}

std::size_t find_last(Runtime& runtime, std::string_view text, std::string_view needle) {
  const std::string backward(text.rbegin(), text.rend());
  const std::size_t found = find_first(runtime, backward, std::string(needle.rbegin(), needle.rend()));
  return found == std::string_view::npos ? found : text.size() - found - needle.size();
}

std::string replaced(Runtime& runtime, std::string_view text, std::string_view old, std::string_view fresh,
                     std::int64_t most) {
  TextBuilder out(runtime.budget);
  std::size_t at = 0;
  for (; most != 0; --most) {
    runtime.budget.step();
    // An empty text is found between any two characters, and at both ends.
    const std::size_t found = old.empty() ? at : find_first(runtime, text, old, at);
    if (found == std::string_view::npos) break;
    out.append(text.substr(at, found - at));
    out.append(fresh);
    at = found + old.size();
    if (!old.empty()) continue;
    if (at >= text.size()) return out.take();
    const std::size_t width = unicode::width(text[at]);
    out.append(text.substr(at, width));
    at += width;
  }
  out.append(text.substr(at));
  return out.take();
}

std::string repeated_text(Runtime& runtime, std::string_view unit, std::int64_t times) {
  if (times <= 0 || unit.empty()) return {};
  const auto count = static_cast<std::size_t>(times);
  runtime.budget.expect(count);
  runtime.budget.expect(count * unit.size());
  runtime.budget.work(count * unit.size());
  std::string out;
  out.reserve(count * unit.size());
  for (std::size_t i = 0; i < count; ++i) out += unit;
  return out;
}

std::string padded(Runtime& runtime, const std::string& text, Align align, std::int64_t width, std::string_view fill) {
  const std::int64_t missing = std::max<std::int64_t>(0, width - static_cast<std::int64_t>(unicode::count(text)));
  // If an odd number is missing, the extra one goes left only if the width is odd too: CPython's rule.
  const std::int64_t before = missing / 2 + (missing & width & 1);
  const std::int64_t left = align == Align::left ? 0 : align == Align::right ? missing : before;
  return repeated_text(runtime, fill, left) + text + repeated_text(runtime, fill, missing - left);
}

std::string zero_filled(Runtime& runtime, const std::string& number, std::int64_t width) {
  const std::size_t sign = number.starts_with('+') || number.starts_with('-') ? 1 : 0;
  const std::int64_t rest = std::max<std::int64_t>(width, 0) - static_cast<std::int64_t>(sign);
  return number.substr(0, sign) + padded(runtime, number.substr(sign), Align::right, rest, "0");
}

std::vector<std::string_view> lines_of(Runtime& runtime, std::string_view text, bool keep_ends) {
  runtime.budget.work(text.size());
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = unicode::next(text, at);
    const bool breaks = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    runtime.budget.expect(lines.size() * sizeof(std::string_view));
    if (c == U'\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string html_escaped(Runtime& runtime, const String& text) {
  if (text.marked) return text.text;
  constexpr std::string_view special = "&<>'\"";
  constexpr std::string_view entities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
  TextBuilder out(runtime.budget);
  for (const char& c : text.text) {
    const std::size_t which = special.find(c);
    out.append(which == std::string_view::npos ? std::string_view(&c, 1) : entities[which]);
  }
  return out.take();
}

std::string_view stripped(std::string_view text, Side side, std::u32string_view drop) {
  const auto goes = [&](char32_t c) { return drop.empty() ? unicode::is_space(c) : drop.find(c) != drop.npos; };
  const auto has = [&](Side wanted) { return (static_cast<unsigned>(side) & static_cast<unsigned>(wanted)) != 0; };
  std::size_t begin = 0;
  std::size_t end = text.size();
  for (std::size_t after = 0; has(Side::left) && begin < end && goes(unicode::next(text, after));) begin = after;
  for (std::size_t before = end; has(Side::right) && end > begin && goes(unicode::previous(text, before));) end = before;
  return text.substr(begin, end - begin);
}

}  // namespace plumb::text::jinja
