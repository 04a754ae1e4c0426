// Jinja's built-in filters, as Jinja2 3.1 has them without autoescape, with the `tojson` of Hugging Face transformers.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

using Filter = Value (*)(Runtime&, const Value& subject, Arguments& arguments);
Filter find_filter(std::string_view name);  // null where there is none
// For a name that is none: the error that says so.
[[noreturn]] void fail_filter(std::string_view name);

}  // namespace plumb::text::jinja
