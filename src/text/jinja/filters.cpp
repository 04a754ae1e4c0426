#include "text/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "text/jinja/access.h"
#include "text/jinja/call.h"
#include "text/jinja/compare.h"
#include "text/jinja/iterate.h"
#include "text/jinja/json.h"
#include "text/jinja/methods.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"
#include "text/jinja/tests.h"
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

Value generator(Runtime& runtime, std::vector<Value> items) {
  return {Kind::iterator, iterate(runtime, runtime.list(std::move(items)))};
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
    if (digits) return Value::integer(parse_integer(part, 10).value_or(0));
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

Value take_first(Arguments& arguments) {
  Value first = std::move(arguments.positional.front());
  arguments.positional.erase(arguments.positional.begin());
  return first;
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

Value abs_filter(Runtime&, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is(Kind::real)) return Value::real(std::fabs(subject.as_real()));
  if (subject.is(Kind::large)) return subject;
  if (!subject.is_integer()) raise("bad operand type for abs(): '{}'", type_name(subject));
  return subject.as_integer() < 0 ? negative(subject) : positive(subject);
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
  return generator(runtime, std::move(rows));
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
  return generator(runtime, std::move(columns));
}

template <std::string (*function)(std::string_view)>
Value mapped(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  const Value text = as_string(runtime, subject);
  runtime.budget.expect(text.text().size() * 3);
  runtime.budget.work(text.text().size() * 8);
  return runtime.string(function(text.text()));
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
  return runtime.string(centered(runtime, as_string(runtime, subject).string(), given.integer(0, 80), " "));
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

Value safe(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return runtime.marked(str(runtime, subject));
}

Value escape(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return runtime.marked(html_escaped(runtime, as_string(runtime, subject).string()));
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

// The result of float(); empty where Python raises TypeError or ValueError.
std::optional<double> python_float(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_number()) return to_double(value);
  if (!value.is_string() && !value.is(Kind::large)) return std::nullopt;
  runtime.budget.work(value.text().size() * 8);
  return parse_real(value.text());
}

Value float_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("float", arguments, {"default"});
  if (const auto number = python_float(runtime, subject)) return Value::real(*number);
  return given.has(0) ? given[0] : Value::real(0.0);
}

Value int_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("int", arguments, {"default", "base"});
  const std::int64_t base = given.integer(1, 10);
  if (subject.is_integer()) return positive(subject);
  if (subject.is(Kind::large)) return subject;
  if (subject.is_string() && (base == 0 || (base >= 2 && base <= 36))) {
    runtime.budget.work(subject.text().size() * 8);
    if (const auto number = parse_integer(subject.text(), static_cast<int>(base))) return Value::integer(*number);
  }
  const auto number = python_float(runtime, subject);
  if (number && (std::isfinite(*number) || subject.is(Kind::real))) return Value::integer(to_integer(*number));
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
    if (end == begin) members.push_back(entries[end++].value);  // a key that does not equal itself, such as NaN
    // The group's name keeps its case.
    std::vector<Value> group{path.get(runtime, entries[begin].value), runtime.list(std::move(members))};
    groups.push_back(runtime.sequence(Kind::tuple, std::move(group), "group"));
    begin = end;
  }
  return runtime.list(std::move(groups));
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
  TextBuilder out(runtime.budget);
  if (given.flag(runtime, 1, false)) out.append(indention);
  bool is_first = true;
  const std::string text = subject.text() + "\n";
  for (const std::string_view line : lines_of(runtime, text, false)) {
    runtime.budget.step();
    if (!is_first) {
      out.append("\n");
      if (blank || !line.empty()) out.append(indention);
    }
    is_first = false;
    out.append(line);
  }
  return runtime.string(out.take());
}

Value items(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is_undefined()) return generator(runtime, {});
  if (!subject.is(Kind::dict)) raise("Can only get item pairs from a mapping.");
  return call_method(runtime, subject, "items", {});
}

