// Runs a Plan on a Device, for all GPU backends. Weights are uploaded in the file's format (norms, biases and rotary
// factors as float). A step is a list of launches, run as one submission. operations.h turns ops into launches.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "backends/backend.h"
#include "backends/gpu/device.h"

namespace plumb::backends::gpu {

// Errors: a tensor that is shorter than its shape; too little device memory (the error says how much was needed); a shape
// that no kernel takes.
Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan, std::unique_ptr<Device> device,
                                       const LoadOptions& options);

// A Backend that makes a Device for each of its executors.
std::unique_ptr<Backend> make_backend(std::string_view name, std::function<Result<std::unique_ptr<Device>>()> make_device,
                                      std::string description);

}  // namespace plumb::backends::gpu
