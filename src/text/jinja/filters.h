// The built-in filters of Jinja2 3.1 without autoescape, and the `tojson` of Hugging Face transformers.
#pragma once

#include <string_view>

#include "text/jinja/call.h"

namespace plumb::text::jinja {

// Fails if no filter has this name.
const Builtin& find_filter(std::string_view name);
// Whether Jinja has a filter of this name, though it may not be supported.
bool is_filter(std::string_view name);

}  // namespace plumb::text::jinja
