// The methods of Python's str, list, tuple, dict, range and numbers that a template can call.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "text/jinja/callables.h"
#include "text/jinja/value.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

using Method = Value (*)(Runtime&, const Value& self, Arguments&);

struct Entry {
  std::string_view name;
  Method method;
};

// A method together with its object.
class BoundMethod : public Callable {
 public:
  BoundMethod(Budget& budget, Value self, const Entry& entry)
      : Callable(budget, self.depth() + 1,
                 fmt::format("<built-in method {} of {} object>", entry.name, jinja::type_name(self))),
        self_(std::move(self)),
        name_(entry.name),
        method_(entry.method) {}
  Value call(Runtime& runtime, Arguments& arguments) override {
    if (!self_.is_markup()) return method_(runtime, self_, arguments);
    // Markup stays markup, and what is put into it is escaped.
    if (name_ == "join" && !arguments.positional.empty()) {
      std::vector<Value> pieces = to_vector(runtime, arguments.positional[0]);
      for (Value& piece : pieces) piece = runtime.markup(html_escaped(runtime, piece));
      arguments.positional[0] = runtime.list(std::move(pieces));
    }
    const bool puts_second = name_ == "replace" || name_ == "center" || name_ == "ljust" || name_ == "rjust";
    if (puts_second && arguments.positional.size() > 1) {
      arguments.positional[1] = runtime.markup(html_escaped(runtime, arguments.positional[1]));
    }
    return marked(runtime, method_(runtime, self_, arguments));
  }
  const char* type_name() const override { return "builtin_function_or_method"; }

 private:
  const Value self_;
  const std::string_view name_;
  const Method method_;
};

const std::string& string_argument(const Parameters& given, std::size_t index, const char* function) {
  if (given[index].is_undefined() || !given[index].is_string()) {
    raise("{}() argument {} must be str, not {}", function, index + 1, type_name(given[index]));
  }
  return given[index].text();
}

// Which part of a string a method looks at: bytes [begin, end), and the code points before it. Empty where the start
// is past the end, so that not even an empty text is found there.
struct Window {
  std::size_t begin, end;
};

std::optional<Window> window(const String& self, const Parameters& given, std::size_t start_index) {
  const auto size = static_cast<std::int64_t>(self.length);
  const auto bound = [&](std::size_t index, std::int64_t otherwise) {
    if (given.or_none(index).is_none()) return otherwise;
    std::int64_t at = index_value(given[index], "slice index");
    if (at < 0) at = std::max<std::int64_t>(std::max(at, -size) + size, 0);
    return at;
  };
  const std::int64_t start = bound(start_index, 0);
  const std::int64_t stop = std::min(bound(start_index + 1, size), size);
  if (start > stop) return std::nullopt;
  return Window{unicode::offset(self.text, static_cast<std::size_t>(start)),
                unicode::offset(self.text, static_cast<std::size_t>(stop))};
}

enum class Side : std::uint8_t { left = 1, right = 2, both = 3 };

bool has_side(Side side, Side wanted) { return (static_cast<unsigned>(side) & static_cast<unsigned>(wanted)) != 0; }

template <class Drop>
std::string_view stripped(std::string_view text, Side side, Drop drop) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  if (has_side(side, Side::left)) {
    while (begin < end) {
      std::size_t after = begin;
      if (!drop(unicode::next(text, after))) break;
      begin = after;
    }
  }
  if (has_side(side, Side::right)) {
    while (end > begin) {
      std::size_t before = end;
      if (!drop(unicode::previous(text, before))) break;
      end = before;
    }
  }
  return text.substr(begin, end - begin);
}

bool is_space(char32_t c) { return unicode::is_space(c); }

template <Side side>
Value strip(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("strip", arguments, {""});
  runtime.budget.work(self.text().size());
  const Value characters = given.or_none(0);
  if (characters.is_none()) return runtime.string(stripped(self.text(), side, is_space));
  if (!characters.is_string()) raise("strip arg must be None or str, not {}", type_name(characters));
  const std::u32string drop = unicode::decode(characters.text());
  runtime.budget.work(drop.size() * self.text().size());
  return runtime.string(stripped(self.text(), side, [&](char32_t c) { return drop.find(c) != std::u32string::npos; }));
}

