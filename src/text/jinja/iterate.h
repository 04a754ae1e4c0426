// Walking through values.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "text/jinja/value.h"

namespace plumb::text::jinja {

bool is_iterable(const Value& value);
std::optional<std::size_t> length(Runtime& runtime, const Value& value);
// An iterator over any iterable, without copying it; fails with "'x' object is not iterable".
std::shared_ptr<Iterator> iterate(Runtime& runtime, const Value& value);
std::vector<Value> to_vector(Runtime& runtime, const Value& value);

}  // namespace plumb::text::jinja
