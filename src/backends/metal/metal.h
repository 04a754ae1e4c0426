// The Metal backend's Device: the shared kernels on the GPU of an Apple processor. Their text is part of the program and is
// compiled by the driver, each kernel when it is first launched. Memory is shared with the CPU, so that copies are memcpy.
#pragma once

#include <memory>
#include <string>

#include "backends/gpu/device.h"

namespace plumb::backends {

// Error, in one line: no GPU, one older than Apple's M1, or kernels that its driver does not compile.
Result<std::unique_ptr<gpu::Device>> make_metal_device();

// "Apple M2 Max, 48.0 GiB for the GPU", or the reason why there is none.
Result<std::string> describe_metal_device();

}  // namespace plumb::backends
