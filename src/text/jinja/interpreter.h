// Runs a template over its variables.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "text/jinja/syntax.h"
#include "text/jinja/value.h"

namespace plumb::text::jinja {

// Throws Failure with the line.
std::string interpret(const Body& body, Runtime& runtime, const nlohmann::ordered_json& variables);

}  // namespace plumb::text::jinja
