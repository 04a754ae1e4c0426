// The definition of truth: every op as plain loops over float values, accumulating in double, weights decoded through the
// format table. Slow and obvious on purpose; nothing here is shared with a fast backend. Values are rounded to float
// once, when an op has finished; the KV cache rounds to its type.
#pragma once

#include <memory>

#include "backends/backend.h"

namespace plumb::backends {

std::unique_ptr<Backend> make_reference();

}  // namespace plumb::backends
