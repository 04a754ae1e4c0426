#include "text/jinja/methods.h"

#include <algorithm>
#include <span>

#include "text/jinja/call.h"
#include "text/jinja/compare.h"
#include "text/jinja/format.h"
#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

// A bound of a search; negative bounds count from the end.
std::int64_t bound(const Parameters& given, std::size_t index, std::int64_t size, std::int64_t otherwise) {
  if (given.or_none(index).is_none()) return otherwise;
  const std::int64_t at = index_value(given[index], "slice index");
  return at < 0 ? std::max<std::int64_t>(std::max(at, -size) + size, 0) : at;
}

// The part of a string that a method searches, from parameters 1 and 2. No value if the start is past the end, where not
// even an empty text is found.
std::optional<std::string_view> window(const Value& self, const Parameters& given) {
  const auto size = static_cast<std::int64_t>(self.string().length);
  const std::int64_t start = bound(given, 1, size, 0);
  const std::int64_t stop = std::min(bound(given, 2, size, size), size);
  if (start > stop) return std::nullopt;
  const std::string_view text = self.text();
  const std::size_t begin = unicode::offset(text, static_cast<std::size_t>(start));
  return text.substr(begin, unicode::offset(text, static_cast<std::size_t>(stop)) - begin);
}

template <Side side>
Value strip(Runtime& runtime, const Value& self, Parameters& given) {
  runtime.budget.work(self.text().size());
  if (given.or_none(0).is_none()) return runtime.string(stripped(self.text(), side));
  if (given.text(0).empty()) return self;
  const std::u32string drop = unicode::decode(given.text(0));
  runtime.budget.work(drop.size() * self.text().size());
  return runtime.string(stripped(self.text(), side, drop));
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

// Splits at white space, which is dropped. From the right, each piece is the last word of the rest.
template <bool from_right>
Value split_at_space(Runtime& runtime, std::string_view text, std::int64_t most) {
  constexpr Side side = from_right ? Side::right : Side::left;
  Pieces pieces(runtime);
  text = stripped(text, side);
  for (; !text.empty() && most != 0; --most) {
    std::size_t end = from_right ? text.size() : 0;
    for (std::size_t at = end; from_right ? end > 0 : end < text.size(); end = at) {
      if (unicode::is_space(from_right ? unicode::previous(text, at) : unicode::next(text, at))) break;
    }
    pieces.add(from_right ? text.substr(end) : text.substr(0, end));
    text = stripped(from_right ? text.substr(0, end) : text.substr(end), side);
  }
  if (!text.empty()) pieces.add(text);
  return pieces.take(from_right);
}

template <bool from_right>
Value split(Runtime& runtime, const Value& self, Parameters& given) {
  std::string_view text = self.text();
  runtime.budget.work(text.size() * 8);
  std::int64_t most = given.integer(1, -1);
  if (given.or_none(0).is_none()) return split_at_space<from_right>(runtime, text, most);
  const std::string& separator = given.text(0);
  if (separator.empty()) raise("empty separator");
  Pieces pieces(runtime);
  for (; most != 0; --most) {
    const std::size_t found = from_right ? find_last(runtime, text, separator) : find_first(runtime, text, separator);
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

Value splitlines(Runtime& runtime, const Value& self, Parameters& given) {
  Pieces pieces(runtime);
  for (const std::string_view line : lines_of(runtime, self.text(), given.flag(runtime, 0, false))) pieces.add(line);
  return pieces.take();
}

Value join(Runtime& runtime, const Value& self, Parameters& given) {
  if (!is_iterable(given[0])) raise("can only join an iterable");
  TextBuilder out(runtime.budget);
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

Value replace(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& old = given.text(0);
  const std::string& fresh = given.text(1);
  return runtime.string(replaced(runtime, self.text(), old, fresh, given.integer(2, -1)));
}

template <bool at_end>
Value starts_or_ends(Runtime& runtime, const Value& self, Parameters& given) {
  const auto part = window(self, given);
  for (const Value& candidate : given[0].is(Kind::tuple) ? given[0].items() : std::vector<Value>{given[0]}) {
    if (!candidate.is_string()) {
      raise("{} first arg must be str or a tuple of str, not {}", given.function(), type_name(candidate));
    }
    runtime.budget.work(candidate.text().size());
    if (part && (at_end ? part->ends_with(candidate.text()) : part->starts_with(candidate.text()))) {
      return Value::boolean(true);
    }
  }
  return Value::boolean(false);
}

// find, rfind, index, rindex
template <bool from_right, bool must_find>
Value find(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& wanted = given.text(0);
  runtime.budget.work(self.text().size());
  if (const auto part = window(self, given)) {
    const std::size_t found = from_right ? find_last(runtime, *part, wanted) : find_first(runtime, *part, wanted);
    if (found != std::string_view::npos) {
      const auto end = static_cast<std::size_t>(part->data() - self.text().data()) + found;
      return Value::integer(static_cast<std::int64_t>(unicode::count(std::string_view(self.text()).substr(0, end))));
    }
  }
  if (must_find) raise("substring not found");
  return Value::integer(-1);
}

Value count(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& wanted = given.text(0);
  runtime.budget.work(self.text().size());
  const auto part = window(self, given);
  if (!part) return Value::integer(0);
  if (wanted.empty()) return Value::integer(static_cast<std::int64_t>(unicode::count(*part)) + 1);
  std::int64_t total = 0;
  for (std::size_t at = 0; (at = find_first(runtime, *part, wanted, at)) != std::string_view::npos; at += wanted.size()) {
    ++total;
  }
  return Value::integer(total);
}

template <std::string (*function)(std::string_view)>
Value mapped(Runtime& runtime, const Value& self, Parameters&) {
  runtime.budget.expect(self.text().size() * 3);
  runtime.budget.work(self.text().size() * 8);
  return runtime.string(function(self.text()));
}

// Whether all characters have one of the properties, and there is one.
template <bool (*... properties)(char32_t)>
Value all_have(Runtime& runtime, const Value& self, Parameters&) {
  const std::string& text = self.text();
  runtime.budget.work(text.size() * 8);
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    if (!(properties(c) || ...)) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

// Whether at least one letter has the wanted case, and none has the other.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value is_of_case(Runtime& runtime, const Value& self, Parameters&) {
  const std::string& text = self.text();
  runtime.budget.work(text.size() * 8);
  bool any = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    if (other(c) || unicode::is_title(c)) return Value::boolean(false);
    any = any || wanted(c);
  }
  return Value::boolean(any);
}

Value isascii(Runtime&, const Value& self, Parameters&) {
  return Value::boolean(self.string().length == self.text().size());
}

template <Align align>
Value justify(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string fill = given.has(1) ? given.text(1) : " ";
  if (unicode::count(fill) != 1) raise("The fill character must be exactly one character long");
  return runtime.string(padded(runtime, self.text(), align, given.integer(0, 0), fill));
}

Value zfill(Runtime& runtime, const Value& self, Parameters& given) {
  return runtime.string(zero_filled(runtime, self.text(), given.integer(0, 0)));
}

Value removeprefix(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& prefix = given.text(0);
  return self.text().starts_with(prefix) ? runtime.string(self.text().substr(prefix.size())) : self;
}

Value removesuffix(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& suffix = given.text(0);
  const std::string& text = self.text();
  return text.ends_with(suffix) ? runtime.string(text.substr(0, text.size() - suffix.size())) : self;
}

template <bool from_right>
Value partition(Runtime& runtime, const Value& self, Parameters& given) {
  const std::string& separator = given.text(0);
  if (separator.empty()) raise("empty separator");
  const std::string& text = self.text();
  const std::size_t found = from_right ? find_last(runtime, text, separator) : find_first(runtime, text, separator);
  if (found == std::string::npos) {
    const Value empty = runtime.string("");
    return runtime.tuple(from_right ? std::vector{empty, empty, self} : std::vector{self, empty, empty});
  }
  return runtime.tuple(
      {runtime.string(text.substr(0, found)), given[0], runtime.string(text.substr(found + separator.size()))});
}

Value format(Runtime& runtime, const Value& self, Parameters& given) {
  return runtime.string(brace_format(runtime, self.text(), given.all()));
}

constexpr Builtin string_methods[] = {
    {"strip", strip<Side::both>, {""}},
    {"lstrip", strip<Side::left>, {""}},
    {"rstrip", strip<Side::right>, {""}},
    {"split", split<false>, {"sep", "maxsplit"}},
    {"rsplit", split<true>, {"sep", "maxsplit"}},
    {"splitlines", splitlines, {"keepends"}},
    {"join", join, {""}, 1},
    {"replace", replace, {"", "", ""}, 2},
    {"startswith", starts_or_ends<false>, {"", "", ""}, 1},
    {"endswith", starts_or_ends<true>, {"", "", ""}, 1},
    {"upper", mapped<unicode::upper>},
    {"lower", mapped<unicode::lower>},
    {"title", mapped<unicode::title>},
    {"capitalize", mapped<unicode::capitalize>},
    {"swapcase", mapped<unicode::swapcase>},
    {"find", find<false, false>, {"", "", ""}, 1},
    {"rfind", find<true, false>, {"", "", ""}, 1},
    {"index", find<false, true>, {"", "", ""}, 1},
    {"rindex", find<true, true>, {"", "", ""}, 1},
    {"count", count, {"", "", ""}, 1},
    {"format", format, {"*"}},
    {"isalpha", all_have<unicode::is_letter>},
    {"isdigit", all_have<unicode::is_decimal>},
    {"isdecimal", all_have<unicode::is_decimal>},
    {"isnumeric", all_have<unicode::is_number>},
    {"isalnum", all_have<unicode::is_letter, unicode::is_number>},
    {"isspace", all_have<unicode::is_space>},
    {"isascii", isascii},
    {"islower", is_of_case<unicode::is_lower, unicode::is_upper>},
    {"isupper", is_of_case<unicode::is_upper, unicode::is_lower>},
    {"center", justify<Align::center>, {"", ""}, 1},
    {"ljust", justify<Align::left>, {"", ""}, 1},
    {"rjust", justify<Align::right>, {"", ""}, 1},
    {"zfill", zfill, {""}, 1},
    {"removeprefix", removeprefix, {""}, 1},
    {"removesuffix", removesuffix, {""}, 1},
    {"partition", partition<false>, {""}, 1},
    {"rpartition", partition<true>, {""}, 1},
};

Value sequence_count(Runtime& runtime, const Value& self, Parameters& given) {
  const auto total =
      std::ranges::count_if(to_vector(runtime, self), [&](const Value& entry) { return equal(runtime, entry, given[0]); });
  return Value::integer(total);
}

Value sequence_index(Runtime& runtime, const Value& self, Parameters& given) {
  std::int64_t index = 0;
  for (const Value& entry : to_vector(runtime, self)) {
    if (equal(runtime, entry, given[0])) return Value::integer(index);
    ++index;
  }
  raise("{} is not in {}", repr(runtime, given[0]), type_name(self));
}

Value copy(Runtime&, const Value& self, Parameters&) { return self; }

// A list cannot change, so its copy is itself.
constexpr Builtin list_methods[] = {{"count", sequence_count, {""}, 1}, {"index", sequence_index, {""}, 1}, {"copy", copy}};
constexpr std::span tuple_methods(list_methods, 2);

enum class Part : std::uint8_t { keys, values, items };

template <Part part>
Value view(Runtime& runtime, const Value& self, Parameters& given) {
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    runtime.budget.step();
    items.push_back(part == Part::keys ? key : part == Part::values ? value : runtime.tuple({key, value}));
  }
  return runtime.sequence(Kind::view, std::move(items), fmt::format("dict_{}", given.function()));
}

Value get(Runtime& runtime, const Value& self, Parameters& given) {
  const Value* found = self.dict().find(runtime, given[0]);
  return found == nullptr ? given.or_none(1) : *found;
}

constexpr Builtin dict_methods[] = {
    {"items", view<Part::items>},
    {"keys", view<Part::keys>},
    {"values", view<Part::values>},
    {"get", get, {"", ""}, 1},
    {"copy", copy},
};

// Python's other methods.
constexpr std::string_view unsupported_of_strings[] = {"casefold",    "encode",  "expandtabs", "format_map", "isidentifier",
                                                       "isprintable", "istitle", "maketrans",  "translate"};
constexpr std::string_view unsupported_of_numbers[] = {"as_integer_ratio", "bit_count", "bit_length", "conjugate",
                                                       "denominator",      "hex",       "imag",       "is_integer",
                                                       "numerator",        "real"};

std::span<const Builtin> methods_of(const Value& object) {
  switch (object.kind()) {
    case Kind::string:
      return string_methods;
    case Kind::list:
      return list_methods;
    case Kind::tuple:
    case Kind::range:
      return tuple_methods;
    case Kind::dict:
      return dict_methods;
    default:
      return {};
  }
}

}  // namespace

std::optional<Value> method(Runtime& runtime, const Value& object, std::string_view name) {
  if (const Builtin* found = find_builtin(methods_of(object), name)) {
    return runtime.callable(
        fmt::format("<built-in method {}>", name), object.depth(),
        [object, found](Runtime& running, Arguments& arguments) { return invoke(running, *found, object, arguments); });
  }
  const auto is_among = [&](std::span<const std::string_view> names) {
    return std::ranges::find(names, name) != names.end();
  };
  if ((object.is_string() && is_among(unsupported_of_strings)) ||
      (object.is_number() && is_among(unsupported_of_numbers))) {
    raise("{} of '{}' is not supported", jinja::quoted(name), type_name(object));
  }
  return std::nullopt;
}

Value call_method(Runtime& runtime, const Value& object, std::string_view name, std::vector<Value> positional) {
  Arguments arguments{std::move(positional), {}};
  return invoke(runtime, *find_builtin(methods_of(object), name), object, arguments);
}

}  // namespace plumb::text::jinja