class Pieces {
 public:
  explicit Pieces(Runtime& runtime) : runtime_(runtime) {}
  void add(std::string_view piece) {
    runtime_.budget.step();
    runtime_.budget.expect(items_.size() * sizeof(Value));
    items_.push_back(runtime_.string(piece));
  }
  Value take(bool reversed = false) {
    if (reversed) std::reverse(items_.begin(), items_.end());
    return runtime_.list(std::move(items_));
  }

 private:
  Runtime& runtime_;
  std::vector<Value> items_;
};

Value split_at_space(Runtime& runtime, std::string_view text, std::int64_t most) {
  Pieces pieces(runtime);
  text = stripped(text, Side::left, is_space);
  for (; !text.empty() && most != 0; --most) {
    std::size_t end = 0;
    while (end < text.size()) {
      std::size_t after = end;
      if (is_space(unicode::next(text, after))) break;
      end = after;
    }
    pieces.add(text.substr(0, end));
    text = stripped(text.substr(end), Side::left, is_space);
  }
  if (!text.empty()) pieces.add(text);
  return pieces.take();
}

Value split_at_space_from_right(Runtime& runtime, std::string_view text, std::int64_t most) {
  Pieces pieces(runtime);
  text = stripped(text, Side::right, is_space);
  for (; !text.empty() && most != 0; --most) {
    std::size_t begin = text.size();
    while (begin > 0) {
      std::size_t before = begin;
      if (is_space(unicode::previous(text, before))) break;
      begin = before;
    }
    pieces.add(text.substr(begin));
    text = stripped(text.substr(0, begin), Side::right, is_space);
  }
  if (!text.empty()) pieces.add(text);
  return pieces.take(true);
}

template <bool from_right>
Value split(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("split", arguments, {"sep", "maxsplit"});
  std::string_view text = self.text();
  runtime.budget.work(text.size() * kSearchWork);
  std::int64_t most = given.integer(1, -1);
  if (given.or_none(0).is_none()) {
    return from_right ? split_at_space_from_right(runtime, text, most) : split_at_space(runtime, text, most);
  }
  if (!given[0].is_string()) raise("must be str or None, not {}", type_name(given[0]));
  const std::string& separator = given[0].text();
  if (separator.empty()) raise("empty separator");
  Pieces pieces(runtime);
  for (; most != 0; --most) {
    const std::size_t found = from_right ? find_last(text, separator) : find_first(text, separator);
    if (found == std::string_view::npos) break;
    if (from_right) {
      pieces.add(text.substr(found + separator.size()));
      text = text.substr(0, found);
    } else {
      pieces.add(text.substr(0, found));
      text = text.substr(found + separator.size());
    }
  }
  pieces.add(text);
  return pieces.take(from_right);
}

