// Truth, equality, order and membership, by Python's rules.
#pragma once

#include <cstddef>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

bool truth(Runtime& runtime, const Value& value);
std::size_t hash_of(Runtime& runtime, const Value& key);  // fails for values that Python does not hash
bool equal(Runtime& runtime, const Value& left, const Value& right);
// Python's <, for sorting and comparisons; fails where Python does. The symbol is for the message.
bool less(Runtime& runtime, const Value& left, const Value& right, const char* symbol = "<");
bool less_or_equal(Runtime& runtime, const Value& left, const Value& right, const char* symbol = "<=");
bool contains(Runtime& runtime, const Value& container, const Value& item);

}  // namespace plumb::text::jinja
