// The Metal backend's Device: the shared kernels on the GPU of an Apple processor. Their text is part of the program. The
// driver compiles it, each kernel at its first launch. Memory is shared with the CPU, so copies are memcpy.
#pragma once

#include <memory>
#include <string>

#include "backends/gpu/device.h"

namespace plumb::backends {

// Error, in one line: no GPU, a GPU older than Apple's M1, or kernels that the driver does not compile.
Result<std::unique_ptr<gpu::Device>> make_metal_device();

// "Apple M2 Max, 48.0 GiB for the GPU", or the error of make_metal_device.
Result<std::string> describe_metal_device();

}  // namespace plumb::backends
