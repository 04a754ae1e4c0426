// The streams, memory and recordings of the stand-in for CUDA. cuda/host_api.h says what they promise.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace {

using Work = std::function<void()>;

}  // namespace

struct CUgraph_st {
  std::vector<Work> works;
};

struct CUgraphExec_st : CUgraph_st {};

struct CUstream_st {
  std::deque<Work> queued;
  std::unique_ptr<CUgraph_st> capture;  // takes the work, if set

  void add(Work work) {
    if (capture) {
      capture->works.push_back(std::move(work));
    } else {
      queued.push_back(std::move(work));
    }
  }
};

namespace {

template <class T>
using Owned = std::vector<std::unique_ptr<T>>;

struct State {
  plumb::backends::checker::HostMachine machine;
  std::map<void*, std::unique_ptr<std::byte[]>> memory;
  Owned<CUstream_st> streams;
  Owned<CUgraph_st> graphs;
  Owned<CUgraphExec_st> recordings;
};

State& state() {
  static State state;
  return state;
}

void note_if_queued(const char* what) {
  const auto busy = [](const std::unique_ptr<CUstream_st>& stream) { return !stream->queued.empty(); };
  if (std::ranges::any_of(state().streams, busy))
    state().machine.mistakes.push_back(std::string(what) + " while work is queued");
}

// New memory has content that is no sensible number.
void* allocate(std::size_t bytes) {
  auto data = std::make_unique<std::byte[]>(std::max<std::size_t>(bytes, 1));
  std::fill_n(data.get(), bytes, std::byte{0xcd});
  void* const address = data.get();
  state().memory.emplace(address, std::move(data));
  return address;
}

void release(void* data, const char* what) {
  if (data == nullptr) return;
  note_if_queued(what);
  state().memory.erase(data);
}

template <class T>
void destroy(Owned<T>& all, const T* one) {
  std::erase_if(all, [one](const std::unique_ptr<T>& known) { return known.get() == one; });
}

}  // namespace

namespace plumb::backends::checker {

HostMachine& host_machine() { return state().machine; }

std::size_t n_host_objects() {
  const State& s = state();
  return s.memory.size() + s.streams.size() + s.graphs.size() + s.recordings.size();
}

}  // namespace plumb::backends::checker

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* n) {
  *n = state().machine.n_devices;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"Stand-in", state().machine.free_bytes, state().machine.compute_major, 0};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  if (bytes > state().machine.free_bytes) return cudaErrorMemoryAllocation;
  *data = allocate(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  release(data, "cudaFree");
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  *data = allocate(bytes);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  release(data, "cudaFreeHost");
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *free_bytes = *total_bytes = state().machine.free_bytes;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = state().streams.emplace_back(std::make_unique<CUstream_st>()).get();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  destroy(state().streams, stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  for (; !stream->queued.empty(); stream->queued.pop_front()) stream->queued.front()();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  stream->add([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3, void** arguments, std::size_t, cudaStream_t stream) {
  const auto& of = *static_cast<const plumb::backends::checker::HostKernel*>(kernel);
  std::vector<std::vector<std::byte>> copies;
  for (const std::size_t bytes : of.argument_bytes) {
    const auto* argument = static_cast<const std::byte*>(arguments[copies.size()]);
    copies.emplace_back(argument, argument + bytes);
  }
  stream->add([&of, grid, copies = std::move(copies)]() mutable {
    std::vector<void*> pointers;
    for (std::vector<std::byte>& copy : copies) pointers.push_back(copy.data());
    of.run(grid, pointers.data());
  });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture) return cudaErrorInvalidValue;
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->capture) return cudaErrorInvalidValue;
  *graph = state().graphs.emplace_back(std::move(stream->capture)).get();
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  destroy(state().graphs, graph);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = state().recordings.emplace_back(std::make_unique<CUgraphExec_st>(CUgraphExec_st{*graph})).get();
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  note_if_queued("cudaGraphExecDestroy");
  destroy(state().recordings, executable);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const Work& work : executable->works) stream->add(work);
  return cudaSuccess;
}
