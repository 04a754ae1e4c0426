// obj.name, obj[key] and obj[a:b:c], as Jinja's immutable sandbox resolves them.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

// The attribute; an undefined value if there is none.
Value attribute(Runtime& runtime, const Value& object, std::string_view name);
Value item(Runtime& runtime, const Value& object, const Value& key);
// The part [start:stop:step] of a string or sequence. A bound of None is not given.
Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop, const Value& step);

}  // namespace plumb::text::jinja