Value splitlines(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("splitlines", arguments, {"keepends"});
  const bool keep = given.flag(runtime, 0, false);
  const std::string_view text = self.text();
  Pieces pieces(runtime);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = unicode::next(text, at);
    const bool breaks = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == U'\r' && at < text.size() && text[at] == '\n') ++at;
    pieces.add(text.substr(begin, (keep ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) pieces.add(text.substr(begin));
  return pieces.take();
}

Value join(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("join", arguments, {""}, 1);
  if (!is_iterable(given[0])) raise("can only join an iterable");
  TextBuilder out(runtime);
  std::size_t index = 0;
  const auto iterator = iterate(runtime, given[0]);
  while (const auto piece = iterator->next(runtime)) {
    runtime.budget.step();
    if (!piece->is_string()) {
      raise("sequence item {}: expected str instance, {} found", index, type_name(*piece));
    }
    if (index++ != 0) out.append(self.text());
    out.append(piece->text());
  }
  return runtime.string(out.take());
}

Value replace(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("replace", arguments, {"", "", ""}, 2);
  const std::string& old = string_argument(given, 0, "replace");
  const std::string& fresh = string_argument(given, 1, "replace");
  return runtime.string(replaced(runtime, self.text(), old, fresh, given.integer(2, -1)));
}

template <bool at_end>
Value starts_or_ends(Runtime& runtime, const Value& self, Arguments& arguments) {
  const char* name = at_end ? "endswith" : "startswith";
  const Parameters given(name, arguments, {"", "", ""}, 1);
  const auto part = window(self.string(), given, 1);
  std::vector<Value> candidates{given[0]};
  if (given[0].is(Kind::tuple)) candidates = given[0].items();
  for (const Value& candidate : candidates) {
    if (!candidate.is_string()) {
      raise("{} first arg must be str or a tuple of str, not {}", name, type_name(candidate));
    }
    runtime.budget.work(candidate.text().size());
    if (!part) continue;
    const auto text = std::string_view(self.text()).substr(part->begin, part->end - part->begin);
    if (at_end ? text.ends_with(candidate.text()) : text.starts_with(candidate.text())) return Value::boolean(true);
  }
  return Value::boolean(false);
}

// find, rfind, index, rindex
template <bool from_right, bool must_find>
Value find(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given(must_find ? "index" : "find", arguments, {"", "", ""}, 1);
  const std::string& wanted = string_argument(given, 0, must_find ? "index" : "find");
  runtime.budget.work(self.text().size() * kSearchWork);
  if (const auto part = window(self.string(), given, 1)) {
    const std::string_view text = std::string_view(self.text()).substr(part->begin, part->end - part->begin);
    const std::size_t found = from_right ? find_last(text, wanted) : find_first(text, wanted);
    if (found != std::string_view::npos) {
      const std::string_view before = std::string_view(self.text()).substr(0, part->begin + found);
      return Value::integer(static_cast<std::int64_t>(unicode::count(before)));
    }
  }
  if (must_find) raise("substring not found");
  return Value::integer(-1);
}

Value count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("count", arguments, {"", "", ""}, 1);
  const std::string& wanted = string_argument(given, 0, "count");
  runtime.budget.work(self.text().size() * kSearchWork);
  const auto part = window(self.string(), given, 1);
  if (!part) return Value::integer(0);
  const std::string_view text = std::string_view(self.text()).substr(part->begin, part->end - part->begin);
  if (wanted.empty()) return Value::integer(static_cast<std::int64_t>(unicode::count(text)) + 1);
  std::int64_t total = 0;
  for (std::size_t at = find_first(text, wanted); at != std::string_view::npos;
       at = find_first(text, wanted, at + wanted.size())) {
    ++total;
  }
  return Value::integer(total);
}

template <std::string (*function)(std::string_view)>
Value mapped(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("this method", arguments, {});
  runtime.budget.expect(self.text().size() * 3);
  runtime.budget.work(self.text().size() * 8);
  return runtime.string(function(self.text()));
}

template <class Predicate>
bool all_of(Runtime& runtime, std::string_view text, Predicate predicate) {
  runtime.budget.work(text.size() * 8);
  for (std::size_t at = 0; at < text.size();) {
    if (!predicate(unicode::next(text, at))) return false;
  }
  return true;
}

template <bool (*... properties)(char32_t)>
Value all_have(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("this method", arguments, {});
  const bool all = all_of(runtime, self.text(), [](char32_t c) { return (properties(c) || ...); });
  return Value::boolean(all && !self.text().empty());
}

Value isprintable(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("isprintable", arguments, {});
  return Value::boolean(all_of(runtime, self.text(), [](char32_t c) { return unicode::is_printable(c); }));
}

Value isascii(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("isascii", arguments, {});
  return Value::boolean(all_of(runtime, self.text(), [](char32_t c) { return c < 0x80; }));
}

Value islower_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("islower", arguments, {});
  return Value::boolean(is_lower(runtime, self.text()));
}

Value isupper_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("isupper", arguments, {});
  return Value::boolean(is_upper(runtime, self.text()));
}

Value istitle(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("istitle", arguments, {});
  bool any = false;
  bool inside = false;
  const bool fits = all_of(runtime, self.text(), [&](char32_t c) {
    const bool capital = (unicode::is_upper(c) || unicode::is_title(c));
    const bool small = unicode::is_lower(c);
    if ((capital && inside) || (small && !inside)) return false;
    inside = capital || small;
    any = any || inside;
    return true;
  });
  return Value::boolean(fits && any);
}

enum class Justify : std::uint8_t { left, right, center };

template <Justify how>
Value justify(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("this method", arguments, {"", ""}, 1);
  const std::int64_t width = index_value(given[0], "width");
  std::string fill = " ";
  if (given.has(1)) {
    fill = string_argument(given, 1, "this method");
    if (given[1].string().length != 1) raise("The fill character must be exactly one character long");
  }
  if (how == Justify::center) return runtime.string(centered(runtime, self.string(), width, fill));
  const std::string padding = repeated_text(runtime, fill, width - static_cast<std::int64_t>(self.string().length));
  return runtime.string(how == Justify::left ? self.text() + padding : padding + self.text());
}

