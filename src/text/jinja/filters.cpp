// Jinja's built-in filters, as Jinja2 3.1 has them without autoescape, with the `tojson` of Hugging Face transformers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <unordered_map>

#include "text/jinja/callables.h"
#include "text/jinja/value.h"
#include "text/unicode/characters.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

void no_arguments(Arguments& arguments) { const Parameters given("this filter", arguments, {}); }

Value call_method(Runtime& runtime, const Value& self, std::string_view name, std::vector<Value> positional) {
  const auto found = method(runtime, self, name);
  if (!found) raise("'{}' object has no method {}", type_name(self), name);
  Arguments arguments{std::move(positional), {}};
  return call(runtime, *found, arguments);
}

// Jinja's soft_str.
Value as_string(Runtime& runtime, const Value& value) {
  return value.is_string() ? value : runtime.string(str(runtime, value));
}

Value from_items(Runtime& runtime, std::vector<Value> items, const char* name = "generator") {
  const Value list = runtime.list(std::move(items));
  auto body = [list, next = std::size_t{0}](Runtime&) mutable -> std::optional<Value> {
    if (next >= list.items().size()) return std::nullopt;
    return list.items()[next++];
  };
  return {Kind::iterator, runtime.make<Generator>(list.depth() + 1, std::move(body), name)};
}

Value from_body(Runtime& runtime, std::uint32_t depth, Generator::Body body) {
  return {Kind::iterator, runtime.make<Generator>(depth + 1, std::move(body))};
}

std::uint32_t depth_of(const Value& subject, const Arguments& arguments) {
  std::uint32_t depth = subject.depth();
  for (const Value& value : arguments.positional) depth = std::max(depth, value.depth());
  for (const auto& [name, value] : arguments.named) depth = std::max(depth, value.depth());
  return depth;
}

// "a.b.0" as a filter's `attribute` argument: the keys to go through, one after the other.
class Path {
 public:
  Path(Runtime& runtime, const Value& attribute, Value otherwise = Value()) : otherwise_(std::move(otherwise)) {
    if (attribute.is_none()) return;
    if (!attribute.is_string()) {
      keys_.push_back(attribute);
      return;
    }
    std::string_view rest = attribute.text();
    while (true) {
      runtime.budget.step();
      const std::size_t dot = rest.find('.');
      keys_.push_back(key(runtime, rest.substr(0, dot)));
      if (dot == std::string_view::npos) return;
      rest.remove_prefix(dot + 1);
    }
  }

  Value get(Runtime& runtime, Value value) const {
    for (const Value& part : keys_) {
      runtime.budget.step();
      value = item(runtime, value, part);
      if (value.is_undefined() && !otherwise_.is_none()) value = otherwise_;
    }
    return value;
  }

 private:
  static Value key(Runtime& runtime, std::string_view part) {
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    if (digits) {
      if (auto number = parse_integer(part, 10)) return runtime.big(std::move(*number));
    }
    return runtime.string(part);
  }

  std::vector<Value> keys_;
  Value otherwise_;
};

Value lowered(Runtime& runtime, const Value& value) {
  if (!value.is_string()) return value;
  runtime.budget.work(value.text().size() * 8);
  return runtime.string(unicode::lower(value.text()));
}

struct Keyed {
  Value key, value;
};

void sort_by_key(Runtime& runtime, std::vector<Keyed>& entries, bool reverse) {
  runtime.budget.expect(entries.size() * 2 * sizeof(Keyed));
  std::stable_sort(entries.begin(), entries.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(runtime, b.key, a.key) : less(runtime, a.key, b.key);
  });
}

std::vector<Value> values_of(std::vector<Keyed> entries) {
  std::vector<Value> values;
  values.reserve(entries.size());
  for (Keyed& entry : entries) values.push_back(std::move(entry.value));
  return values;
}

Value abs_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is(Kind::real)) return Value::real(std::fabs(subject.as_real()));
  if (!subject.is_integer()) raise("bad operand type for abs(): '{}'", type_name(subject));
  return to_big(subject).is_negative() ? negative(runtime, subject) : positive(runtime, subject);
}

