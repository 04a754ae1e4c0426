// Reads JSON (a render's variables), and writes it (the `tojson` filter, which is Python's json.dumps).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "text/jinja/call.h"
#include "text/jinja/value.h"

namespace plumb::text::jinja {

// Bytes that are not UTF-8 become U+FFFD.
Value from_json(Runtime& runtime, const nlohmann::ordered_json& json);

// Options: ensure_ascii, indent, separators, sort_keys.
std::string to_json(Runtime& runtime, const Value& value, const Parameters& options);

}  // namespace plumb::text::jinja