Value join(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("join", arguments, {"d", "attribute"});
  const std::string separator = given.has(0) ? str(runtime, given[0]) : std::string();
  const Path path(runtime, given.or_none(1));
  TextBuilder out(runtime.budget);
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
  if (!truth(runtime, subject)) return generator(runtime, {});
  std::vector<Value> results;
  const auto source = iterate(runtime, subject);
  const auto append_all = [&](auto result_of) {
    while (const auto value = source->next(runtime)) {
      runtime.budget.step();
      results.push_back(result_of(*value));
    }
    return generator(runtime, std::move(results));
  };
  const bool by_attribute = arguments.positional.empty() && std::ranges::any_of(arguments.named, [](const auto& named) {
                              return named.first == "attribute";
                            });
  if (by_attribute) {
    const Parameters given("map", arguments, {"attribute", "default"}, 1);
    const Path path(runtime, given[0], given.or_none(1));
    return append_all([&](const Value& value) { return path.get(runtime, value); });
  }
  if (arguments.positional.empty()) raise("map requires a filter argument");
  const std::string name = str(runtime, take_first(arguments));
  const Filter filter = find_filter(name);
  if (filter == nullptr) fail_filter(name);
  return append_all([&](const Value& value) {
    Arguments copy = arguments;
    return filter(runtime, value, copy);
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

Value replace(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("replace", arguments, {"old", "new", "count"}, 2);
  const std::int64_t most = given.or_none(2).is_none() ? -1 : given.integer(2, -1);
  const std::string text = str(runtime, subject);
  return runtime.string(replaced(runtime, text, str(runtime, given[0]), str(runtime, given[1]), most));
}

Value reverse(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  if (subject.is_string()) return slice(runtime, subject, Value(), Value(), Value::integer(-1));
  if (!is_iterable(subject)) raise("argument must be iterable");
  std::vector<Value> values = to_vector(runtime, subject);
  std::reverse(values.begin(), values.end());
  return subject.is(Kind::iterator) ? runtime.list(std::move(values)) : generator(runtime, std::move(values));
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

// To a multiple of 10^-digits, halves to the even multiple.
Value rounded_integer(std::int64_t value, std::int64_t digits) {
  if (digits >= 0) return Value::integer(value);
  constexpr std::int64_t most_digits = 18;  // of a power of ten in 64 bits
  if (digits < -most_digits) raise("round() of an integer to more than {} digits before the point", most_digits);
  std::int64_t unit = 1;
  for (; digits < 0; ++digits) unit *= 10;
  const std::int64_t rest = (value % unit + unit) % unit;
  const std::int64_t below = value - rest;
  const bool up = rest > unit / 2 || (rest == unit / 2 && below / unit % 2 != 0);
  return Value::integer(up ? below + unit : below);
}

Value round(Runtime& runtime, const Value& subject, Arguments& arguments) {
  const Parameters given("round", arguments, {"precision", "method"});
  const std::int64_t digits = given.integer(0, 0);
  const std::string how = given.has(1) ? str(runtime, given[1]) : "common";
  if (how != "common" && how != "ceil" && how != "floor") raise("method must be common, ceil or floor");
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_number()) raise("type {} doesn't define __round__ method", type_name(subject));
  if (how == "common") {
    if (subject.is_integer()) return rounded_integer(subject.as_integer(), digits);
    return Value::real(rounded(subject.as_real(), digits));
  }
  const Value scale = arithmetic(runtime, Operator::power, Value::integer(10), Value::integer(digits));
  Value scaled = arithmetic(runtime, Operator::multiply, subject, scale);
  if (scaled.is(Kind::real)) {
    scaled = Value::integer(to_integer(how == "ceil" ? std::ceil(scaled.as_real()) : std::floor(scaled.as_real())));
  }
  return arithmetic(runtime, Operator::divide, scaled, scale);
}

Value string_filter(Runtime& runtime, const Value& subject, Arguments& arguments) {
  no_arguments(arguments);
  return as_string(runtime, subject);
}

template <bool wanted, bool by_attribute>
Value select(Runtime& runtime, const Value& subject, Arguments& arguments) {
  if (!truth(runtime, subject)) return generator(runtime, {});
  if (by_attribute && arguments.positional.empty()) raise("Missing parameter for attribute name");
  const Path path(runtime, by_attribute ? take_first(arguments) : Value());
  Test test = nullptr;
  if (!arguments.positional.empty()) {
    const std::string name = str(runtime, take_first(arguments));
    test = find_test(name);
    if (test == nullptr) fail_test(name);
  }
  std::vector<Value> kept;
  const auto source = iterate(runtime, subject);
  while (auto value = source->next(runtime)) {
    runtime.budget.step();
    const Value examined = path.get(runtime, *value);
    Arguments copy = arguments;
    const bool holds = test == nullptr ? truth(runtime, examined) : test(runtime, examined, copy);
    if (holds == wanted) kept.push_back(std::move(*value));
  }
  return generator(runtime, std::move(kept));
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
  constexpr std::int64_t usual_length = 255;
  constexpr std::int64_t usual_leeway = 5;
  const std::int64_t most = given.integer(0, usual_length);
  const Value end = given.has(2) ? as_string(runtime, given[2]) : runtime.string("...");
  const std::int64_t leeway = given.or_none(3).is_none() ? usual_leeway : given.integer(3, usual_leeway);
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
  return generator(runtime, std::move(kept));
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

// A filter that is a generator in Jinja does nothing, not even raise errors, until its first value is needed.
template <Filter filter>
Value lazily(Runtime& runtime, const Value& subject, Arguments& arguments) {
  std::uint32_t depth = subject.depth();
  for (const Value& value : arguments.positional) depth = std::max(depth, value.depth());
  for (const auto& [name, value] : arguments.named) depth = std::max(depth, value.depth());
  auto next = [subject, rest = arguments,
               made = std::shared_ptr<Iterator>()](Runtime& running) mutable -> std::optional<Value> {
    if (!made) made = iterate(running, filter(running, subject, rest));
    return made->next(running);
  };
  return runtime.iterator(depth, std::move(next));
}

struct Entry {
  std::string_view name;
  Filter filter;
};

// Jinja's other filters: for HTML, and those with random results.
constexpr std::string_view unsupported[] = {"filesizeformat", "forceescape", "pprint",   "random", "striptags",
                                            "urlencode",      "urlize",      "wordwrap", "xmlattr"};

constexpr Entry filters[] = {
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
    {"first", first},
    {"float", float_filter},
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
    {"sum", sum},
    {"title", mapped<word_title>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"unique", lazily<unique>},
    {"upper", mapped<unicode::upper>},
    {"wordcount", wordcount},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* const found = std::ranges::find(filters, name, &Entry::name);
  return found == std::end(filters) ? nullptr : found->filter;
}

void fail_filter(std::string_view name) {
  if (std::ranges::find(unsupported, name) == std::end(unsupported)) raise("No filter named {}.", jinja::quoted(name));
  raise("the filter '{}' is not supported", name);
}

}  // namespace plumb::text::jinja
