// The CUDA backend's Device: the shared kernels compiled for NVIDIA GPUs, and kernels tuned for them (kernels.h). Decode
// steps are recorded once as a CUDA graph and replayed. Large products use cuBLASLt if it is found at run time.
#pragma once

#include <memory>

#include "backends/gpu/device.h"

namespace plumb::backends {

// Error, in one line: no driver, no device, or a device older than the kernels were compiled for.
Result<std::unique_ptr<gpu::Device>> make_cuda_device();

// "NVIDIA H200, 139.8 GiB, compute capability 9.0", or the error of make_cuda_device.
Result<std::string> describe_cuda_device();

}  // namespace plumb::backends
