// printf-style formatting ('%5.2f' % x) and str.format.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

std::string percent_format(Runtime& runtime, std::string_view format, const Value& arguments);
std::string brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments);

}  // namespace plumb::text::jinja