Value attr(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("attr", arguments, {"name"}, 1);
  const Value name = as_string(runtime, given[0]);
  // Only a dict's attributes, not its entries.
  if (subject.is(Kind::dict) && !method(runtime, subject, name.text())) {
    return runtime.undefined(fmt::format("'dict object' has no attribute {}", jinja::quoted(name.text())));
  }
  return attribute(runtime, subject, name.text());
}

Value batch(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("batch", arguments, {"linecount", "fill_with"}, 1);
  const std::int64_t line = given.integer(0, 0);
  std::vector<Value> rows;
  std::vector<Value> row;
  for (Value& value : to_vector(runtime, subject)) {
    runtime.budget.step();
    if (static_cast<std::int64_t>(row.size()) == line) {
      rows.push_back(runtime.list(std::move(row)));
      row = {};
    }
    row.push_back(std::move(value));
  }
  if (!row.empty()) {
    if (const Value fill = given.or_none(1); !fill.is_none()) {
      while (static_cast<std::int64_t>(row.size()) < line) {
        runtime.budget.step();
        runtime.budget.expect(row.size() * 2 * sizeof(Value));
        row.push_back(fill);
      }
    }
    rows.push_back(runtime.list(std::move(row)));
  }
  return from_items(runtime, std::move(rows));
}

Value slice_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("slice", arguments, {"slices", "fill_with"}, 1);
  const std::vector<Value> items = to_vector(runtime, subject);
  const std::int64_t slices = given.integer(0, 1);
  if (slices == 0) raise("integer division or modulo by zero");
  const Value fill = given.or_none(1);
  const auto size = static_cast<std::int64_t>(items.size());
  std::vector<Value> columns;
  std::int64_t begin = 0;
  for (std::int64_t n = 0; n < slices; ++n) {
    runtime.budget.step();
    runtime.budget.expect(columns.size() * 2 * sizeof(Value));
    const bool longer = n < size % slices;
    const std::int64_t end = begin + size / slices + (longer ? 1 : 0);
    std::vector<Value> column(items.begin() + begin, items.begin() + end);
    if (!fill.is_none() && !longer) column.push_back(fill);
    columns.push_back(runtime.list(std::move(column)));
    begin = end;
  }
  return from_items(runtime, std::move(columns));
}

template <std::string (*function)(std::string_view), bool keeps_markup = true>
Value mapped(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const Value text = as_string(runtime, subject);
  runtime.budget.expect(text.text().size() * 3);
  runtime.budget.work(text.text().size() * 8);
  const Value result = runtime.string(function(text.text()));
  return keeps_markup && text.is_markup() ? marked(runtime, result) : result;
}

// A word starts after white space, a hyphen or an opening bracket.
std::string word_title(std::string_view text) {
  std::string out;
  std::size_t begin = 0;
  const auto flush = [&](std::size_t end) {
    if (begin >= end) return;
    const std::size_t head = begin + unicode::width(text[begin]);
    out += unicode::upper(text.substr(begin, head - begin));
    out += unicode::lower(text.substr(head, end - head));
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const char32_t c = unicode::next(text, at);
    const bool separates = c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<' || unicode::is_space(c);
    if (!separates) continue;
    flush(here);
    out.append(text, here, at - here);
    begin = at;
  }
  flush(text.size());
  return out;
}

Value center(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("center", arguments, {"width"});
  const Value text = as_string(runtime, subject);
  const Value result = runtime.string(centered(runtime, text.string(), given.integer(0, 80), " "));
  return text.is_markup() ? marked(runtime, result) : result;
}

Value default_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("default", arguments, {"default_value", "boolean"});
  const bool replace = subject.is_undefined() || (given.flag(runtime, 1, false) && !truth(runtime, subject));
  if (!replace) return subject;
  return given.has(0) ? given[0] : runtime.string("");
}

