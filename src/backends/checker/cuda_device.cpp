#include <vector>

#include "backends/checker/checker.h"
#include "backends/checker/runtime.h"
#include "backends/cuda/tuning.h"
#include "base/half.h"

namespace plumb::backends {

namespace cuda {  // renamed, see CMakeLists.txt

Result<void> check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return {};
  if (!checker::machine.fault.empty()) return fail("{}", checker::machine.fault);
  return fail("{}: {}", what, cudaGetErrorString(error));
}

namespace {

// Products of halves in plain loops, in place of cuBLASLt.
class PlainProducts final : public CublasLt {
 public:
  Result<void> multiply(const void* w, const void* x, const float* alpha, float* y, unsigned n_in, unsigned n_out,
                        unsigned n_rows, cudaStream_t) override {
    const auto* weights = static_cast<const std::uint16_t*>(w);
    const auto* rows = static_cast<const std::uint16_t*>(x);
    for (std::size_t r = 0; r < n_rows; ++r) {
      for (std::size_t j = 0; j < n_out; ++j) {
        float sum = 0;
        for (std::size_t i = 0; i < n_in; ++i) sum += f16_to_f32(weights[j * n_in + i]) * f16_to_f32(rows[r * n_in + i]);
        y[r * n_out + j] = *alpha * sum;
      }
    }
    checker::mark_written(y, std::size_t{n_rows} * n_out * sizeof(float));
    return {};
  }
};

// On a GPU weights are neighbours in memory, and a load of 4 bytes at a multiple of 2 may begin in the last 2 bytes of one.
constexpr std::uint64_t weight_room = 2;

class CudaCheckerDevice final : public gpu::Device {
 public:
  CudaCheckerDevice()
      : shared_(make_checker_device()),
        tuning_(make_tuning(*this, checker::address_of, std::make_unique<PlainProducts>())) {}

  [[nodiscard]] std::string_view name() const override { return "checker"; }
  [[nodiscard]] std::string description() const override {
    return "the tuned CUDA kernels, executed and checked on the CPU";
  }
  [[nodiscard]] bool isolates_values() const override { return true; }
  [[nodiscard]] std::uint32_t preferred_batch() const override { return shared_->preferred_batch(); }
  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    return shared_->allocate(bytes + (what == "the weights" ? weight_room : 0), what);
  }
  Result<void> upload(const gpu::View& to, std::span<const std::byte> from) override {
    if (to.memory->size() != from.size() + weight_room) return shared_->upload(to, from);
    std::vector<std::byte> weight(from.begin(), from.end());
    weight.resize(weight.size() + weight_room);
    return shared_->upload({to.memory, 0, weight.size()}, weight);
  }
  Result<void> download(const gpu::View& from, std::span<std::byte> to) override { return shared_->download(from, to); }
  void forget(const gpu::View& view) override { shared_->forget(view); }

  Result<void> run(std::span<const gpu::Launch> launches, std::uint64_t) override {
    for (const gpu::Launch& launch : launches) {
      if (!launch.native) {
        PLUMB_CHECK(shared_->run(std::span(&launch, 1), 0));
        continue;
      }
      const auto& tuned = static_cast<const TunedLaunch&>(*launch.native);
      checker::machine.kernel = tuned.name;
      PLUMB_CHECK(tuned.run(nullptr));
    }
    return {};
  }
  Result<bool> prepare(const gpu::StepContext& step) override { return tuning_->prepare(step); }
  std::size_t emit(const gpu::StepContext& step, std::size_t op, gpu::Launches& to) override {
    return tuning_->emit(step, op, to);
  }

 private:
  std::unique_ptr<gpu::Device> shared_;
  std::unique_ptr<Tuning> tuning_;
};

}  // namespace

}  // namespace cuda

std::unique_ptr<gpu::Device> make_cuda_checker_device() { return std::make_unique<cuda::CudaCheckerDevice>(); }

}  // namespace plumb::backends
