// Which ops of a plan the tuned kernels take, and how: fusions by looking at the ops that follow.
//
// One token: a norm and the Linears that read it (rounded once, weights of one format in one launch, gate and up with their
// activation; float weights do the norm on the way); a Linear and the addition of its residual; both rotations and the
// write to the cache. 2 to most_few_rows tokens, of one sequence or many: the same fusions but for the rounding, which is
// to halves. Longer prompts: Linears as products in half precision with sums in float; attention on tensor cores.
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
  // As gpu::Device's.
  virtual Result<bool> prepare(const gpu::StepContext& step) = 0;
  virtual std::size_t emit(const gpu::StepContext& step, std::size_t op, gpu::Launches& to) = 0;
};

// `address` gives a Memory's place on the device. Without cuBLASLt (null) prompts are left to the shared kernels.
std::unique_ptr<Tuning> make_tuning(gpu::Device& device, std::function<std::byte*(const gpu::View&)> address,
                                    std::unique_ptr<CublasLt> cublas);

Result<void> check(cudaError_t error, std::string_view what);

}  // namespace plumb::backends::cuda
