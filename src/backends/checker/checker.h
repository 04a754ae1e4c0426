// The checker: a Device that executes the kernels' Metal text on the CPU and checks every access. Each GPU thread is a
// fiber. It needs no GPU. A launch fails, with a message that names kernel, threadgroup, thread, argument and element, if a
// kernel
//   - reads or writes outside its arguments (every argument stands alone in gigabytes of unused addresses), or misaligned;
//   - reads memory that nobody has written, or leaves an element of an OUT argument unwritten;
//   - accesses memory that another thread accesses, one of them writing, with no barrier between. For device memory this
//     holds over the whole launch; for threadgroup memory since the last barrier of the threadgroup, or, between lanes of
//     one SIMD-group, since the last barrier of that SIMD-group;
//   - has a barrier or SIMD operation that some threads reach and others do not.
//
// The text is compiled as C++ with the compiler's ThreadSanitizer instrumentation, which calls a hook before every load and
// store. access.cpp has these hooks; fibers.cpp runs threadgroups; metal/metal_stdlib stands in for Metal's library.
// Threadgroups run one after another, and only one checker at a time runs in a process: run() holds a lock.
#pragma once

#include <memory>

#include "backends/gpu/device.h"

namespace plumb::backends {

std::unique_ptr<gpu::Device> make_checker_device();

// The tuned CUDA path, run on the CPU by the checker: the CUDA backend's fusions and kernels (fusion.cpp, tuning.cpp and
// *.cu of src/backends/cuda), and the shared kernels for all other ops. For tests: it shows that the kernels compute the
// right values and access only their own memory. It shows nothing about speed or about effects that only hardware has.
std::unique_ptr<gpu::Device> make_cuda_checker_device();

}  // namespace plumb::backends
