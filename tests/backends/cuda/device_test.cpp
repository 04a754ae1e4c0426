// The CUDA backend's host code on the checker's stand-in for CUDA, which performs queued work only where the host waits for
// it. Kernels are functions of this file.
#include "backends/cuda/cuda.h"

#include <gtest/gtest.h>

#include <numeric>

#include "backends/cuda/kernels.h"
#include "backends/cuda/tuning.h"
#include "backends/gpu/launch.h"

namespace plumb::backends {

namespace cuda {

// y = a + b, in place of every shared kernel.
const void* shared_kernel(unsigned) {
  static const checker::HostKernel add{
      .argument_bytes = {sizeof(void*), sizeof(void*), sizeof(void*), sizeof(gpu::sig::CountParams)},
      .run = [](dim3, void* const* arguments) {
        const auto floats = [&](std::size_t i) { return *static_cast<float**>(arguments[i]); };
        const auto n = static_cast<const gpu::sig::CountParams*>(arguments[3])->n;
        for (std::size_t i = 0; i < n; ++i) floats(2)[i] = floats(0)[i] + floats(1)[i];
      }};
  return &add;
}

Result<std::unique_ptr<CublasLt>> CublasLt::open() { return fail("there is no cuBLASLt here"); }

std::unique_ptr<Tuning> make_tuning(gpu::Device&, std::function<std::byte*(const gpu::View&)>, std::unique_ptr<CublasLt>) {
  return nullptr;
}

}  // namespace cuda

namespace {

using checker::host_machine;
using gpu::View;

constexpr std::size_t few = 8;
constexpr std::size_t many = (std::size_t{9} << 20) / sizeof(float);  // more than device.cpp's pinned memory

std::vector<float> counting(std::size_t n, float from) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), from);
  return values;
}

class CudaDevice : public testing::Test {
 protected:
  CudaDevice() {
    host_machine() = {};
    auto made = make_cuda_device();
    EXPECT_TRUE(made) << made.error().message;
    device_ = std::move(*made);
  }
  ~CudaDevice() override {
    device_.reset();
    EXPECT_EQ(host_machine().mistakes, std::vector<std::string>{});
    EXPECT_EQ(checker::n_host_objects(), 0);
  }

  std::unique_ptr<gpu::Memory> allocate(std::size_t n) {
    auto memory = device_->allocate(n * sizeof(float), "a test");
    EXPECT_TRUE(memory) << memory.error().message;
    return std::move(*memory);
  }
  static View whole(const std::unique_ptr<gpu::Memory>& memory) { return {memory.get(), 0, memory->size()}; }

  void upload(const View& to, const std::vector<float>& from) {
    ASSERT_TRUE(device_->upload(to, std::as_bytes(std::span(from))));
  }
  // Uploads from memory that changes as soon as upload() has returned.
  void upload_and_change(const View& to, std::vector<float> from) {
    upload(to, from);
    std::fill(from.begin(), from.end(), -1.0f);
  }
  std::vector<float> download(const View& from) {
    std::vector<float> to(from.bytes / sizeof(float), -2.0f);
    EXPECT_TRUE(device_->download(from, std::as_writable_bytes(std::span(to))));
    return to;
  }

  static gpu::Launch add(const View& a, const View& b, const View& y) {
    const auto n = static_cast<std::uint32_t>(y.bytes / sizeof(float));
    using gpu::ViewOf;
    return gpu::launch(gpu::kernel::add, {},
                       {.a = ViewOf<float>(a), .b = ViewOf<float>(b), .y = ViewOf<float>(y), .p = {n}});
  }
  void run(const gpu::Launches& launches, std::uint64_t tag = 0) { ASSERT_TRUE(device_->run(launches, tag)); }

  std::unique_ptr<gpu::Device> device_;
};

class CudaDeviceCopies : public CudaDevice, public testing::WithParamInterface<std::size_t> {};

TEST_P(CudaDeviceCopies, AnUploadHasReadItsSourceWhenItReturns) {
  const auto x = allocate(GetParam());
  upload_and_change(whole(x), counting(GetParam(), 3));
  EXPECT_EQ(download(whole(x)), counting(GetParam(), 3));
}

TEST_P(CudaDeviceCopies, ADownloadWaitsForTheLaunchesBeforeIt) {
  const auto x = allocate(GetParam()), y = allocate(GetParam());
  upload(whole(x), counting(GetParam(), 0));
  run({add(whole(x), whole(x), whole(y))});
  std::vector<float> expected = counting(GetParam(), 0);
  for (float& value : expected) value *= 2;
  EXPECT_EQ(download(whole(y)), expected);
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaDeviceCopies, testing::Values(few, many),
                         [](const auto& of) { return of.param == few ? "Few" : "Many"; });

TEST_F(CudaDevice, UploadsKeepTheirContentHoweverManyAreQueued) {
  // Their sizes sum to several times the pinned memory.
  constexpr std::size_t n = (std::size_t{3} << 20) / sizeof(float);
  std::vector<std::unique_ptr<gpu::Memory>> memories;
  for (std::size_t i = 0; i < 11; ++i) {
    memories.push_back(allocate(n));
    upload_and_change(whole(memories.back()), counting(n, static_cast<float>(i)));
  }
  for (std::size_t i = 0; i < memories.size(); ++i) {
    EXPECT_EQ(download(whole(memories[i])), counting(n, static_cast<float>(i))) << i;
  }
}

