#include "text/jinja/show.h"

#include <cmath>

#include "text/jinja/loop.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

std::string type_name(const Value& value) {
  if (value.is(Kind::view)) return value.name();
  // By kind.
  constexpr const char* names[] = {"Undefined", "NoneType",  "bool",     "int",        "int",  "float",
                                   "str",       "list",      "tuple",    "range",      "view", "dict",
                                   "generator", "Namespace", "function", "LoopContext"};
  return names[static_cast<std::size_t>(value.kind())];
}

std::string real_to_string(double value) {
  if (std::isnan(value)) return "nan";
  // Both fmt and Python show the shortest digits that give the same number, and use exponents at the same sizes.
  std::string shown = fmt::format("{}", value);
  return std::isinf(value) || shown.find_first_of(".e") != std::string::npos ? shown : shown + ".0";
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
