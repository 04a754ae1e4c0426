// printf-style formatting ('%5.2f' % x) and str.format: of Python's two small languages, the part with widths, precisions,
// and the types s, d and f. The rest fails with an error that names it.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

std::string percent_format(Runtime& runtime, std::string_view format, const Value& arguments);
std::string brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments);

}  // namespace plumb::text::jinja
