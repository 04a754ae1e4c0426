// The methods of Python's str, list, tuple, dict and range that a template can call.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

// The method of that name; empty if the object's type has none. Fails for a method that Python has and Plumb does not.
std::optional<Value> method(Runtime& runtime, const Value& object, std::string_view name);

// Calls a method that the object's type has.
Value call_method(Runtime& runtime, const Value& object, std::string_view name, std::vector<Value> positional = {});

}  // namespace plumb::text::jinja
