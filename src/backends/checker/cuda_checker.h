// The tuned CUDA path on the CPU: the CUDA backend's own fusions and kernels (src/backends/cuda/tuning.cpp, *.cu), with
// the shared kernels for the rest, under the checker's eyes. For tests: it shows that the kernels compute what they should
// and touch nothing they should not, and says nothing of speed or of what only hardware does.
#pragma once

#include <memory>

#include "backends/gpu/device.h"

namespace plumb::backends {

std::unique_ptr<gpu::Device> make_cuda_checker_device();

}  // namespace plumb::backends