Value dictsort(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = given.has(1) ? str(runtime, given[1]) : "key";
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is(Kind::dict)) raise("'{}' object has no attribute 'items'", type_name(subject));
  const bool case_sensitive = given.flag(runtime, 0, false);
  std::vector<Keyed> entries;
  for (const auto& [key, value] : subject.dict().entries) {
    runtime.budget.step();
    const Value& by_this = by == "key" ? key : value;
    entries.push_back({case_sensitive ? by_this : lowered(runtime, by_this), runtime.tuple({key, value})});
  }
  sort_by_key(runtime, entries, given.flag(runtime, 2, false));
  return runtime.list(values_of(std::move(entries)));
}

Value escape(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return runtime.markup(html_escaped(runtime, subject));
}

Value forceescape(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return runtime.markup(html_escaped(runtime, std::string_view(str(runtime, subject))));
}

Value safe(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return marked(runtime, as_string(runtime, subject));
}

Value filesizeformat(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("filesizeformat", arguments, {"binary"});
  if (subject.is_undefined()) fail_undefined(subject);
  std::optional<double> bytes;
  if (subject.is_string()) bytes = parse_real(subject.text());
  if (subject.is_number()) bytes = to_double(subject);
  if (!bytes || !std::isfinite(*bytes)) raise("filesizeformat: '{}' is no number of bytes", str(runtime, subject));
  const bool binary = given.flag(runtime, 0, false);
  const double base = binary ? 1024.0 : 1000.0;
  if (*bytes == 1.0) return runtime.string("1 Byte");
  if (*bytes < base) return runtime.string(BigInt::from_double(*bytes).to_string() + " Bytes");
  constexpr std::string_view kPrefixes = "kMGTPEZY";
  double unit = base * base;
  std::size_t prefix = 0;
  for (; prefix + 1 < kPrefixes.size() && *bytes >= unit; ++prefix) unit *= base;
  const char letter = binary && prefix == 0 ? 'K' : kPrefixes[prefix];
  return runtime.string(fmt::format("{:.1f} {}{}", base * *bytes / unit, letter, binary ? "iB" : "B"));
}

Value first(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (auto value = iterate(runtime, subject)->next(runtime)) return *value;
  return runtime.undefined("No first item, sequence was empty.");
}

Value last(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is(Kind::iterator)) raise("'{}' object is not reversible", type_name(subject));
  const std::vector<Value> items = to_vector(runtime, subject);
  return items.empty() ? runtime.undefined("No last item, sequence was empty.") : items.back();
}

// Empty where float() raises a TypeError or a ValueError.
std::optional<double> python_float(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_string()) return parse_real(value.text());
  if (!value.is_number()) return std::nullopt;
  const double result = to_double(value);
  if (value.is(Kind::big) && std::isinf(result)) raise("int too large to convert to float");
  return result;
}

Value float_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("float", arguments, {"default"});
  if (subject.is_string()) runtime.budget.work(subject.text().size() * 8);
  if (const auto number = python_float(subject)) return Value::real(*number);
  return given.has(0) ? given[0] : Value::real(0.0);
}

Value int_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("int", arguments, {"default", "base"});
  const std::int64_t base = given.integer(1, 10);
  if (subject.is_integer()) return positive(runtime, subject);
  if (subject.is(Kind::real) && std::isinf(subject.as_real())) raise("cannot convert float infinity to integer");
  if (subject.is_string()) {
    runtime.budget.work(subject.text().size() * 64);
    if (base == 0 || (base >= 2 && base <= 36)) {
      if (auto number = parse_integer(subject.text(), static_cast<int>(base))) return runtime.big(std::move(*number));
    }
  }
  const auto number = python_float(subject);
  if (number && std::isfinite(*number)) return runtime.big(BigInt::from_double(*number));
  return given.has(0) ? given[0] : Value::integer(0);
}

Value format_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Value format = as_string(runtime, subject);
  if (arguments.named.empty()) {
    return arithmetic(runtime, Operator::modulo, format, runtime.tuple(arguments.positional));
  }
  if (!arguments.positional.empty()) raise("can't handle positional and keyword arguments at the same time");
  std::vector<Dict::Entry> entries;
  for (const auto& [name, value] : arguments.named) entries.emplace_back(runtime.string(name), value);
  return arithmetic(runtime, Operator::modulo, format, runtime.dict(std::move(entries)));
}

