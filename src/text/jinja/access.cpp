#include "text/jinja/access.h"

#include <algorithm>

#include "text/jinja/compare.h"
#include "text/jinja/iterate.h"
#include "text/jinja/loop.h"
#include "text/jinja/methods.h"
#include "text/jinja/show.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

Value missing_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(
      fmt::format("'{}' has no attribute {}", object.is_none() ? "None" : type_name(object) + " object", quoted(name)));
}

Value unsafe(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(
      fmt::format("access to attribute {} of '{}' object is unsafe.", quoted(name), type_name(object)));
}

bool is_internal(std::string_view name) { return name.size() > 4 && name.starts_with("__") && name.ends_with("__"); }

// Methods that would change the object: the immutable sandbox denies them.
bool is_mutator(const Value& object, std::string_view name) {
  static constexpr std::string_view of_lists[] = {"append", "clear",  "extend",  "insert",
                                                  "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view of_dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
  if (object.is(Kind::list)) return std::ranges::find(of_lists, name) != std::end(of_lists);
  return object.is(Kind::dict) && std::ranges::find(of_dicts, name) != std::end(of_dicts);
}

// The result of Python's getattr, except for names of the language's internals.
std::optional<Value> python_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::name_space:
      if (const Value* value = object.name_space().find(name)) return *value;
      return std::nullopt;
    case Kind::loop:
      return object.loop().attribute(runtime, object, name);
    case Kind::callable:
      if (!object.callable().shown_as.starts_with("<Macro")) break;
      raise("the attribute {} of a macro is not supported", quoted(name));
    case Kind::tuple:
      if (object.name().empty()) break;
      if (name == "grouper") return object.items()[0];
      if (name == "list") return object.items()[1];
      break;
    default:
      break;
  }
  return method(runtime, object, name);
}

// The position of a subscript, counted from the end where it is negative; empty outside.
std::optional<std::size_t> position(const Value& key, std::size_t size) {
  if (!key.is_integer()) return std::nullopt;
  const auto length = static_cast<std::int64_t>(size);
  const std::int64_t index = key.as_integer() + (key.as_integer() < 0 ? length : 0);
  return index < 0 || index >= length ? std::nullopt : std::optional(static_cast<std::size_t>(index));
}

// The result of obj[key] in Python; empty where Python raises TypeError or LookupError.
std::optional<Value> python_item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is(Kind::dict)) {
    const auto hashable = [](const Value& value) { return !value.has_items() && !value.is(Kind::dict); };
    if (!hashable(key) && !(key.is(Kind::tuple) && std::ranges::all_of(key.items(), hashable))) return std::nullopt;
    const Value* found = object.dict().find(runtime, key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (object.has_items() && !object.is(Kind::view)) {
    const auto at = position(key, object.items().size());
    return at ? std::optional(object.items()[*at]) : std::nullopt;
  }
  if (!object.is_string()) return std::nullopt;
  const String& string = object.string();
  auto at = position(key, string.length);
  if (!at) return std::nullopt;
  if (string.length != string.text.size()) {
    runtime.budget.work(string.text.size());
    at = unicode::offset(string.text, *at);
  }
  return runtime.string(string.text.substr(*at, unicode::width(string.text[*at])));
}

}  // namespace

Value attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  if (is_mutator(object, name)) return unsafe(runtime, object, name);
  if (auto value = python_attribute(runtime, object, name)) return *value;
  if (object.is(Kind::dict)) {
    if (const Value* found = object.dict().find(name)) return *found;
  }
  return is_internal(name) ? unsafe(runtime, object, name) : missing_attribute(runtime, object, name);
}

Value item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto value = python_item(runtime, object, key)) return *value;
  if (!key.is_string()) {
    return runtime.undefined(fmt::format("{} object has no element {}", type_name(object), repr(runtime, key)));
  }
  if (is_mutator(object, key.text()) || is_internal(key.text())) return unsafe(runtime, object, key.text());
  if (auto value = python_attribute(runtime, object, key.text())) return *value;
  return missing_attribute(runtime, object, key.text());
}

Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is(Kind::dict)) raise("unhashable type: 'slice'");
  if (!object.is_string() && (!object.has_items() || object.is(Kind::view))) {
    raise("'{}' object is not subscriptable", type_name(object));
  }
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_integer()) {
      raise("slice indices must be integers or None or have an __index__ method");
    }
  }
  const auto size = static_cast<std::int64_t>(length(runtime, object).value_or(0));
  // Longer strides take one element too.
  const std::int64_t stride = step.is_none() ? 1 : std::clamp(step.as_integer(), -size - 1, size + 1);
  if (stride == 0) raise("slice step cannot be zero");
  // Bounds outside the sequence are clipped: to its ends or, with a negative stride, to the last element and to the place
  // before the first.
  const std::int64_t lowest = stride > 0 ? 0 : -1;
  const std::int64_t highest = stride > 0 ? size : size - 1;
  const auto clipped = [&](const Value& bound, std::int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    const std::int64_t at = bound.as_integer();
    return std::clamp(at < 0 ? std::max(at, -size - 1) + size : at, lowest, highest);
  };
  const std::int64_t first = clipped(start, stride > 0 ? lowest : highest);
  const std::int64_t past = clipped(stop, stride > 0 ? highest : lowest);

  const std::int64_t distance = stride > 0 ? past - first : first - past;
  const std::int64_t count = distance > 0 ? (distance - 1) / std::abs(stride) + 1 : 0;

  const auto position_of = [&](std::int64_t i) { return static_cast<std::size_t>(first + i * stride); };
  if (!object.is_string()) {
    std::vector<Value> items;
    items.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) items.push_back(object.items()[position_of(i)]);
    return runtime.sequence(object.is(Kind::tuple) ? Kind::tuple : Kind::list, std::move(items));
  }
  const std::string_view text = object.text();
  runtime.budget.work(text.size());
  if (stride == 1) {
    const std::string_view rest = text.substr(unicode::offset(text, position_of(0)));
    return runtime.string(rest.substr(0, unicode::offset(rest, static_cast<std::size_t>(count))));
  }
  runtime.budget.expect(text.size() * sizeof(char32_t));
  const std::u32string points = unicode::decode(text);
  std::string out;
  for (std::int64_t i = 0; i < count; ++i) unicode::append(out, points[position_of(i)]);
  return runtime.string(std::move(out));
}

}  // namespace plumb::text::jinja
