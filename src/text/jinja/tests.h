// Jinja's built-in tests, the names after `is`.
#pragma once

#include <string_view>

#include "text/jinja/call.h"

namespace plumb::text::jinja {

// Fails if no test has this name. A test gives a boolean.
const Builtin& find_test(std::string_view name);
// Whether Jinja has a test of this name, though it may not be supported.
bool is_test(std::string_view name);

}  // namespace plumb::text::jinja
