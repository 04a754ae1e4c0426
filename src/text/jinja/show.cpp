#include "text/jinja/show.h"

#include <charconv>
#include <cmath>

#include "text/jinja/loop.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
    case Kind::large:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::range:
      return "range";
    case Kind::view:
      return value.name();
    case Kind::dict:
      return "dict";
    case Kind::iterator:
      return "generator";
    case Kind::name_space:
      return "Namespace";
    case Kind::callable:
      return "function";
    case Kind::loop:
      return "LoopContext";
  }
  return "object";
}

std::string real_to_string(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that give the same number when read. Python uses exponents from 1e16 on and below 1e-4.
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t mark = all.find('e');
  int exponent = 0;
  const char* exponent_begin = all.data() + mark + (all[mark + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_begin, end, exponent);
  std::string out;
  std::string digits;
  for (const char c : all.substr(0, mark)) {
    if (c == '-') out += c;
    if (c >= '0' && c <= '9') digits += c;
  }
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += '.' + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto point = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= point) return out + digits + std::string(point - digits.size(), '0') + ".0";
  return out + digits.substr(0, point) + '.' + digits.substr(point);
}

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = unicode::next(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (unicode::is_printable(c)) {
      out.append(text, begin, at - begin);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<std::uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<std::uint32_t>(c));
    }
  }
  return out + quote;
}

namespace {

void append_repr(Runtime& runtime, const Value& value, std::string& out);

void append_items(Runtime& runtime, const std::vector<Value>& items, std::string& out) {
  bool first = true;
  for (const Value& entry : items) {
    if (!first) out += ", ";
    first = false;
    append_repr(runtime, entry, out);
  }
}

template <class Entries, class Key>
void append_pairs(Runtime& runtime, const Entries& entries, std::string& out, Key append_key) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : entries) {
    if (!first) out += ", ";
    first = false;
    append_key(key);
    out += ": ";
    append_repr(runtime, value, out);
  }
  out += '}';
}

void append_repr(Runtime& runtime, const Value& value, std::string& out) {
  const DepthGuard guard(runtime);
  runtime.budget.step();
  runtime.budget.expect(out.size());
  switch (value.kind()) {
    case Kind::undefined:
      out += "Undefined";
      return;
    case Kind::none:
      out += "None";
      return;
    case Kind::boolean:
      out += value.as_boolean() ? "True" : "False";
      return;
    case Kind::integer:
      out += std::to_string(value.as_integer());
      return;
    case Kind::large:
      out += value.text();
      return;
    case Kind::real:
      out += real_to_string(value.as_real());
      return;
    case Kind::string:
      runtime.budget.work(value.text().size());
      out += value.string().marked ? "Markup(" + jinja::quoted(value.text()) + ')' : jinja::quoted(value.text());
      return;
    case Kind::list:
      out += '[';
      append_items(runtime, value.items(), out);
      out += ']';
      return;
    case Kind::tuple:
      out += '(';
      append_items(runtime, value.items(), out);
      out += value.items().size() == 1 ? ",)" : ")";
      return;
    case Kind::range:
      out += value.name();
      return;
    case Kind::view:
      out += value.name() + "([";
      append_items(runtime, value.items(), out);
      out += "])";
      return;
    case Kind::dict:
      append_pairs(runtime, value.dict().entries, out, [&](const Value& key) { append_repr(runtime, key, out); });
      return;
    case Kind::name_space:
      out += "<Namespace ";
      append_pairs(runtime, value.name_space().attributes, out, [&](const std::string& key) { out += jinja::quoted(key); });
      out += '>';
      return;
    case Kind::callable:
      out += value.callable().shown_as;
      return;
    case Kind::iterator:
      out += "<generator object>";
      return;
    case Kind::loop:
      out += fmt::format("<LoopContext {}/{}>", value.loop().index0() + 1, value.loop().length(runtime));
      return;
  }
}

}  // namespace

std::string repr(Runtime& runtime, const Value& value) {
  std::string out;
  append_repr(runtime, value, out);
  return out;
}

std::string str(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value.text();
  if (value.is_undefined()) return {};
  return repr(runtime, value);
}

}  // namespace plumb::text::jinja