Value zfill(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("zfill", arguments, {""}, 1);
  const std::int64_t width = index_value(given[0], "width");
  const std::string zeros = repeated_text(runtime, "0", width - static_cast<std::int64_t>(self.string().length));
  const std::string& text = self.text();
  const std::size_t sign = !text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0;
  return runtime.string(text.substr(0, sign) + zeros + text.substr(sign));
}

Value removeprefix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("removeprefix", arguments, {""}, 1);
  const std::string& prefix = string_argument(given, 0, "removeprefix");
  if (!self.text().starts_with(prefix)) return self;
  return runtime.string(self.text().substr(prefix.size()));
}

Value removesuffix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("removesuffix", arguments, {""}, 1);
  const std::string& suffix = string_argument(given, 0, "removesuffix");
  if (!self.text().ends_with(suffix)) return self;
  return runtime.string(self.text().substr(0, self.text().size() - suffix.size()));
}

template <bool from_right>
Value partition(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("partition", arguments, {""}, 1);
  const std::string& separator = string_argument(given, 0, "partition");
  if (separator.empty()) raise("empty separator");
  const std::string& text = self.text();
  runtime.budget.work(text.size() * kSearchWork);
  const std::size_t found = from_right ? find_last(text, separator) : find_first(text, separator);
  if (found == std::string::npos) {
    const Value empty = runtime.string("");
    return runtime.tuple(from_right ? std::vector{empty, empty, self} : std::vector{self, empty, empty});
  }
  return runtime.tuple(
      {runtime.string(text.substr(0, found)), given[0], runtime.string(text.substr(found + separator.size()))});
}

Value expandtabs(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("expandtabs", arguments, {"tabsize"});
  const std::int64_t size = given.integer(0, 8);
  TextBuilder out(runtime);
  std::int64_t column = 0;
  const std::string_view text = self.text();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = unicode::next(text, at);
    if (c == U'\t') {
      const std::int64_t missing = size > 0 ? size - column % size : 0;
      out.append(repeated_text(runtime, " ", missing));
      column += missing;
      continue;
    }
    out.append(text.substr(begin, at - begin));
    column = c == U'\n' || c == U'\r' ? 0 : column + 1;
  }
  return runtime.string(out.take());
}

Value format(Runtime& runtime, const Value& self, Arguments& arguments) {
  return runtime.string(brace_format(runtime, self.string(), arguments));
}

Value format_map(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("format_map", arguments, {""}, 1);
  if (!given[0].is(Kind::dict)) raise("format_map() needs a dict, not {}", type_name(given[0]));
  Arguments named;
  for (const auto& [key, value] : given[0].dict().entries) {
    if (key.is_string()) named.named.emplace_back(key.text(), value);
  }
  return runtime.string(brace_format(runtime, self.string(), named));
}

constexpr Entry kStringMethods[] = {
    {"strip", strip<Side::both>},
    {"lstrip", strip<Side::left>},
    {"rstrip", strip<Side::right>},
    {"split", split<false>},
    {"rsplit", split<true>},
    {"splitlines", splitlines},
    {"join", join},
    {"replace", replace},
    {"startswith", starts_or_ends<false>},
    {"endswith", starts_or_ends<true>},
    {"upper", mapped<unicode::upper>},
    {"lower", mapped<unicode::lower>},
    {"title", mapped<unicode::title>},
    {"capitalize", mapped<unicode::capitalize>},
    {"swapcase", mapped<unicode::swapcase>},
    {"find", find<false, false>},
    {"rfind", find<true, false>},
    {"index", find<false, true>},
    {"rindex", find<true, true>},
    {"count", count},
    {"format", format},
    {"format_map", format_map},
    {"isalpha", all_have<unicode::is_letter>},
    {"isdigit", all_have<unicode::is_decimal>},
    {"isdecimal", all_have<unicode::is_decimal>},
    {"isnumeric", all_have<unicode::is_number>},
    {"isalnum", all_have<unicode::is_letter, unicode::is_number>},
    {"isspace", all_have<unicode::is_space>},
    {"isprintable", isprintable},
    {"isascii", isascii},
    {"islower", islower_method},
    {"isupper", isupper_method},
    {"istitle", istitle},
    {"center", justify<Justify::center>},
    {"ljust", justify<Justify::left>},
    {"rjust", justify<Justify::right>},
    {"zfill", zfill},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"expandtabs", expandtabs},
};

