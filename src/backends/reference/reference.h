// The definition of truth: every op is plain loops over float values (ops.h) that accumulate in double, with weights
// decoded by the format table. The code is simple on purpose, and shares no arithmetic with a fast backend. Values are
// rounded to float once, when an op has finished; the KV cache rounds to its type.
#pragma once

#include <memory>

#include "backends/backend.h"

namespace plumb::backends {

std::unique_ptr<Backend> make_reference();

// Called when an op has computed a value, [rows, width]. It may change `data`; later ops read the changed values. By
// replacing every value by another engine's, each op is computed from that engine's own inputs: an error from an earlier op
// cancels out, and only the faulty ops differ.
using Substitute =
    std::function<void(std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<float> data)>;

// A reference executor that lets `substitute` see and replace every value. It uses only the options for threads and batch.
std::unique_ptr<Executor> load_reference(std::shared_ptr<const plan::Plan> plan, Substitute substitute,
                                         const LoadOptions& options = {});

}  // namespace plumb::backends