Value groupby(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const bool case_sensitive = given.flag(runtime, 2, false);
  const Path path(runtime, given[0], given.or_none(1));
  std::vector<Keyed> entries;
  for (Value& value : to_vector(runtime, subject)) {
    const Value key = path.get(runtime, value);
    entries.push_back({case_sensitive ? key : lowered(runtime, key), std::move(value)});
  }
  sort_by_key(runtime, entries, false);
  std::vector<Value> groups;
  for (std::size_t begin = 0; begin < entries.size();) {
    std::vector<Value> members;
    std::size_t end = begin;
    for (; end < entries.size() && equal(runtime, entries[begin].key, entries[end].key); ++end) {
      members.push_back(entries[end].value);
    }
    if (end == begin) members.push_back(entries[end++].value);  // a key that does not even equal itself
    // The name that is shown keeps its case.
    groups.push_back(runtime.tuple({path.get(runtime, entries[begin].value), runtime.list(std::move(members))}, true));
    begin = end;
  }
  return runtime.list(std::move(groups));
}

std::vector<Value> lines_of(Runtime& runtime, const Value& text) {
  return call_method(runtime, text, "splitlines", {}).items();
}

Value indent(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("indent", arguments, {"width", "first", "blank"});
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_string()) raise("unsupported operand type(s) for +=: '{}' and 'str'", type_name(subject));
  std::string indention;
  if (given.has(0) && given[0].is_string()) {
    indention = given[0].text();
  } else {
    indention = repeated_text(runtime, " ", given.integer(0, 4));
  }
  const bool blank = given.flag(runtime, 2, false);
  TextBuilder out(runtime);
  if (given.flag(runtime, 1, false)) out.append(indention);
  bool is_first = true;
  for (const Value& line : lines_of(runtime, runtime.string(subject.text() + "\n"))) {
    runtime.budget.step();
    if (!is_first) {
      out.append("\n");
      if (blank || !line.text().empty()) out.append(indention);
    }
    is_first = false;
    out.append(line.text());
  }
  return subject.is_markup() ? runtime.markup(out.take()) : runtime.string(out.take());
}

Value items(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is_undefined()) return from_items(runtime, {});
  if (!subject.is(Kind::dict)) raise("Can only get item pairs from a mapping.");
  const Value view(Kind::dict_view, runtime.make<DictView>(subject, DictView::Part::items));
  return from_items(runtime, to_vector(runtime, view));
}

Value join(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("join", arguments, {"d", "attribute"});
  const std::string separator = given.has(0) ? str(runtime, given[0]) : std::string();
  const Path path(runtime, given.or_none(1));
  TextBuilder out(runtime);
  bool is_first = true;
  const auto source = iterate(runtime, subject);
  while (const auto value = source->next(runtime)) {
    runtime.budget.step();
    if (!is_first) out.append(separator);
    is_first = false;
    out.append(str(runtime, path.get(runtime, *value)));
  }
  return runtime.string(out.take());
}

Value length_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const auto size = length(runtime, subject);
  if (!size) raise("object of type '{}' has no len()", type_name(subject));
  return Value::integer(static_cast<std::int64_t>(*size));
}

Value list(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return runtime.list(to_vector(runtime, subject));
}

