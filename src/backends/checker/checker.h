// The checker: a Device that executes the Metal text of the kernels on the CPU, each GPU thread a fiber, and watches every
// access. It needs no GPU, and is a sanitizer as much as an executor. A launch fails, with a message that names kernel,
// threadgroup, thread, argument and element, where a kernel
//   - reads or writes outside its arguments (every argument lies alone in gigabytes of nothing), or misaligned;
//   - reads what nobody wrote, or leaves an element of an OUT argument unwritten;
//   - touches memory that another thread touches, one of them writing, with no barrier between (device memory: in the whole
//     launch; threadgroup memory: since the last barrier of the threadgroup, or of the SIMD-group for lanes of one);
//   - has a barrier or SIMD operation that some threads reach and others do not.
//
// How: the text is compiled as C++ with the compiler's ThreadSanitizer instrumentation, whose hooks (one before every load
// and store) are ours, in access.cpp; fibers.cpp runs threadgroups; metal/metal_stdlib stands in for Metal's library.
// Threadgroups run one after another, so one checker at a time may run in a process: run() holds a lock.
#pragma once

#include <memory>

#include "backends/gpu/device.h"

namespace plumb::backends {

std::unique_ptr<gpu::Device> make_checker_device();

}  // namespace plumb::backends
