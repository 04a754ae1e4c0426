// Truth, equality, order and membership, by Python's rules.
#pragma once

#include <cstddef>
#include <cstdint>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

bool truth(Runtime& runtime, const Value& value);
std::size_t hash_of(Runtime& runtime, const Value& key);  // fails for values that Python does not hash
bool equal(Runtime& runtime, const Value& left, const Value& right);
bool less(Runtime& runtime, const Value& left, const Value& right);  // for sorting; fails where Python's < does
bool contains(Runtime& runtime, const Value& container, const Value& item);

enum class Comparison : std::uint8_t { equal, unequal, less, less_or_equal, greater, greater_or_equal, in, not_in };
bool compare(Runtime& runtime, Comparison comparison, const Value& left, const Value& right);

}  // namespace plumb::text::jinja