Value map(Runtime& runtime, const Value& subject, Arguments& arguments) {
  if (!truth(runtime, subject)) return from_items(runtime, {});
  const std::uint32_t depth = depth_of(subject, arguments);
  const bool by_attribute = arguments.positional.empty() && std::ranges::any_of(arguments.named, [](const auto& named) {
                              return named.first == "attribute";
                            });
  if (by_attribute) {
    const Parameters given("map", arguments, {"attribute", "default"}, 1);
    return from_body(runtime, depth,
                     [source = iterate(runtime, subject),
                      path = Path(runtime, given[0], given.or_none(1))](Runtime& running) -> std::optional<Value> {
                       const auto value = source->next(running);
                       if (!value) return std::nullopt;
                       return path.get(running, *value);
                     });
  }
  if (arguments.positional.empty()) raise("map requires a filter argument");
  const std::string name = str(runtime, arguments.positional[0]);
  const Filter filter = find_filter(name);
  if (filter == nullptr) raise("No filter named {}.", jinja::quoted(name));
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  return from_body(runtime, depth,
                   [source = iterate(runtime, subject), filter, rest](Runtime& running) -> std::optional<Value> {
                     const auto value = source->next(running);
                     if (!value) return std::nullopt;
                     Arguments copy = rest;
                     return filter(running, *value, copy);
                   });
}

template <bool largest>
Value extreme(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = given.flag(runtime, 0, false);
  const Path path(runtime, given.or_none(1));
  std::optional<Keyed> best;
  const auto source = iterate(runtime, subject);
  while (const auto value = source->next(runtime)) {
    runtime.budget.step();
    Value key = path.get(runtime, *value);
    if (!case_sensitive) key = lowered(runtime, key);
    const bool better = !best || (largest ? less(runtime, best->key, key, ">") : less(runtime, key, best->key));
    if (better) best = Keyed{std::move(key), *value};
  }
  return best ? best->value : runtime.undefined("No aggregated item, sequence was empty.");
}

// Like the one that pprint has: a dict's entries are sorted by their keys.
Value with_sorted_keys(Runtime& runtime, const Value& value) {
  const DepthGuard guard(runtime);
  runtime.budget.step();
  if (value.is_sequence()) {
    std::vector<Value> parts;
    for (const Value& part : value.items()) parts.push_back(with_sorted_keys(runtime, part));
    return value.is(Kind::list) ? runtime.list(std::move(parts)) : runtime.tuple(std::move(parts));
  }
  if (!value.is(Kind::dict)) return value;
  std::vector<Dict::Entry> entries;
  for (const auto& [key, part] : value.dict().entries) entries.emplace_back(key, with_sorted_keys(runtime, part));
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const auto& a, const auto& b) { return less(runtime, a.first, b.first); });
  return runtime.dict(std::move(entries));
}

Value pprint(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const std::string shown = repr(runtime, with_sorted_keys(runtime, subject));
  constexpr std::size_t kLine = 80;
  const bool breaks = subject.is_string() || subject.is_sequence() || subject.is(Kind::dict);
  if (breaks && unicode::count(shown) > kLine) {
    raise("pprint: values that take more than one line of {} characters are not supported; use tojson", kLine);
  }
  return runtime.string(shown);
}

Value random(Runtime&, const Value&, Arguments&) {
  raise("the filter 'random' is not supported: the same conversation must always give the same text");
}

Value replace(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("replace", arguments, {"old", "new", "count"}, 2);
  const std::int64_t most = given.or_none(2).is_none() ? -1 : given.integer(2, -1);
  const std::string text = str(runtime, subject);
  return runtime.string(replaced(runtime, text, str(runtime, given[0]), str(runtime, given[1]), most));
}

// What Jinja has and no chat template needs, but for which an unknown name would be the wrong complaint.
Value unsupported(Runtime&, const Value&, Arguments&) {
  raise("the filters 'striptags', 'urlize' and 'wordwrap' are not supported");
}

Value reverse(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is_string()) return slice(runtime, subject, Value(), Value(), Value::integer(-1));
  if (!is_iterable(subject)) raise("argument must be iterable");
  std::vector<Value> values = to_vector(runtime, subject);
  std::reverse(values.begin(), values.end());
  if (subject.is(Kind::iterator)) return runtime.list(std::move(values));
  return from_items(runtime, std::move(values), "list_reverseiterator");
}

