// Values as text, in Python's form.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

std::string type_name(const Value& value);
std::string str(Runtime& runtime, const Value& value);
std::string repr(Runtime& runtime, const Value& value);
std::string quoted(std::string_view text);  // Python's repr of a string
std::string real_to_string(double value);

}  // namespace plumb::text::jinja
