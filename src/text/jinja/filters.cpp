#include "text/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/jinja/access.h"
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

// Jinja's soft_str.
Value as_string(Runtime& runtime, const Value& value) {
  return value.is_string() ? value : runtime.string(str(runtime, value));
}

// Jinja makes these values one at a time, here they are all made at once. Both can be read only once.
Value generator(Runtime& runtime, std::vector<Value> items) {
  return {Kind::iterator, iterate(runtime, runtime.list(std::move(items)))};
}

// What a filter looks at in each value: the value itself, or "a.b.0", its `attribute` argument.
class Path {
 public:
  Path(Runtime& runtime, const Value& attribute, bool case_sensitive = true, Value otherwise = Value())
      : case_sensitive_(case_sensitive), otherwise_(std::move(otherwise)) {
    if (attribute.is_none()) return;
    if (!attribute.is_string()) {
      keys_.push_back(attribute);
      return;
    }
    std::string_view rest = attribute.text();
    while (true) {
      runtime.budget.step();
      const std::string_view part = rest.substr(0, rest.find('.'));
      const auto index = parse_integer(part);
      keys_.push_back(index ? Value::integer(*index) : runtime.string(part));
      if (part.size() == rest.size()) return;
      rest.remove_prefix(part.size() + 1);
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

  // For comparisons: in lower case, unless case matters.
  Value key(Runtime& runtime, const Value& value) const {
    Value found = get(runtime, value);
    return found.is_string() && !case_sensitive_ ? call_method(runtime, found, "lower") : found;
  }

 private:
  std::vector<Value> keys_;
  bool case_sensitive_;
  Value otherwise_;
};

struct Keyed {
  Value key, value;
};

std::vector<Keyed> sorted(Runtime& runtime, const Value& values, const Path& path, bool reverse = false) {
  std::vector<Keyed> entries;
  for (Value& value : to_vector(runtime, values)) entries.push_back({path.key(runtime, value), std::move(value)});
  runtime.budget.expect(entries.size() * 2 * sizeof(Keyed));
  std::stable_sort(entries.begin(), entries.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(runtime, b.key, a.key) : less(runtime, a.key, b.key);
  });
  return entries;
}

std::vector<Value> values_of(std::vector<Keyed> entries) {
  std::vector<Value> values;
  values.reserve(entries.size());
  for (Keyed& entry : entries) values.push_back(std::move(entry.value));
  return values;
}

Value take_first(Arguments& arguments) {
  Value first = std::move(arguments.positional.front());
  arguments.positional.erase(arguments.positional.begin());
  return first;
}

// The str method of the same name.
Value string_method(Runtime& runtime, const Value& subject, Parameters& given) {
  return call_method(runtime, as_string(runtime, subject), given.function());
}

Value abs_filter(Runtime&, const Value& subject, Parameters&) {
  if (subject.is(Kind::real)) return Value::real(std::fabs(subject.as_real()));
  if (subject.is(Kind::large)) return subject;
  if (!subject.is_integer()) raise("bad operand type for abs(): '{}'", type_name(subject));
  return subject.as_integer() < 0 ? negative(subject) : positive(subject);
}

Value batch(Runtime& runtime, const Value& subject, Parameters& given) {
  const std::int64_t line = given.integer(0, 0);
  std::vector<Value> rows;
  std::vector<Value> row;
  for (Value& value : to_vector(runtime, subject)) {
    if (static_cast<std::int64_t>(row.size()) == line) rows.push_back(runtime.list(std::exchange(row, {})));
    row.push_back(std::move(value));
  }
  if (row.empty()) return generator(runtime, std::move(rows));
  const Value fill = given.or_none(1);
  while (!fill.is_none() && static_cast<std::int64_t>(row.size()) < line) {
    runtime.budget.step();
    runtime.budget.expect(row.size() * 2 * sizeof(Value));
    row.push_back(fill);
  }
  rows.push_back(runtime.list(std::move(row)));
  return generator(runtime, std::move(rows));
}

Value slice_filter(Runtime& runtime, const Value& subject, Parameters& given) {
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

// A word starts after white space, a hyphen or an opening bracket.
Value title(Runtime& runtime, const Value& subject, Parameters&) {
  const Value string = as_string(runtime, subject);
  const std::string_view text = string.text();
  runtime.budget.work(text.size() * 8);
  TextBuilder out(runtime.budget);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const char32_t c = unicode::next(text, at);
    const bool separates = std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos || unicode::is_space(c);
    if (!separates) continue;
    out.append(unicode::capitalize(text.substr(begin, here - begin)));
    out.append(text.substr(here, at - here));
    begin = at;
  }
  out.append(unicode::capitalize(text.substr(begin)));
  return runtime.string(out.take());
}

Value center(Runtime& runtime, const Value& subject, Parameters& given) {
  const Value width = given.has(0) ? given[0] : Value::integer(80);
  return call_method(runtime, as_string(runtime, subject), "center", {width});
}

Value default_filter(Runtime& runtime, const Value& subject, Parameters& given) {
  const bool replace = subject.is_undefined() || (given.flag(runtime, 1, false) && !truth(runtime, subject));
  if (!replace) return subject;
  return given.has(0) ? given[0] : runtime.string("");
}

Value items(Runtime& runtime, const Value& subject, Parameters&) {
  if (subject.is_undefined()) return generator(runtime, {});
  if (!subject.is(Kind::dict)) raise("Can only get item pairs from a mapping.");
  return generator(runtime, call_method(runtime, subject, "items").items());
}

Value dictsort(Runtime& runtime, const Value& subject, Parameters& given) {
  const std::string by = given.has(1) ? str(runtime, given[1]) : "key";
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is(Kind::dict)) raise("'{}' object has no attribute 'items'", type_name(subject));
  const Path path(runtime, Value::integer(by == "key" ? 0 : 1), given.flag(runtime, 0, false));
  const Value pairs = call_method(runtime, subject, "items");
  return runtime.list(values_of(sorted(runtime, pairs, path, given.flag(runtime, 2, false))));
}

