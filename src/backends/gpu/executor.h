// A Plan on a Device: what all GPU backends share. Weights are uploaded as the file has them, in their quantized form
// (norms, biases and rotary factors as float); values lie in one arena and share it by lifetime; a step is a list of
// launches, run as one submission. operations.h turns ops into launches.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "backends/backend.h"
#include "backends/gpu/device.h"

namespace plumb::backends::gpu {

// Errors: a tensor that is shorter than its shape, too little device memory (with how much was needed), a shape that no
// kernel takes.
Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan, std::unique_ptr<Device> device,
                                       const LoadOptions& options);

// A Backend whose executors each have a Device of their own.
std::unique_ptr<Backend> make_backend(std::string_view name, std::function<Result<std::unique_ptr<Device>>()> make_device,
                                      std::string description);

}  // namespace plumb::backends::gpu
