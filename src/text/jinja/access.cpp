// obj.name, obj[key] and obj[a:b:c], as Jinja's immutable sandbox resolves them.
#include <algorithm>
#include <limits>

#include "text/jinja/callables.h"
#include "text/jinja/value.h"
#include "text/unicode/utf8.h"

namespace plumb::text::jinja {

namespace {

// How Jinja names an object in the messages of undefined values.
std::string owner_name(const Value& object) {
  switch (object.kind()) {
    case Kind::none:
      return "None";
    case Kind::undefined:
      return "jinja2.runtime.Undefined object";
    case Kind::loop:
      return "jinja2.runtime.LoopContext object";
    case Kind::name_space:
      return "namespace object";
    default:
      return fmt::format("{} object", type_name(object));
  }
}

Value missing_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(fmt::format("'{}' has no attribute {}", owner_name(object), quoted(name)));
}

Value missing_item(Runtime& runtime, const Value& object, const Value& key) {
  if (key.is_string()) return missing_attribute(runtime, object, key.text());
  return runtime.undefined(fmt::format("{} has no element {}", owner_name(object), repr(runtime, key)));
}

Value unsafe(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.undefined(
      fmt::format("access to attribute {} of '{}' object is unsafe.", quoted(name), type_name(object)));
}

bool is_internal(std::string_view name) { return name.size() > 4 && name.starts_with("__") && name.ends_with("__"); }

// What Jinja's Undefined has under a name that begins with an underscore, so that the sandbox hides it; any other
// attribute of an undefined value is an error.
bool undefined_has(std::string_view name) {
  static constexpr std::string_view kOwn[] = {"_undefined_exception", "_undefined_hint", "_undefined_message",
                                              "_undefined_name",      "_undefined_obj",  "_fail_with_undefined_error"};
  static constexpr std::string_view kInternal[] = {
      "add",   "aiter",         "bool",         "call",         "class",     "complex",  "delattr",
      "dir",   "div",           "doc",          "eq",           "float",     "floordiv", "format",
      "ge",    "getattr",       "getattribute", "getitem",      "getstate",  "gt",       "hash",
      "init",  "init_subclass", "int",          "iter",         "le",        "len",      "lt",
      "mod",   "module",        "mul",          "ne",           "neg",       "new",      "pos",
      "pow",   "radd",          "rdiv",         "reduce",       "reduce_ex", "repr",     "rfloordiv",
      "rmod",  "rmul",          "rpow",         "rsub",         "rtruediv",  "setattr",  "sizeof",
      "slots", "str",           "sub",          "subclasshook", "truediv"};
  if (!is_internal(name)) return std::ranges::find(kOwn, name) != std::end(kOwn);
  return std::ranges::find(kInternal, name.substr(2, name.size() - 4)) != std::end(kInternal);
}

// Methods that would change the object: the immutable sandbox denies them.
bool is_mutator(const Value& object, std::string_view name) {
  static constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                                       "insert", "sort",  "extend", "remove"};
  static constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
  if (object.is(Kind::list)) return std::ranges::find(kListMutators, name) != std::end(kListMutators);
  if (object.is(Kind::dict)) return std::ranges::find(kDictMutators, name) != std::end(kDictMutators);
  return false;
}

// What Python's getattr gives, except for names of the language's own machinery.
std::optional<Value> python_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::name_space:
      if (const Value* value = object.name_space().find(name)) return *value;
      return std::nullopt;
    case Kind::loop:
      return object.loop().attribute(runtime, object, name);
    case Kind::callable:
      return object.callable().attribute(runtime, name);
    case Kind::tuple:
      if (object.sequence().group && name == "grouper") return object.items()[0];
      if (object.sequence().group && name == "list") return object.items()[1];
      break;
    case Kind::range:
      if (name == "start") return Value::integer(object.range().start);
      if (name == "stop") return Value::integer(object.range().stop);
      if (name == "step") return Value::integer(object.range().step);
      break;
    case Kind::boolean:
    case Kind::integer:
    case Kind::big:
      if (name == "real" || name == "numerator") return positive(runtime, object);
      if (name == "imag") return Value::integer(0);
      if (name == "denominator") return Value::integer(1);
      break;
    case Kind::real:
      if (name == "real") return object;
      if (name == "imag") return Value::real(0.0);
      break;
    default:
      break;
  }
  return method(runtime, object, name);
}