TEST_F(CudaDevice, RequestsTakeEffectInOrder) {
  const auto x = allocate(few), y = allocate(2 * few);
  const View first{y.get(), 0, few * sizeof(float)}, second{y.get(), few * sizeof(float), few * sizeof(float)};
  upload_and_change(whole(x), std::vector<float>(few, 1));
  run({add(whole(x), whole(x), first), add(first, whole(x), second)});
  upload_and_change(whole(x), std::vector<float>(few, 10));
  run({add(first, whole(x), first)});
  EXPECT_EQ(download(first), std::vector<float>(few, 12));
  EXPECT_EQ(download(second), std::vector<float>(few, 3));
}

TEST_F(CudaDevice, ADownloadLeavesLaterUploadsAlone) {
  const auto x = allocate(few), y = allocate(few);
  upload_and_change(whole(x), counting(few, 1));
  EXPECT_EQ(download(whole(x)), counting(few, 1));
  upload_and_change(whole(y), counting(few, 2));
  upload_and_change(whole(x), counting(few, 3));
  EXPECT_EQ(download(whole(x)), counting(few, 3));
  EXPECT_EQ(download(whole(y)), counting(few, 2));
}

TEST_F(CudaDevice, NativeLaunchesRunAmongTheOthers) {
  const auto x = allocate(few);
  upload_and_change(whole(x), std::vector<float>(few, 1));
  gpu::Launch native;
  native.native = std::make_shared<cuda::TunedLaunch>("native", [&](cudaStream_t stream) -> Result<void> {
    EXPECT_TRUE(device_->run(std::vector{add(whole(x), whole(x), whole(x))}, 0));
    EXPECT_NE(stream, nullptr);
    return {};
  });
  run({add(whole(x), whole(x), whole(x)), native});
  EXPECT_EQ(download(whole(x)), std::vector<float>(few, 4));
}

TEST_F(CudaDevice, ARecordingRunsAsOftenAsItIsAskedFor) {
  const auto x = allocate(few), sum = allocate(few);
  const gpu::Launches launches{add(whole(sum), whole(x), whole(sum))};
  upload_and_change(whole(sum), std::vector<float>(few, 0));
  for (const float value : {1.0f, 20.0f, 300.0f}) {
    upload_and_change(whole(x), std::vector<float>(few, value));
    run(launches, 7);
  }
  EXPECT_EQ(download(whole(sum)), std::vector<float>(few, 321));
}

TEST_F(CudaDevice, ForgettingARecordingWaitsForIt) {
  const auto x = allocate(few);
  upload_and_change(whole(x), std::vector<float>(few, 1));
  run({add(whole(x), whole(x), whole(x))}, 7);
  device_->forget_recordings();
  run({add(whole(x), whole(x), whole(x)), add(whole(x), whole(x), whole(x))}, 7);
  EXPECT_EQ(download(whole(x)), std::vector<float>(few, 8));
}

TEST_F(CudaDevice, ALaunchThatFailsEndsItsRecording) {
  gpu::Launch failing;
  failing.native = std::make_shared<cuda::TunedLaunch>("failing", [](cudaStream_t) { return Result<void>(fail("no")); });
  const auto failed = device_->run(std::vector{failing}, 7);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().message, "no");
  const auto x = allocate(few);
  upload_and_change(whole(x), std::vector<float>(few, 1));
  run({add(whole(x), whole(x), whole(x))}, 7);
  EXPECT_EQ(download(whole(x)), std::vector<float>(few, 2));
}

// What these cause is seen by ~CudaDevice.
TEST_F(CudaDevice, FreedMemoryIsNoLongerInUse) {
  const auto x = allocate(few);
  upload_and_change(whole(x), std::vector<float>(few, 1));
}

TEST_F(CudaDevice, MemoryMayOutliveTheDevice) {
  const auto x = allocate(few);
  upload_and_change(whole(x), std::vector<float>(few, 1));
  device_.reset();
}

TEST_F(CudaDevice, ShortMemoryIsAnErrorThatSaysHowMuch) {
  host_machine().free_bytes = std::size_t{1} << 30;
  const auto memory = device_->allocate(std::uint64_t{3} << 30, "the weights");
  ASSERT_FALSE(memory);
  EXPECT_EQ(
      memory.error().message,
      "the GPU has too little memory for the weights: 3.00 GiB needed, 1.00 of 1.00 GiB free; use a smaller context or a "
      "smaller quantization");
}

TEST_F(CudaDevice, IsDescribed) {
  EXPECT_EQ(describe_cuda_device().value(), "Stand-in, 1.0 GiB, compute capability 9.0");
  host_machine().compute_major = 7;
  EXPECT_EQ(describe_cuda_device().error().message,
            "the backend 'cuda' needs a GPU of compute capability 8.0 or newer; Stand-in has 7.0");
  host_machine().n_devices = 0;
  EXPECT_EQ(describe_cuda_device().error().message,
            "the backend 'cuda' found no NVIDIA GPU (none is installed); use --backend cpu");
}

}  // namespace
}  // namespace plumb::backends