// round(number, digits) of a float: the decimal that is nearest to the exact value, ties to even.
double rounded(double value, std::int64_t digits) {
  if (!std::isfinite(value) || value == 0.0 || digits > 323) return value;
  if (digits < -308) return 0.0 * value;
  if (digits < 0) {
    const double power = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / power) * power;
  }
  char buffer[700];
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), value);
  return std::strtod(buffer, nullptr);
}

Value rounded_integer(Runtime& runtime, const Value& value, std::int64_t digits) {
  if (digits >= 0) return positive(runtime, value);
  constexpr std::int64_t kMostDigits = 4300;
  if (digits < -kMostDigits) return Value::integer(0);
  const Value unit = arithmetic(runtime, Operator::power, Value::integer(10), Value::integer(-digits));
  Value quotient = arithmetic(runtime, Operator::floor_divide, value, unit);
  const Value rest = arithmetic(runtime, Operator::modulo, value, unit);
  const Value twice = arithmetic(runtime, Operator::add, rest, rest);
  if (less(runtime, unit, twice) || (equal(runtime, unit, twice) && to_big(quotient).is_odd())) {
    quotient = arithmetic(runtime, Operator::add, quotient, Value::integer(1));
  }
  return arithmetic(runtime, Operator::multiply, quotient, unit);
}

Value round(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("round", arguments, {"precision", "method"});
  const std::int64_t digits = given.integer(0, 0);
  const std::string how = given.has(1) ? str(runtime, given[1]) : "common";
  if (how != "common" && how != "ceil" && how != "floor") raise("method must be common, ceil or floor");
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_number()) raise("type {} doesn't define __round__ method", type_name(subject));
  if (how == "common") {
    if (subject.is_integer()) return rounded_integer(runtime, subject, digits);
    return Value::real(rounded(subject.as_real(), digits));
  }
  const Value scale = arithmetic(runtime, Operator::power, Value::integer(10), Value::integer(digits));
  Value scaled = arithmetic(runtime, Operator::multiply, subject, scale);
  if (scaled.is(Kind::real)) {
    const double whole = how == "ceil" ? std::ceil(scaled.as_real()) : std::floor(scaled.as_real());
    if (std::isnan(whole)) raise("cannot convert float NaN to integer");
    if (std::isinf(whole)) raise("cannot convert float infinity to integer");
    scaled = runtime.big(BigInt::from_double(whole));
  }
  return arithmetic(runtime, Operator::divide, scaled, scale);
}

Value string_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return as_string(runtime, subject);
}