Value sequence_count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("count", arguments, {""}, 1);
  std::int64_t total = 0;
  for (const Value& entry : to_vector(runtime, self)) {
    runtime.budget.step();
    if (equal(runtime, entry, given[0])) ++total;
  }
  return Value::integer(total);
}

Value sequence_index(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("index", arguments, {"", "", ""}, 1);
  const std::vector<Value> items = to_vector(runtime, self);
  const auto size = static_cast<std::int64_t>(items.size());
  const auto bound = [&](std::size_t index, std::int64_t otherwise) {
    std::int64_t at = given.integer(index, otherwise);
    if (at < 0) at = std::max<std::int64_t>(std::max(at, -size) + size, 0);
    return std::min(at, size);
  };
  const std::int64_t stop = bound(2, size);
  for (std::int64_t i = bound(1, 0); i < stop; ++i) {
    runtime.budget.step();
    if (equal(runtime, items[static_cast<std::size_t>(i)], given[0])) return Value::integer(i);
  }
  raise("{} is not in {}", repr(runtime, given[0]), type_name(self));
}

Value copy(Runtime&, const Value& self, Arguments& arguments) {
  const Parameters given("copy", arguments, {});
  return self;
}

constexpr Entry kListMethods[] = {{"count", sequence_count}, {"index", sequence_index}, {"copy", copy}};
constexpr Entry kTupleMethods[] = {{"count", sequence_count}, {"index", sequence_index}};

template <DictView::Part part>
Value view(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("this method", arguments, {});
  return {Kind::dict_view, runtime.make<DictView>(self, part)};
}

Value get(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("get", arguments, {"", ""}, 1);
  const Value* found = self.dict().find(runtime, given[0]);
  return found == nullptr ? given.or_none(1) : *found;
}

Value fromkeys(Runtime& runtime, const Value&, Arguments& arguments) {
  const Parameters given("fromkeys", arguments, {"", ""}, 1);
  std::vector<Dict::Entry> entries;
  for (Value& key : to_vector(runtime, given[0])) entries.emplace_back(std::move(key), given.or_none(1));
  return runtime.dict(std::move(entries));
}

constexpr Entry kDictMethods[] = {
    {"items", view<DictView::Part::items>},
    {"keys", view<DictView::Part::keys>},
    {"values", view<DictView::Part::values>},
    {"get", get},
    {"copy", copy},
    {"fromkeys", fromkeys},
};

Value bit_length(Runtime&, const Value& self, Arguments& arguments) {
  const Parameters given("bit_length", arguments, {});
  return Value::integer(static_cast<std::int64_t>(to_big(self).bits()));
}

Value is_integer(Runtime&, const Value& self, Arguments& arguments) {
  const Parameters given("is_integer", arguments, {});
  return Value::boolean(std::isfinite(self.as_real()) && std::trunc(self.as_real()) == self.as_real());
}

Value itself(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters given("conjugate", arguments, {});
  return positive(runtime, self);
}

constexpr Entry kIntegerMethods[] = {{"bit_length", bit_length}, {"conjugate", itself}};
constexpr Entry kRealMethods[] = {{"is_integer", is_integer}, {"conjugate", itself}};

std::span<const Entry> methods_of(const Value& object) {
  switch (object.kind()) {
    case Kind::string:
      return kStringMethods;
    case Kind::list:
      return kListMethods;
    case Kind::tuple:
    case Kind::range:
      return kTupleMethods;
    case Kind::dict:
      return kDictMethods;
    case Kind::boolean:
    case Kind::integer:
    case Kind::big:
      return kIntegerMethods;
    case Kind::real:
      return kRealMethods;
    default:
      return {};
  }
}

}  // namespace

std::optional<Value> method(Runtime& runtime, const Value& object, std::string_view name) {
  for (const Entry& entry : methods_of(object)) {
    if (entry.name == name) return Value(Kind::callable, runtime.make<BoundMethod>(object, entry));
  }
  return std::nullopt;
}

