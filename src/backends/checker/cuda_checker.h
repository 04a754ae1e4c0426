// The tuned CUDA path, run on the CPU by the checker: the CUDA backend's fusions and kernels (fusion.cpp, tuning.cpp and
// *.cu of src/backends/cuda), and the shared kernels for all other ops. For tests: it shows that the kernels compute the
// right values and access only their own memory. It shows nothing about speed or about effects that only hardware has.
#pragma once

#include <memory>

#include "backends/gpu/device.h"

namespace plumb::backends {

std::unique_ptr<gpu::Device> make_cuda_checker_device();

}  // namespace plumb::backends
