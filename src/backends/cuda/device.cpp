#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>

#include "backends/cuda/cuda.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/tuning.h"

namespace plumb::backends {

namespace cuda {

Result<void> check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return {};
  return fail("CUDA: {} failed: {}", what, cudaGetErrorString(error));
}

namespace {

using gpu::Launch;
using gpu::View;

constexpr double gib = 1024.0 * 1024 * 1024;
constexpr std::size_t staging_bytes = std::size_t{8} << 20;

// The stream in which a device queues all its work. Memory may outlive the device, so it shares the stream.
using Stream = std::shared_ptr<std::remove_pointer_t<cudaStream_t>>;

class CudaMemory final : public gpu::Memory {
 public:
  CudaMemory(std::byte* data, std::uint64_t size, Stream stream) : Memory(size), data_(data), stream_(std::move(stream)) {}
  ~CudaMemory() override {
    cudaStreamSynchronize(stream_.get());  // cudaFree may wait, but does not promise to
    cudaFree(data_);
  }
  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  std::byte* data_;
  Stream stream_;
};

std::byte* address(const View& view) {
  return view.memory == nullptr ? nullptr : static_cast<CudaMemory*>(view.memory)->data() + view.offset;
}

class CudaDevice final : public gpu::Device {
 public:
  CudaDevice() = default;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() override {
    forget_recordings();
    if (stream_) cudaStreamSynchronize(stream_.get());
    cudaFreeHost(staging_);
  }

  Result<void> start() {
    PLUMB_TRY(description_, describe_cuda_device());
    cudaStream_t stream = nullptr;
    PLUMB_CHECK(check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    stream_ = Stream(stream, cudaStreamDestroy);
    void* staging = nullptr;
    PLUMB_CHECK(check(cudaMallocHost(&staging, staging_bytes), "cudaMallocHost"));
    staging_ = static_cast<std::byte*>(staging);
    auto cublas = CublasLt::open();
    if (!cublas) description_ += "; prompts are slow: " + cublas.error().message;
    tuning_ = make_tuning(*this, address, cublas ? std::move(*cublas) : nullptr);
    return {};
  }

  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] std::string description() const override { return description_; }
  [[nodiscard]] std::uint32_t preferred_batch() const override { return 4096; }

  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      std::size_t free = 0, total = 0;
      PLUMB_CHECK(check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
      return fail(
          "the GPU has too little memory for {}: {:.2f} GiB needed, {:.2f} of {:.2f} GiB free; use a smaller context or "
          "a smaller quantization",
          what, static_cast<double>(bytes) / gib, static_cast<double>(free) / gib, static_cast<double>(total) / gib);
    }
    PLUMB_CHECK(check(error, "cudaMalloc"));
    return std::make_unique<CudaMemory>(static_cast<std::byte*>(data), bytes, stream_);
  }
  // Small copies go through pinned memory, where uploads stay until the next wait. Large ones are waited for.
  Result<void> upload(const View& to, std::span<const std::byte> from) override {
    if (from.size() > staging_bytes) {
      PLUMB_CHECK(copy(address(to), from.data(), from.size(), cudaMemcpyHostToDevice));
      return wait();
    }
    if (from.size() > staging_bytes - n_staged_) PLUMB_CHECK(wait());
    std::byte* staged = staging_ + n_staged_;
    std::memcpy(staged, from.data(), from.size());
    n_staged_ += from.size();
    return copy(address(to), staged, from.size(), cudaMemcpyHostToDevice);
  }
  Result<void> download(const View& from, std::span<std::byte> to) override {
    const bool staged = to.size() <= staging_bytes;
    PLUMB_CHECK(copy(staged ? staging_ : to.data(), address(from), to.size(), cudaMemcpyDeviceToHost));
    PLUMB_CHECK(wait());
    if (staged) std::memcpy(to.data(), staging_, to.size());
    return {};
  }

