// The methods of Python's str, list, tuple, dict and range that a template can call.
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

// Empty where the object's type has none of that name; fails for one that Python has and that is not supported.
std::optional<Value> method(Runtime& runtime, const Value& object, std::string_view name);

}  // namespace plumb::text::jinja
