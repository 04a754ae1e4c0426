// The built-in filters of Jinja2 3.1 without autoescape, and the `tojson` of Hugging Face transformers.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

using Filter = Value (*)(Runtime&, const Value& subject, Arguments& arguments);
Filter find_filter(std::string_view name);  // null where there is none
// Fails with the error that no filter has this name.
[[noreturn]] void fail_filter(std::string_view name);

}  // namespace plumb::text::jinja