std::optional<Value> at_index(const Value& object, const std::vector<Value>& items, const Value& key) {
  if (!key.is_small_integer()) return std::nullopt;
  auto index = key.as_integer();
  const auto size = static_cast<std::int64_t>(items.size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  return object.items()[static_cast<std::size_t>(index)];
}

// What obj[key] gives in Python; empty where it raises TypeError or LookupError.
std::optional<Value> python_item(Runtime& runtime, const Value& object, const Value& key) {
  switch (object.kind()) {
    case Kind::list:
    case Kind::tuple:
      return at_index(object, object.items(), key);
    case Kind::dict: {
      if (key.is(Kind::list) || key.is(Kind::dict) || key.is(Kind::dict_view)) return std::nullopt;
      if (key.is(Kind::tuple)) {
        try {
          hash_of(runtime, key);
        } catch (const Failure&) {
          return std::nullopt;
        }
      }
      const Value* found = object.dict().find(runtime, key);
      return found == nullptr ? std::nullopt : std::optional(*found);
    }
    case Kind::string: {
      if (!key.is_small_integer()) return std::nullopt;
      const String& string = object.string();
      auto index = key.as_integer();
      const auto size = static_cast<std::int64_t>(string.length);
      if (index < 0) index += size;
      if (index < 0 || index >= size) return std::nullopt;
      auto at = static_cast<std::size_t>(index);
      if (string.length != string.text.size()) {
        runtime.budget.work(string.text.size());
        at = unicode::offset(string.text, at);
      }
      std::string character = string.text.substr(at, unicode::width(string.text[at]));
      return string.markup ? runtime.markup(std::move(character)) : runtime.string(std::move(character));
    }
    case Kind::range: {
      if (!key.is_small_integer()) return std::nullopt;
      auto index = key.as_integer();
      if (index < 0) index += object.range().size();
      if (index < 0 || index >= object.range().size()) return std::nullopt;
      return Value::integer(object.range().at(index));
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

Value attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    if (undefined_has(name)) return unsafe(runtime, object, name);
    fail_undefined(object);
  }
  if (is_mutator(object, name)) return unsafe(runtime, object, name);
  if (auto value = python_attribute(runtime, object, name)) return *value;
  if (object.is(Kind::dict)) {
    if (const Value* found = object.dict().find(name)) return *found;
  }
  if (is_internal(name)) return unsafe(runtime, object, name);
  return missing_attribute(runtime, object, name);
}

Value attribute_only(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    if (undefined_has(name)) return unsafe(runtime, object, name);
    if (is_internal(name)) return missing_attribute(runtime, object, name);
    fail_undefined(object);
  }
  if (is_mutator(object, name)) return unsafe(runtime, object, name);
  if (auto value = python_attribute(runtime, object, name)) return *value;
  return missing_attribute(runtime, object, name);
}

Value item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto value = python_item(runtime, object, key)) return *value;
  if (key.is_string()) {
    if (is_mutator(object, key.text())) return unsafe(runtime, object, key.text());
    if (auto value = python_attribute(runtime, object, key.text())) return *value;
    if (is_internal(key.text())) return unsafe(runtime, object, key.text());
  }
  return missing_item(runtime, object, key);
}

