// The global functions: range, dict, namespace, raise_exception, strftime_now.
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

// The global of that name. Fails for one that Jinja has and Plumb does not.
std::optional<Value> global(Runtime& runtime, std::string_view name);

// Fails for the names that transformers forbids.
void check_namespace_name(std::string_view name);

}  // namespace plumb::text::jinja
