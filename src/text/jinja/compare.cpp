#include "text/jinja/compare.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <functional>

#include "text/jinja/iterate.h"
#include "text/jinja/number.h"
#include "text/jinja/show.h"
#include "text/jinja/strings.h"

namespace plumb::text::jinja {

namespace {

std::partial_ordering order_of_numbers(const Value& left, const Value& right) {
  if (left.is_integer() && right.is_integer()) return left.as_integer() <=> right.as_integer();
  return to_double(left) <=> to_double(right);
}

std::size_t mixed(std::size_t seed, std::size_t hash) { return seed * 1'000'003 + hash + 0x9e3779b9u; }

bool equal_items(Runtime& runtime, const std::vector<Value>& left, const std::vector<Value>& right) {
  if (left.size() != right.size()) return false;
  const DepthGuard guard(runtime);
  for (std::size_t i = 0; i < left.size(); ++i) {
    runtime.budget.step();
    if (!equal(runtime, left[i], right[i])) return false;
  }
  return true;
}

bool equal_entries(Runtime& runtime, const Dict& left, const Dict& right) {
  if (left.entries.size() != right.entries.size()) return false;
  const DepthGuard guard(runtime);
  for (const auto& [key, value] : left.entries) {
    runtime.budget.step();
    const Value* other = right.find(runtime, key);
    if (other == nullptr || !equal(runtime, value, *other)) return false;
  }
  return true;
}

// Whether left < right or, with `or_equal`, left <= right. The symbol is for messages; with > and >= the sides are swapped.
bool ordered(Runtime& runtime, const Value& left, const Value& right, const char* symbol, bool or_equal) {
  runtime.budget.step();
  if (left.is_number() && right.is_number()) {
    const std::partial_ordering order = order_of_numbers(left, right);
    return std::is_lt(order) || (or_equal && std::is_eq(order));
  }
  if (left.is_string() && right.is_string()) {
    // UTF-8 sorts as its code points do.
    const int order = left.text().compare(right.text());
    runtime.budget.work(std::min(left.text().size(), right.text().size()));
    return order < 0 || (or_equal && order == 0);
  }
  if (left.is_sequence() && left.kind() == right.kind()) {
    const DepthGuard guard(runtime);
    const auto& a = left.items();
    const auto& b = right.items();
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!equal(runtime, a[i], b[i])) return ordered(runtime, a[i], b[i], symbol, or_equal);
    }
    return or_equal ? a.size() <= b.size() : a.size() < b.size();
  }
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
  if (left.is(Kind::large) || right.is(Kind::large)) fail_too_large();
  const bool swapped = symbol[0] == '>';
  raise("'{}' not supported between instances of '{}' and '{}'", symbol, type_name(swapped ? right : left),
        type_name(swapped ? left : right));
}

}  // namespace

bool truth(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::real:
      return value.as_real() != 0.0;
    default:
      return length(runtime, value).value_or(1) != 0;
  }
}

std::size_t hash_of(Runtime& runtime, const Value& key) {
  switch (key.kind()) {
    case Kind::undefined:
    case Kind::none:
      return static_cast<std::size_t>(key.kind());
    case Kind::boolean:
    case Kind::integer:
    case Kind::real:
      return std::hash<double>{}(to_double(key) + 0.0);  // -0 and 0 are one key
    case Kind::string:
    case Kind::large:
      runtime.budget.work(key.text().size());
      return std::hash<std::string_view>{}(key.text());
    case Kind::tuple:
    case Kind::range: {
      const DepthGuard guard(runtime);
      std::size_t hash = key.items().size();
      for (const Value& entry : key.items()) {
        runtime.budget.step();
        hash = mixed(hash, hash_of(runtime, entry));
      }
      return hash;
    }
    case Kind::list:
    case Kind::dict:
    case Kind::view:
      raise("unhashable type: '{}'", type_name(key));
    default:
      return std::hash<const void*>{}(key.object().get());
  }
}

bool equal(Runtime& runtime, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return std::is_eq(order_of_numbers(left, right));
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
    case Kind::large:
      if (left.text().size() == right.text().size()) runtime.budget.work(left.text().size());
      return left.text() == right.text();
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
    case Kind::view:
      return left.object() == right.object() || equal_items(runtime, left.items(), right.items());
    case Kind::dict:
      return left.object() == right.object() || equal_entries(runtime, left.dict(), right.dict());
    default:
      return left.object() == right.object();
  }
}

bool less(Runtime& runtime, const Value& left, const Value& right) { return ordered(runtime, left, right, "<", false); }

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) raise("'in <string>' requires string as left operand, not {}", type_name(item));
    return find_first(runtime, container.text(), item.text()) != std::string::npos;
  }
  if (container.is(Kind::dict)) return container.dict().find(runtime, item) != nullptr;
  if (container.is_undefined()) return false;
  if (!is_iterable(container)) raise("argument of type '{}' is not iterable", type_name(container));
  const auto iterator = iterate(runtime, container);
  while (const auto entry = iterator->next(runtime)) {
    runtime.budget.step();
    if (equal(runtime, *entry, item)) return true;
  }
  return false;
}

bool compare(Runtime& runtime, Comparison comparison, const Value& left, const Value& right) {
  switch (comparison) {
    case Comparison::equal:
      return equal(runtime, left, right);
    case Comparison::unequal:
      return !equal(runtime, left, right);
    case Comparison::less:
      return ordered(runtime, left, right, "<", false);
    case Comparison::less_or_equal:
      return ordered(runtime, left, right, "<=", true);
    case Comparison::greater:
      return ordered(runtime, right, left, ">", false);
    case Comparison::greater_or_equal:
      return ordered(runtime, right, left, ">=", true);
    case Comparison::in:
      return contains(runtime, right, left);
    case Comparison::not_in:
      return !contains(runtime, right, left);
  }
  return false;
}

}  // namespace plumb::text::jinja
