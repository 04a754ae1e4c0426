#include <fmt/format.h>

#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "backends/metal/kernel_text.h"
#include "backends/metal/metal.h"

namespace plumb::backends {

namespace metal {

namespace {

using gpu::KernelId;
using gpu::KernelInfo;
using gpu::Launch;
using gpu::View;

constexpr double gib = 1024.0 * 1024 * 1024;
constexpr NS::UInteger simd_width = 32;  // the width that the kernels assume

double in_gib(std::uint64_t bytes) { return static_cast<double>(bytes) / gib; }

const KernelInfo& info(KernelId kernel) { return gpu::kernel_infos()[static_cast<std::size_t>(kernel)]; }

// Metal's autoreleased objects live until their pool ends. Every call into Metal makes a pool.
NS::SharedPtr<NS::AutoreleasePool> make_pool() { return NS::TransferPtr(NS::AutoreleasePool::alloc()->init()); }

NS::String* ns_string(const char* text) { return NS::String::string(text, NS::UTF8StringEncoding); }

std::string text_of(const NS::String* string) {
  const char* text = string == nullptr ? nullptr : string->utf8String();
  return text == nullptr ? "" : text;
}

// "Insufficient Memory (MTLCommandBufferErrorDomain 8)"
std::string describe(const NS::Error* error) {
  if (error == nullptr) return "Metal gives no reason";
  return fmt::format("{} ({} {})", text_of(error->localizedDescription()), text_of(error->domain()), error->code());
}

bool is_out_of_memory(const NS::Error* error) {
  return error != nullptr && error->code() == MTL::CommandBufferErrorOutOfMemory &&
         text_of(error->domain()) == "MTLCommandBufferErrorDomain";
}

class MetalMemory final : public gpu::Memory {
 public:
  MetalMemory(NS::SharedPtr<MTL::Buffer> buffer, std::uint64_t size) : Memory(size), buffer_(std::move(buffer)) {}
  [[nodiscard]] MTL::Buffer* buffer() const { return buffer_.get(); }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(buffer_->contents()); }

 private:
  NS::SharedPtr<MTL::Buffer> buffer_;
};

MTL::Buffer* buffer_of(const View& view) {
  return view.memory == nullptr ? nullptr : static_cast<const MetalMemory*>(view.memory)->buffer();
}

std::byte* address(const View& view) { return static_cast<const MetalMemory*>(view.memory)->data() + view.offset; }

Result<NS::SharedPtr<MTL::Device>> find_gpu() {
  NS::SharedPtr<MTL::Device> gpu = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
  if (!gpu) return fail("the backend 'metal' found no GPU; use --backend cpu");
  if (!gpu->supportsFamily(MTL::GPUFamilyApple7)) {
    return fail("the backend 'metal' needs the GPU of an Apple M1 or newer; this machine has {}; use --backend cpu",
                text_of(gpu->name()));
  }
  return gpu;
}

std::string describe(const MTL::Device& gpu) {
  return fmt::format("{}, {:.1f} GiB for the GPU", text_of(gpu.name()), in_gib(gpu.recommendedMaxWorkingSetSize()));
}

// Compiles the kernels with arithmetic in the order of the text and with precise functions. By default, Metal reorders sums
// and uses fast functions.
Result<NS::SharedPtr<MTL::Library>> compile_kernels(MTL::Device& gpu) {
  const auto options = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
  if (__builtin_available(macOS 15.0, *)) {
    options->setMathMode(MTL::MathModeSafe);
    options->setMathFloatingPointFunctions(MTL::MathFloatingPointFunctionsPrecise);
  } else {
    options->setFastMathEnabled(false);
  }
  NS::Error* error = nullptr;
  auto library = NS::TransferPtr(gpu.newLibrary(ns_string(kernel_text().data()), options.get(), &error));
  if (!library) return fail("Metal: the kernels do not compile: {}", describe(error));
  return library;
}

// A command buffer that the GPU has received, and its kernels, for error messages.
struct Submission {
  NS::SharedPtr<MTL::CommandBuffer> commands;
  std::size_t n_launches = 0;
  KernelId first = KernelId::count, last = KernelId::count;

  [[nodiscard]] std::string what() const {
    if (n_launches == 1) return fmt::format("kernel {}", info(first).name);
    return fmt::format("one of {} launches, {} to {},", n_launches, info(first).name, info(last).name);
  }
};

class MetalDevice final : public gpu::Device {
 public:
  Result<void> start() {
    const auto pool = make_pool();
    PLUMB_TRY(gpu_, find_gpu());
    queue_ = NS::TransferPtr(gpu_->newCommandQueue());
    if (!queue_) return fail("Metal: {} gives no command queue", text_of(gpu_->name()));
    PLUMB_TRY(library_, compile_kernels(*gpu_.get()));
    description_ = describe(*gpu_.get());
    return {};
  }

  [[nodiscard]] std::string_view name() const override { return "metal"; }
  [[nodiscard]] std::string description() const override { return description_; }
  // The system may end a submission that takes the GPU for seconds.
  [[nodiscard]] std::uint32_t preferred_batch() const override { return 256; }

  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    const auto pool = make_pool();
    if (bytes > gpu_->maxBufferLength()) {
      return fail(
          "{:.2f} GiB are needed for {}, which is one buffer; one of {} holds at most {:.2f} GiB; use a smaller context or "
          "a smaller quantization",
          in_gib(bytes), what, text_of(gpu_->name()), in_gib(gpu_->maxBufferLength()));
    }
    // Metal refuses to make empty buffers.
    auto buffer = NS::TransferPtr(gpu_->newBuffer(std::max<NS::UInteger>(bytes, 1), MTL::ResourceStorageModeShared));
    if (!buffer) {
      return fail("the GPU has too little memory for {}: {:.2f} GiB needed; {}", what, in_gib(bytes), memory_in_use());
    }
    return std::make_unique<MetalMemory>(std::move(buffer), bytes);
  }
  Result<void> upload(const View& to, std::span<const std::byte> from) override {
    PLUMB_CHECK(wait());
    std::memcpy(address(to), from.data(), from.size());
    return {};
  }
  Result<void> download(const View& from, std::span<std::byte> to) override {
    PLUMB_CHECK(wait());
    std::memcpy(to.data(), address(from), to.size());
    return {};
  }