Value safe(Runtime& runtime, const Value& subject, Parameters&) { return runtime.marked(str(runtime, subject)); }

Value escape(Runtime& runtime, const Value& subject, Parameters&) {
  return runtime.marked(html_escaped(runtime, as_string(runtime, subject).string()));
}

Value first(Runtime& runtime, const Value& subject, Parameters&) {
  if (auto value = iterate(runtime, subject)->next(runtime)) return *value;
  return runtime.undefined("No first item, sequence was empty.");
}

Value last(Runtime& runtime, const Value& subject, Parameters&) {
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

Value float_filter(Runtime& runtime, const Value& subject, Parameters& given) {
  if (const auto number = python_float(runtime, subject)) return Value::real(*number);
  return given.has(0) ? given[0] : Value::real(0.0);
}

Value int_filter(Runtime& runtime, const Value& subject, Parameters& given) {
  if (given.integer(1, 10) != 10) raise("another base than 10 of the filter 'int' is not supported");
  if (subject.is_integer()) return positive(subject);
  if (subject.is(Kind::large)) return subject;
  const auto whole = subject.is_string() ? parse_integer(subject.text()) : std::nullopt;
  if (whole) return Value::integer(*whole);
  const auto number = python_float(runtime, subject);
  if (number && (std::isfinite(*number) || subject.is(Kind::real))) return Value::integer(to_integer(*number));
  return given.has(0) ? given[0] : Value::integer(0);
}

Value format_filter(Runtime& runtime, const Value& subject, Parameters& given) {
  if (!given.all().named.empty()) raise("named arguments of the filter 'format' are not supported");
  return arithmetic(runtime, Operator::modulo, as_string(runtime, subject), runtime.tuple(given.all().positional));
}

Value groupby(Runtime& runtime, const Value& subject, Parameters& given) {
  const Path path(runtime, given[0], given.flag(runtime, 2, false), given.or_none(1));
  const std::vector<Keyed> entries = sorted(runtime, subject, path);
  std::vector<Value> groups;
  for (std::size_t begin = 0; begin < entries.size();) {
    std::vector<Value> members;
    std::size_t end = begin;
    do {
      members.push_back(entries[end++].value);
    } while (end < entries.size() && equal(runtime, entries[begin].key, entries[end].key));
    // The group's name keeps its case.
    std::vector<Value> group{path.get(runtime, entries[begin].value), runtime.list(std::move(members))};
    groups.push_back(runtime.sequence(Kind::tuple, std::move(group), "group"));
    begin = end;
  }
  return runtime.list(std::move(groups));
}

Value indent(Runtime& runtime, const Value& subject, Parameters& given) {
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_string()) raise("unsupported operand type(s) for +=: '{}' and 'str'", type_name(subject));
  const bool is_text = given.has(0) && given[0].is_string();
  const std::string indention = is_text ? given[0].text() : repeated_text(runtime, " ", given.integer(0, 4));
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

Value join(Runtime& runtime, const Value& subject, Parameters& given) {
  const std::string separator = given.has(0) ? str(runtime, given[0]) : std::string();
  const Path path(runtime, given.or_none(1));
  TextBuilder out(runtime.budget);
  bool is_first = true;
  for (const Value& value : to_vector(runtime, subject)) {
    if (!is_first) out.append(separator);
    is_first = false;
    out.append(str(runtime, path.get(runtime, value)));
  }
  return runtime.string(out.take());
}

Value length_filter(Runtime& runtime, const Value& subject, Parameters&) {
  const auto size = length(runtime, subject);
  if (!size) raise("object of type '{}' has no len()", type_name(subject));
  return Value::integer(static_cast<std::int64_t>(*size));
}

Value list(Runtime& runtime, const Value& subject, Parameters&) { return runtime.list(to_vector(runtime, subject)); }

Value map(Runtime& runtime, const Value& subject, Parameters& given) {
  Arguments& arguments = given.all();
  if (!truth(runtime, subject)) return generator(runtime, {});
  std::vector<Value> results = to_vector(runtime, subject);
  if (arguments.positional.empty() && !arguments.named.empty()) {
    constexpr static Builtin by_attribute{"map", nullptr, {"attribute", "default"}, 1};
    const Parameters named(by_attribute, arguments);
    const Path path(runtime, named[0], true, named.or_none(1));
    for (Value& value : results) value = path.get(runtime, value);
    return generator(runtime, std::move(results));
  }
  if (arguments.positional.empty()) raise("map requires a filter argument");
  const Builtin& filter = find_filter(str(runtime, take_first(arguments)));
  for (Value& value : results) {
    Arguments copy = arguments;
    value = invoke(runtime, filter, value, copy);
  }
  return generator(runtime, std::move(results));
}

template <bool largest>
Value extreme(Runtime& runtime, const Value& subject, Parameters& given) {
  const Path path(runtime, given.or_none(1), given.flag(runtime, 0, false));
  std::optional<Keyed> best;
  for (const Value& value : to_vector(runtime, subject)) {
    Value key = path.key(runtime, value);
    const bool better = !best || (largest ? less(runtime, best->key, key) : less(runtime, key, best->key));
    if (better) best = Keyed{std::move(key), value};
  }
  return best ? best->value : runtime.undefined("No aggregated item, sequence was empty.");
}

Value replace(Runtime& runtime, const Value& subject, Parameters& given) {
  const std::int64_t most = given.or_none(2).is_none() ? -1 : given.integer(2, -1);
  const std::string text = str(runtime, subject);
  return runtime.string(replaced(runtime, text, str(runtime, given[0]), str(runtime, given[1]), most));
}

Value reverse(Runtime& runtime, const Value& subject, Parameters&) {
  if (subject.is_string()) return slice(runtime, subject, Value(), Value(), Value::integer(-1));
  if (!is_iterable(subject)) raise("argument must be iterable");
  std::vector<Value> values = to_vector(runtime, subject);
  std::reverse(values.begin(), values.end());
  return subject.is(Kind::iterator) ? runtime.list(std::move(values)) : generator(runtime, std::move(values));
}

Value round(Runtime& runtime, const Value& subject, Parameters& given) {
  const std::int64_t digits = given.integer(0, 0);
  const std::string how = given.has(1) ? str(runtime, given[1]) : "common";
  if (how != "common" && how != "ceil" && how != "floor") raise("method must be common, ceil or floor");
  constexpr std::int64_t most_digits = 300;
  if (digits < 0 || digits > most_digits) raise("a precision of {} of the filter 'round' is not supported", digits);
  if (subject.is_undefined()) fail_undefined(subject);
  if (!subject.is_number()) raise("type {} doesn't define __round__ method", type_name(subject));
  if (how == "common") {
    if (subject.is_integer()) return positive(subject);
    // The decimal that is nearest to the exact value, ties to even.
    return Value::real(parse_real(fmt::format("{:.{}f}", subject.as_real(), digits)).value_or(0.0));
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = to_double(subject) * scale;
  // Python's ceil() gives an integer, so no zero is negative.
  return Value::real(((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) + 0.0) / scale);
}

Value string_filter(Runtime& runtime, const Value& subject, Parameters&) { return as_string(runtime, subject); }

template <bool wanted, bool by_attribute>
Value select(Runtime& runtime, const Value& subject, Parameters& given) {
  Arguments& arguments = given.all();
  if (!truth(runtime, subject)) return generator(runtime, {});
  if (by_attribute && arguments.positional.empty()) raise("Missing parameter for attribute name");
  const Path path(runtime, by_attribute ? take_first(arguments) : Value());
  const bool has_test = !arguments.positional.empty();
  const Builtin* test = has_test ? &find_test(str(runtime, take_first(arguments))) : nullptr;
  std::vector<Value> kept;
  for (Value& value : to_vector(runtime, subject)) {
    const Value examined = path.get(runtime, value);
    Arguments copy = arguments;
    const bool holds = truth(runtime, test != nullptr ? invoke(runtime, *test, examined, copy) : examined);
    if (holds == wanted) kept.push_back(std::move(value));
  }
  return generator(runtime, std::move(kept));
}

Value sort(Runtime& runtime, const Value& subject, Parameters& given) {
  const Value attribute_name = given.or_none(2);
  if (attribute_name.is_string() && attribute_name.text().find(',') != std::string::npos) {
    raise("sorting by several attributes is not supported");
  }
  const Path path(runtime, attribute_name, given.flag(runtime, 1, false));
  return runtime.list(values_of(sorted(runtime, subject, path, given.flag(runtime, 0, false))));
}

Value sum(Runtime& runtime, const Value& subject, Parameters& given) {
  const Path path(runtime, given.or_none(0));
  Value total = given.has(1) ? given[1] : Value::integer(0);
  if (total.is_string()) raise("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& value : to_vector(runtime, subject)) {
    total = arithmetic(runtime, Operator::add, total, path.get(runtime, value));
  }
  return total;
}

Value tojson(Runtime& runtime, const Value& subject, Parameters& given) {
  return runtime.string(to_json(runtime, subject, given));
}

Value trim(Runtime& runtime, const Value& subject, Parameters& given) {
  return call_method(runtime, as_string(runtime, subject), "strip", {given.or_none(0)});
}

Value truncate(Runtime& runtime, const Value& subject, Parameters& given) {
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

Value unique(Runtime& runtime, const Value& subject, Parameters& given) {
  const Path path(runtime, given.or_none(1), given.flag(runtime, 0, false));
  std::vector<Value> kept;
  std::unordered_multimap<std::size_t, Value> seen;
  for (Value& value : to_vector(runtime, subject)) {
    Value key = path.key(runtime, value);
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

Value wordcount(Runtime& runtime, const Value& subject, Parameters&) {
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

// Jinja's other filters. No chat template is known to use them.
constexpr std::string_view unsupported[] = {"attr",      "filesizeformat", "forceescape", "pprint",   "random",
                                            "striptags", "urlencode",      "urlize",      "wordwrap", "xmlattr"};

constexpr Builtin filters[] = {
    {"abs", abs_filter},
    {"batch", batch, {"linecount", "fill_with"}, 1},
    {"capitalize", string_method},
    {"center", center, {"width"}},
    {"count", length_filter},
    {"d", default_filter, {"default_value", "boolean"}},
    {"default", default_filter, {"default_value", "boolean"}},
    {"dictsort", dictsort, {"case_sensitive", "by", "reverse"}},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", float_filter, {"default"}},
    {"format", format_filter, {"*"}},
    {"groupby", groupby, {"attribute", "default", "case_sensitive"}, 1},
    {"indent", indent, {"width", "first", "blank"}},
    {"int", int_filter, {"default", "base"}},
    {"items", items},
    {"join", join, {"d", "attribute"}},
    {"last", last},
    {"length", length_filter},
    {"list", list},
    {"lower", string_method},
    {"map", map, {"*"}},
    {"max", extreme<true>, {"case_sensitive", "attribute"}},
    {"min", extreme<false>, {"case_sensitive", "attribute"}},
    {"reject", select<false, false>, {"*"}},
    {"rejectattr", select<false, true>, {"*"}},
    {"replace", replace, {"old", "new", "count"}, 2},
    {"reverse", reverse},
    {"round", round, {"precision", "method"}},
    {"safe", safe},
    {"select", select<true, false>, {"*"}},
    {"selectattr", select<true, true>, {"*"}},
    {"slice", slice_filter, {"slices", "fill_with"}, 1},
    {"sort", sort, {"reverse", "case_sensitive", "attribute"}},
    {"string", string_filter},
    {"sum", sum, {"attribute", "start"}},
    {"title", title},
    {"tojson", tojson, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", trim, {"chars"}},
    {"truncate", truncate, {"length", "killwords", "end", "leeway"}},
    {"unique", unique, {"case_sensitive", "attribute"}},
    {"upper", string_method},
    {"wordcount", wordcount},
};

}  // namespace

bool is_filter(std::string_view name) {
  return find_builtin(filters, name) != nullptr || std::ranges::find(unsupported, name) != std::end(unsupported);
}

const Builtin& find_filter(std::string_view name) {
  if (const Builtin* found = find_builtin(filters, name)) return *found;
  if (!is_filter(name)) raise("No filter named {}.", jinja::quoted(name));
  raise("the filter '{}' is not supported", name);
}

}  // namespace plumb::text::jinja
