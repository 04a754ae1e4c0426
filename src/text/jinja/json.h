// JSON in (the variables of a render) and out (the `tojson` filter, which is Python's json.dumps).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

// Text that is no UTF-8 is repaired with U+FFFD.
Value from_json(Runtime& runtime, const nlohmann::ordered_json& json);

std::string to_json(Runtime& runtime, const Value& value, Arguments& options);

}  // namespace plumb::text::jinja