template <bool wanted, bool by_attribute>
Value select(Runtime& runtime, const Value& subject, Arguments& arguments) {
  if (!truth(runtime, subject)) return from_items(runtime, {});
  const std::uint32_t depth = depth_of(subject, arguments);
  Arguments rest = arguments;
  Value attribute_name;
  if (by_attribute) {
    if (rest.positional.empty()) raise("Missing parameter for attribute name");
    attribute_name = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  Test test = nullptr;
  if (!rest.positional.empty()) {
    const std::string name = str(runtime, rest.positional[0]);
    test = find_test(name);
    if (test == nullptr) raise("No test named {}.", jinja::quoted(name));
    rest.positional.erase(rest.positional.begin());
  }
  return from_body(runtime, depth,
                   [source = iterate(runtime, subject), path = Path(runtime, attribute_name), test,
                    rest](Runtime& running) -> std::optional<Value> {
                     while (auto value = source->next(running)) {
                       running.budget.step();
                       const Value examined = path.get(running, *value);
                       Arguments copy = rest;
                       const bool holds = test == nullptr ? truth(running, examined) : test(running, examined, copy);
                       if (holds == wanted) return value;
                     }
                     return std::nullopt;
                   });
}

Value sort(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = given.flag(runtime, 1, false);
  std::vector<Path> paths;
  if (const Value attribute_name = given.or_none(2); attribute_name.is_string()) {
    std::string_view rest = attribute_name.text();
    while (true) {
      const std::size_t comma = rest.find(',');
      paths.emplace_back(runtime, runtime.string(rest.substr(0, comma)));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    paths.emplace_back(runtime, attribute_name);
  }
  std::vector<Keyed> entries;
  for (Value& value : to_vector(runtime, subject)) {
    std::vector<Value> keys;
    for (const Path& path : paths) {
      const Value key = path.get(runtime, value);
      keys.push_back(case_sensitive ? key : lowered(runtime, key));
    }
    entries.push_back({runtime.list(std::move(keys)), std::move(value)});
  }
  sort_by_key(runtime, entries, given.flag(runtime, 0, false));
  return runtime.list(values_of(std::move(entries)));
}

Value sum(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("sum", arguments, {"attribute", "start"});
  const Path path(runtime, given.or_none(0));
  Value total = given.has(1) ? given[1] : Value::integer(0);
  if (total.is_string()) raise("sum() can't sum strings [use ''.join(seq) instead]");
  const auto source = iterate(runtime, subject);
  while (const auto value = source->next(runtime)) {
    runtime.budget.step();
    total = arithmetic(runtime, Operator::add, total, path.get(runtime, *value));
  }
  return total;
}

Value tojson(Runtime& runtime, const Value& subject, Arguments& arguments) {
  return runtime.string(to_json(runtime, subject, arguments));
}

Value trim(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("trim", arguments, {"chars"});
  return call_method(runtime, as_string(runtime, subject), "strip", {given.or_none(0)});
}

Value truncate(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("truncate", arguments, {"length", "killwords", "end", "leeway"});
  constexpr std::int64_t kLength = 255;
  constexpr std::int64_t kLeeway = 5;
  const std::int64_t most = given.integer(0, kLength);
  const Value end = given.has(2) ? as_string(runtime, given[2]) : runtime.string("...");
  const std::int64_t leeway = given.or_none(3).is_none() ? kLeeway : given.integer(3, kLeeway);
  const auto end_length = static_cast<std::int64_t>(end.string().length);
  if (most < end_length) raise("expected length >= {}, got {}", end_length, most);
  if (leeway < 0) raise("expected leeway >= 0, got {}", leeway);
  const auto known = length(runtime, subject);
  if (!known) raise("object of type '{}' has no len()", type_name(subject));
  const auto size = static_cast<std::int64_t>(*known);
  if (size <= most || size - most <= leeway) return subject;
  if (!subject.is_string()) raise("truncate: expected a string, not {}", type_name(subject));
  runtime.budget.work(subject.text().size());
  std::string kept = subject.text().substr(0, unicode::offset(subject.text(), static_cast<std::size_t>(most - end_length)));
  if (!given.flag(runtime, 1, false)) kept.resize(std::min(kept.rfind(' '), kept.size()));
  if (subject.is_markup()) return runtime.markup(kept + html_escaped(runtime, end));
  return runtime.string(kept + end.text());
}

Value unique(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("unique", arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = given.flag(runtime, 0, false);
  const Path path(runtime, given.or_none(1));
  std::unordered_multimap<std::size_t, Value> seen;
  std::vector<Value> kept;
  for (Value& value : to_vector(runtime, subject)) {
    Value key = path.get(runtime, value);
    if (!case_sensitive) key = lowered(runtime, key);
    const std::size_t hash = hash_of(runtime, key);
    const auto [begin, end] = seen.equal_range(hash);
    const bool known = std::any_of(begin, end, [&](const auto& entry) {
      runtime.budget.step();
      return equal(runtime, entry.second, key);
    });
    if (known) continue;
    seen.emplace(hash, std::move(key));
    kept.push_back(std::move(value));
  }
  return from_items(runtime, std::move(kept));
}

std::string url_quoted(Runtime& runtime, const Value& value, bool for_query) {
  std::string out;
  const std::string text = str(runtime, value);
  runtime.budget.work(text.size() * 3);
  runtime.budget.expect(text.size() * 3);
  for (const char c : text) {
    const bool alphanumeric = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (alphanumeric || c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query)) {
      out += c;
    } else if (c == ' ' && for_query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  return out;
}

Value urlencode(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is_string() || !is_iterable(subject)) return runtime.string(url_quoted(runtime, subject, false));
  Value pairs = subject;
  if (subject.is(Kind::dict)) pairs = {Kind::dict_view, runtime.make<DictView>(subject, DictView::Part::items)};
  TextBuilder out(runtime);
  bool is_first = true;
  for (const Value& entry : to_vector(runtime, pairs)) {
    const std::vector<Value> pair = to_vector(runtime, entry);
    if (pair.size() != 2) raise("urlencode: expected pairs of a key and a value, not {} values", pair.size());
    if (!is_first) out.append("&");
    is_first = false;
    out.append(url_quoted(runtime, pair[0], true));
    out.append("=");
    out.append(url_quoted(runtime, pair[1], true));
  }
  return runtime.string(out.take());
}

Value wordcount(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const std::string text = str(runtime, subject);
  runtime.budget.work(text.size() * 8);
  std::int64_t words = 0;
  bool inside = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    const bool in_word = c == U'_' || unicode::is_letter(c) || unicode::is_number(c);
    if (in_word && !inside) ++words;
    inside = in_word;
  }
  return Value::integer(words);
}

Value xmlattr(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("xmlattr", arguments, {"autospace"});
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is(Kind::dict)) raise("'{}' object has no attribute 'items'", type_name(subject));
  TextBuilder out(runtime);
  bool space = given.flag(runtime, 0, true);
  for (const auto& [key, value] : subject.dict().entries) {
    runtime.budget.step();
    if (value.is_none() || value.is_undefined()) continue;
    if (!key.is_string()) raise("expected string or bytes-like object, got '{}'", type_name(key));
    if (key.text().find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      raise("Invalid character in attribute name: {}", jinja::quoted(key.text()));
    }
    if (space) out.append(" ");
    space = true;
    out.append(html_escaped(runtime, key));
    out.append("=\"");
    out.append(html_escaped(runtime, value));
    out.append("\"");
  }
  return runtime.string(out.take());
}

// Jinja's generators do nothing, and find no fault, before the first value is asked for.
template <Filter filter>
Value lazily(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const std::uint32_t depth = depth_of(subject, arguments);
  auto body = [subject, rest = arguments,
               made = std::shared_ptr<Iterator>()](Runtime& running) mutable -> std::optional<Value> {
    if (!made) made = iterate(running, filter(running, subject, rest));
    return made->next(running);
  };
  return from_body(runtime, depth + 1, std::move(body));
}

struct Entry {
  std::string_view name;
  Filter filter;
};

constexpr Entry kFilters[] = {
    {"abs", abs_filter},
    {"attr", attr},
    {"batch", lazily<batch>},
    {"capitalize", mapped<unicode::capitalize>},
    {"center", center},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"filesizeformat", filesizeformat},
    {"first", first},
    {"float", float_filter},
    {"forceescape", forceescape},
    {"format", format_filter},
    {"groupby", groupby},
    {"indent", indent},
    {"int", int_filter},
    {"items", lazily<items>},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list},
    {"lower", mapped<unicode::lower>},
    {"map", lazily<map>},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"pprint", pprint},
    {"random", random},
    {"reject", lazily<select<false, false>>},
    {"rejectattr", lazily<select<false, true>>},
    {"replace", replace},
    {"reverse", reverse},
    {"round", round},
    {"safe", safe},
    {"select", lazily<select<true, false>>},
    {"selectattr", lazily<select<true, true>>},
    {"slice", lazily<slice_filter>},
    {"sort", sort},
    {"string", string_filter},
    {"striptags", unsupported},
    {"sum", sum},
    {"title", mapped<word_title, false>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"unique", lazily<unique>},
    {"upper", mapped<unicode::upper>},
    {"urlencode", urlencode},
    {"urlize", unsupported},
    {"wordcount", wordcount},
    {"wordwrap", unsupported},
    {"xmlattr", xmlattr},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* const found = std::ranges::find(kFilters, name, &Entry::name);
  return found == std::end(kFilters) ? nullptr : found->filter;
}

}  // namespace plumb::text::jinja
