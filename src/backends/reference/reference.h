// The definition of truth: every op as plain loops over float values (ops.h), accumulating in double, weights decoded
// through the format table. Obvious on purpose; nothing here is shared with a fast backend. Values are rounded to float
// once, when an op has finished; the KV cache rounds to its type.
#pragma once

#include <memory>

#include "backends/backend.h"

namespace plumb::backends {

std::unique_ptr<Backend> make_reference();

// Called when an op has computed a value, [rows, width]; what it leaves in `data` is what later ops read. With another
// engine's values put in their place, each op of one run is computed from that engine's own inputs: an error carried in
// from upstream cancels out, and only the ops at fault differ.
using Substitute =
    std::function<void(std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<float> data)>;

// A reference executor that lets `substitute` see and replace every value. Of the options it takes threads and batch.
std::unique_ptr<Executor> load_reference(std::shared_ptr<const plan::Plan> plan, Substitute substitute,
                                         const LoadOptions& options = {});

}  // namespace plumb::backends
