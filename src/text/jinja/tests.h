// Jinja's built-in tests, the names after `is`.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

using Test = bool (*)(Runtime&, const Value& subject, Arguments& arguments);
Test find_test(std::string_view name);  // null where there is none
// Fails with the error that no test has this name.
[[noreturn]] void fail_test(std::string_view name);

}  // namespace plumb::text::jinja