namespace {

// Knuth, Morris and Pratt's search: linear where the plain one could take the product of the two lengths. `read` gives
// characters of the needle and of the text by their distance from the end where the search begins.
template <class ReadNeedle, class ReadText>
std::size_t linear_search(std::size_t needle_size, std::size_t text_size, ReadNeedle needle, ReadText text) {
  std::vector<std::uint32_t> shorter(needle_size, 0);
  for (std::size_t i = 1, matched = 0; i < needle_size; ++i) {
    while (matched > 0 && needle(i) != needle(matched)) matched = shorter[matched - 1];
    if (needle(i) == needle(matched)) ++matched;
    shorter[i] = static_cast<std::uint32_t>(matched);
  }
  for (std::size_t i = 0, matched = 0; i < text_size; ++i) {
    while (matched > 0 && text(i) != needle(matched)) matched = shorter[matched - 1];
    if (text(i) == needle(matched)) ++matched;
    if (matched == needle_size) return i + 1 - needle_size;
  }
  return std::string_view::npos;
}

constexpr std::size_t kShortNeedle = 64;

}  // namespace

std::size_t find_first(std::string_view text, std::string_view needle, std::size_t from) {
  if (needle.size() <= kShortNeedle || needle.size() + from > text.size()) return text.find(needle, from);
  const std::size_t found = linear_search(
      needle.size(), text.size() - from, [&](std::size_t i) { return needle[i]; },
      [&](std::size_t i) { return text[from + i]; });
  return found == std::string_view::npos ? found : found + from;
}

std::size_t find_last(std::string_view text, std::string_view needle) {
  if (needle.size() <= kShortNeedle || needle.size() > text.size()) return text.rfind(needle);
  const std::size_t found = linear_search(
      needle.size(), text.size(), [&](std::size_t i) { return needle[needle.size() - 1 - i]; },
      [&](std::size_t i) { return text[text.size() - 1 - i]; });
  return found == std::string_view::npos ? found : text.size() - found - needle.size();
}

std::string replaced(Runtime& runtime, std::string_view text, std::string_view old, std::string_view fresh,
                     std::int64_t most) {
  runtime.budget.work(text.size() * kSearchWork);
  TextBuilder out(runtime);
  std::size_t at = 0;
  if (old.empty()) {
    // Between any two characters, and at both ends.
    for (; most != 0; --most) {
      runtime.budget.step();
      out.append(fresh);
      if (at >= text.size()) return out.take();
      const std::size_t width = unicode::width(text[at]);
      out.append(text.substr(at, width));
      at += width;
    }
  }
  for (; most != 0 && !old.empty(); --most) {
    const std::size_t found = find_first(text, old, at);
    if (found == std::string_view::npos) break;
    runtime.budget.step();
    out.append(text.substr(at, found - at));
    out.append(fresh);
    at = found + old.size();
  }
  out.append(text.substr(at));
  return out.take();
}

std::string repeated_text(Runtime& runtime, std::string_view unit, std::int64_t times) {
  if (times <= 0) return {};
  const auto count = static_cast<std::size_t>(times);
  runtime.budget.expect(count);
  runtime.budget.expect(count * unit.size());
  runtime.budget.work(count * unit.size());
  std::string out;
  out.reserve(count * unit.size());
  for (std::size_t i = 0; i < count; ++i) out += unit;
  return out;
}

std::string centered(Runtime& runtime, const String& text, std::int64_t width, std::string_view fill) {
  const std::int64_t length = static_cast<std::int64_t>(text.length);
  if (width <= length) return text.text;
  const std::int64_t missing = width - length;
  // The odd one goes left where the width is odd, too: CPython's rule.
  const std::int64_t left = missing / 2 + (missing & width & 1);
  return repeated_text(runtime, fill, left) + text.text + repeated_text(runtime, fill, missing - left);
}

bool is_lower(Runtime& runtime, std::string_view text) {
  bool any = false;
  const bool none_upper = all_of(runtime, text, [&](char32_t c) {
    any = any || unicode::is_lower(c);
    return !(unicode::is_upper(c) || unicode::is_title(c));
  });
  return none_upper && any;
}

bool is_upper(Runtime& runtime, std::string_view text) {
  bool any = false;
  const bool none_lower = all_of(runtime, text, [&](char32_t c) {
    any = any || unicode::is_upper(c);
    return !(unicode::is_lower(c) || unicode::is_title(c));
  });
  return none_lower && any;
}

std::string_view trimmed(std::string_view text) { return stripped(text, Side::both, is_space); }

}  // namespace plumb::text::jinja