  Result<void> run(std::span<const Launch> launches, std::uint64_t /*tag*/) override {
    if (launches.empty()) return {};
    const auto pool = make_pool();
    // This may fail, so it runs before there is an encoder, which would be left open.
    for (const Launch& launch : launches) {
      if (launch.native) return fail("Metal was given another device's own kernel: this is a defect of Plumb");
      PLUMB_CHECK(prepare_kernel(launch.kernel));
    }
    // The command buffer keeps the buffers that it uses until it has run.
    auto commands = NS::RetainPtr(queue_->commandBuffer());
    if (!commands) return fail("Metal: {} gives no command buffer", text_of(gpu_->name()));
    MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder(MTL::DispatchTypeSerial);
    if (encoder == nullptr) return fail("Metal: {} gives no compute encoder", text_of(gpu_->name()));
    for (const Launch& launch : launches) encode(*encoder, launch);
    encoder->endEncoding();
    commands->commit();
    pending_.push_back({std::move(commands), launches.size(), launches.front().kernel, launches.back().kernel});
    return {};
  }

 private:
  // Compiles a kernel for this GPU, once.
  Result<void> prepare_kernel(KernelId kernel) {
    NS::SharedPtr<MTL::ComputePipelineState>& pipeline = pipelines_[static_cast<std::size_t>(kernel)];
    if (pipeline) return {};
    const std::string name(info(kernel).name);
    const auto function = NS::TransferPtr(library_->newFunction(ns_string(name.c_str())));
    if (!function) return fail("Metal: the kernels' text has no kernel {}", name);
    NS::Error* error = nullptr;
    auto made = NS::TransferPtr(gpu_->newComputePipelineState(function.get(), &error));
    if (!made) return fail("Metal: kernel {} does not compile for {}: {}", name, text_of(gpu_->name()), describe(error));
    if (made->threadExecutionWidth() != simd_width) {
      return fail("Metal: {} runs kernel {} in SIMD-groups of {} threads; the kernels are written for {}",
                  text_of(gpu_->name()), name, made->threadExecutionWidth(), simd_width);
    }
    pipeline = std::move(made);
    return {};
  }

  // Arguments have the buffer indices 0, 1, … in order, and the parameters the next one, as numbered in
  // kernels/interface.h.
  void encode(MTL::ComputeCommandEncoder& encoder, const Launch& launch) const {
    const KernelInfo& kernel = info(launch.kernel);
    encoder.setComputePipelineState(pipelines_[static_cast<std::size_t>(launch.kernel)].get());
    NS::UInteger index = 0;
    for (const gpu::Argument& argument : launch.arguments) {
      encoder.setBuffer(buffer_of(argument.view), argument.view.offset, index++);
    }
    encoder.setBytes(launch.params.data(), launch.params.size(), index);
    if (kernel.shared_bytes > 0) {
      constexpr NS::UInteger multiple = 16;  // Metal's rule for the length
      encoder.setThreadgroupMemoryLength((kernel.shared_bytes + multiple - 1) / multiple * multiple, 0);
    }
    encoder.dispatchThreadgroups(MTL::Size(launch.grid[0], launch.grid[1], launch.grid[2]),
                                 MTL::Size(kernel.threads, 1, 1));
  }

  // Waits until the GPU has finished everything. Returns the first error that occurred.
  Result<void> wait() {
    if (pending_.empty()) return {};
    const auto pool = make_pool();
    const std::vector<Submission> submissions = std::exchange(pending_, {});
    for (const Submission& submission : submissions) submission.commands->waitUntilCompleted();
    for (const Submission& submission : submissions) {
      if (submission.commands->status() != MTL::CommandBufferStatusError) continue;
      const NS::Error* error = submission.commands->error();
      if (is_out_of_memory(error)) {
        return fail("Metal: {} failed: {}; {}", submission.what(), describe(error), memory_in_use());
      }
      return fail("Metal: {} failed: {}", submission.what(), describe(error));
    }
    return {};
  }

  [[nodiscard]] std::string memory_in_use() const {
    return fmt::format(
        "{:.2f} GiB are in use of the {:.2f} GiB that {} recommends at most; use a smaller context or a smaller "
        "quantization",
        in_gib(gpu_->currentAllocatedSize()), in_gib(gpu_->recommendedMaxWorkingSetSize()), text_of(gpu_->name()));
  }

  std::string description_;
  NS::SharedPtr<MTL::Device> gpu_;
  NS::SharedPtr<MTL::CommandQueue> queue_;
  NS::SharedPtr<MTL::Library> library_;
  std::array<NS::SharedPtr<MTL::ComputePipelineState>, static_cast<std::size_t>(KernelId::count)>
      pipelines_;                    // by KernelId
  std::vector<Submission> pending_;  // in the order of submission
};

}  // namespace

}  // namespace metal

Result<std::string> describe_metal_device() {
  const auto pool = metal::make_pool();
  PLUMB_TRY(const auto gpu, metal::find_gpu());
  return metal::describe(*gpu.get());
}

Result<std::unique_ptr<gpu::Device>> make_metal_device() {
  auto device = std::make_unique<metal::MetalDevice>();
  PLUMB_CHECK(device->start());
  return device;
}

}  // namespace plumb::backends
