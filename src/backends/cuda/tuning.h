// Launches the CUDA backend's tuned kernels in place of a plan's ops. fusion.h says which ops run together.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string_view>

#include "backends/cuda/cublas_lt.h"
#include "backends/gpu/device.h"

namespace plumb::backends::cuda {

class TunedLaunch final : public gpu::NativeLaunch {
 public:
  TunedLaunch(std::string_view called, std::function<Result<void>(cudaStream_t)> queue)
      : name(called), run(std::move(queue)) {}
  std::string_view name;
  std::function<Result<void>(cudaStream_t)> run;
};

class Tuning {
 public:
  virtual ~Tuning() = default;
  // The same as gpu::Device's functions.
  virtual Result<bool> prepare(const gpu::StepContext& step) = 0;
  virtual std::size_t emit(const gpu::StepContext& step, std::size_t op, gpu::Launches& to) = 0;
};

// `address` gives the device address of a View. Without cuBLASLt (null), prompts run on the shared kernels.
std::unique_ptr<Tuning> make_tuning(gpu::Device& device, std::function<std::byte*(const gpu::View&)> address,
                                    std::unique_ptr<CublasLt> cublas);

Result<void> check(cudaError_t error, std::string_view what);

}  // namespace plumb::backends::cuda