namespace {

struct Bounds {
  std::int64_t start, stop, step, count;
};

// Python's rules for slices: bounds that are out of range are clipped.
Bounds bounds_of(std::int64_t size, const Value& start, const Value& stop, const Value& step) {
  // Any longer stride takes one element, too.
  constexpr std::int64_t kLongest = std::int64_t{1} << 40;
  const std::int64_t stride = step.is_none() ? 1 : std::clamp(step.as_integer(), -kLongest, kLongest);
  if (stride == 0) raise("slice step cannot be zero");
  const std::int64_t lowest = stride > 0 ? 0 : -1;
  const std::int64_t highest = stride > 0 ? size : size - 1;
  const auto clipped = [&](const Value& bound, std::int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    std::int64_t at = bound.as_integer();
    if (at < 0) at = std::max(at, -size - 1) + size;
    return std::clamp(at, lowest, highest);
  };
  const std::int64_t first = clipped(start, stride > 0 ? 0 : size - 1);
  const std::int64_t past = clipped(stop, stride > 0 ? size : -1);
  std::int64_t count = 0;
  if (stride > 0 && first < past) count = (past - first - 1) / stride + 1;
  if (stride < 0 && first > past) count = (first - past - 1) / std::max<std::int64_t>(-stride, 1) + 1;
  return {first, past, stride, count};
}

// A slice bound beyond 64 bits is as good as the farthest one.
Value clipped_bound(const Value& bound) {
  if (!bound.is(Kind::big)) return bound;
  return Value::integer(bound.as_big().is_negative() ? std::numeric_limits<std::int64_t>::min() + 1
                                                     : std::numeric_limits<std::int64_t>::max());
}

Value string_slice(Runtime& runtime, const String& string, const Bounds& bounds) {
  const bool ascii = string.length == string.text.size();
  runtime.budget.work(ascii ? static_cast<std::size_t>(bounds.count) : string.text.size());
  if (bounds.step == 1) {
    if (ascii)
      return runtime.string(
          string.text.substr(static_cast<std::size_t>(bounds.start), static_cast<std::size_t>(bounds.count)));
    const std::string_view text = string.text;
    const std::size_t begin = unicode::offset(text, static_cast<std::size_t>(bounds.start));
    const std::size_t size = unicode::offset(text.substr(begin), static_cast<std::size_t>(bounds.count));
    return runtime.string(text.substr(begin, size));
  }
  runtime.budget.expect(string.text.size() * sizeof(char32_t));
  const std::u32string points = unicode::decode(string.text);
  std::string out;
  for (std::int64_t i = 0; i < bounds.count; ++i) {
    unicode::append(out, points[static_cast<std::size_t>(bounds.start + i * bounds.step)]);
  }
  return runtime.string(std::move(out));
}

}  // namespace

Value slice(Runtime& runtime, const Value& object, const Value& start_given, const Value& stop_given,
            const Value& step_given) {
  if (object.is_undefined()) fail_undefined(object);
  const bool sliceable = object.is_string() || object.is_sequence() || object.is(Kind::range);
  const Value start = clipped_bound(start_given);
  const Value stop = clipped_bound(stop_given);
  const Value step = clipped_bound(step_given);
  if (object.is(Kind::dict)) raise("unhashable type: 'slice'");
  if (!sliceable) raise("'{}' object is not subscriptable", type_name(object));
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_small_integer()) {
      raise("slice indices must be integers or None or have an __index__ method");
    }
  }
  const auto size = static_cast<std::int64_t>(length(runtime, object).value_or(0));
  const Bounds bounds = bounds_of(size, start, stop, step);
  if (object.is_string()) {
    const Value part = string_slice(runtime, object.string(), bounds);
    return object.is_markup() ? marked(runtime, part) : part;
  }
  if (object.is(Kind::range)) {
    const Range& range = object.range();
    if (bounds.step > Range::kMost || bounds.step < -Range::kMost) raise("a slice of a range with this step is too large");
    return {Kind::range, runtime.make<Range>(range.at(bounds.start), range.at(bounds.stop), range.step * bounds.step)};
  }
  std::vector<Value> items;
  items.reserve(static_cast<std::size_t>(bounds.count));
  for (std::int64_t i = 0; i < bounds.count; ++i) {
    items.push_back(object.items()[static_cast<std::size_t>(bounds.start + i * bounds.step)]);
  }
  return object.is(Kind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

}  // namespace plumb::text::jinja
