// The host's part of the stand-in for CUDA: as much of the runtime API as the CUDA backend's device.cpp calls, in a process
// that has one device, whose memory is the host's. cuda_runtime_api.h includes this file.
//
// A stream performs nothing by itself. Its work is performed, in order, when the host waits for the stream, and no earlier.
// A copy reads and writes only then, and sees what has become of its source; this holds for pageable memory too, where CUDA
// says no more than that a copy "might be synchronous" (its reference, "API synchronization behavior"). So the host reads
// old content if a wait is missing. Work that nobody waits for is never performed.
//
// Mistakes that would not show in any content are noted (HostMachine::mistakes).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace plumb::backends::checker {

// What the host sees of the device. For tests to set and to read.
struct HostMachine {
  int n_devices = 1;
  int compute_major = 9;
  std::size_t free_bytes = std::size_t{1} << 30;  // larger allocations fail
  // Memory freed, or a recording destroyed, while work is queued. CUDA may wait there, but does not promise to.
  std::vector<std::string> mistakes;
};
HostMachine& host_machine();
// The allocations, streams and recordings that have not been freed.
std::size_t n_host_objects();

// A kernel: cudaLaunchKernel() takes the address of one. As in CUDA, arguments are copied when the launch is queued.
struct HostKernel {
  std::vector<std::size_t> argument_bytes;
  void (*run)(dim3 grid, void* const* arguments) = nullptr;
};

}  // namespace plumb::backends::checker

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
inline constexpr unsigned cudaStreamNonBlocking = 1;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem;
  int major, minor;
};

cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);

cudaError_t cudaMalloc(void** data, std::size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaMallocHost(void** data, std::size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 threads, void** arguments, std::size_t shared_bytes,
                             cudaStream_t stream);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