  Result<void> run(std::span<const Launch> launches, std::uint64_t tag) override {
    if (tag == 0) return enqueue(launches);
    auto found = graphs_.find(tag);
    if (found == graphs_.end()) {
      PLUMB_TRY(cudaGraphExec_t graph, record(launches));
      found = graphs_.emplace(tag, graph).first;
    }
    return check(cudaGraphLaunch(found->second, stream_.get()), "cudaGraphLaunch");
  }
  void forget_recordings() override {
    if (!graphs_.empty()) cudaStreamSynchronize(stream_.get());
    for (const auto& [tag, graph] : graphs_) cudaGraphExecDestroy(graph);
    graphs_.clear();
  }

  Result<bool> prepare(const gpu::StepContext& step) override { return tuning_->prepare(step); }
  std::size_t emit(const gpu::StepContext& step, std::size_t op, gpu::Launches& to) override {
    return tuning_->emit(step, op, to);
  }

 private:
  Result<void> enqueue(std::span<const Launch> launches) {
    for (const Launch& launch : launches) {
      if (launch.native) {
        PLUMB_CHECK(static_cast<const TunedLaunch&>(*launch.native).run(stream_.get()));
        continue;
      }
      std::vector<std::byte*> pointers;
      for (const gpu::Argument& argument : launch.arguments) pointers.push_back(address(argument.view));
      std::vector<void*> arguments;
      for (std::byte*& pointer : pointers) arguments.push_back(&pointer);
      std::vector<std::byte> params = launch.params;
      arguments.push_back(params.data());
      const gpu::KernelInfo& info = gpu::kernel_infos()[static_cast<std::size_t>(launch.kernel)];
      const auto id = static_cast<unsigned>(launch.kernel);
      PLUMB_CHECK(check(cudaLaunchKernel(shared_kernel(id), dim3(launch.grid[0], launch.grid[1], launch.grid[2]),
                                         dim3(info.threads), arguments.data(), 0, stream_.get()),
                        info.name));
    }
    return {};
  }

  Result<cudaGraphExec_t> record(std::span<const Launch> launches) {
    PLUMB_CHECK(check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"));
    const Result<void> queued = enqueue(launches);
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
    const std::shared_ptr<std::remove_pointer_t<cudaGraph_t>> owner(graph, cudaGraphDestroy);
    PLUMB_CHECK(queued);
    PLUMB_CHECK(check(ended, "cudaStreamEndCapture"));
    cudaGraphExec_t executable = nullptr;
    PLUMB_CHECK(check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate"));
    return executable;
  }

  Result<void> copy(std::byte* to, const std::byte* from, std::size_t bytes, cudaMemcpyKind kind) {
    return check(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()),
                 kind == cudaMemcpyHostToDevice ? "an upload" : "a download");
  }
  Result<void> wait() {
    PLUMB_CHECK(check(cudaStreamSynchronize(stream_.get()), "waiting for the GPU"));
    n_staged_ = 0;
    return {};
  }

  std::string description_;
  Stream stream_;
  std::byte* staging_ = nullptr;  // pinned
  std::size_t n_staged_ = 0;      // bytes of it that queued uploads read
  std::unique_ptr<Tuning> tuning_;
  std::map<std::uint64_t, cudaGraphExec_t> graphs_;  // by tag
};

}  // namespace

}  // namespace cuda

Result<std::string> describe_cuda_device() {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  if (error != cudaSuccess || n == 0) {
    cudaGetLastError();
    return fail("the backend 'cuda' found no NVIDIA GPU ({}); use --backend cpu",
                error == cudaSuccess ? "none is installed" : cudaGetErrorString(error));
  }
  cudaDeviceProp properties{};
  PLUMB_CHECK(cuda::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties"));
  if (properties.major < 8) {
    return fail("the backend 'cuda' needs a GPU of compute capability 8.0 or newer; {} has {}.{}", properties.name,
                properties.major, properties.minor);
  }
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}", properties.name,
                     static_cast<double>(properties.totalGlobalMem) / cuda::gib, properties.major, properties.minor);
}

Result<std::unique_ptr<gpu::Device>> make_cuda_device() {
  auto device = std::make_unique<cuda::CudaDevice>();
  PLUMB_CHECK(device->start());
  return device;
}

}  // namespace plumb::backends
