// Parses a template's text to its tree.
#pragma once

#include <string_view>

#include "text/jinja/limits.h"
#include "text/jinja/syntax.h"

namespace plumb::text::jinja {

// Throws Failure with the line.
Body parse(std::string_view source, const TemplateLimits& limits);

}  // namespace plumb::text::jinja
