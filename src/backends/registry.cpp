#include <array>
#include <vector>

#include "backends/backend.h"
#include "backends/checker/checker.h"
#include "backends/cpu/cpu.h"
#include "backends/gpu/executor.h"
#include "backends/reference/reference.h"
#ifdef PLUMB_WITH_CUDA
#include "backends/cuda/cuda.h"
#endif

namespace plumb::backends {

namespace {

Result<std::unique_ptr<Backend>> make_cuda() {
#ifdef PLUMB_WITH_CUDA
  PLUMB_TRY(const std::string description, describe_cuda_device());
  return gpu::make_backend("cuda", make_cuda_device, description);
#else
  return fail("the backend 'cuda' is not part of this build: no nvcc was found when Plumb was built; use --backend cpu");
#endif
}

constexpr std::array<BackendEntry, 5> entries{{
    {"cuda", make_cuda},
    {"metal",
     []() -> Result<std::unique_ptr<Backend>> {
       return fail(
           "the backend 'metal' is not part of this build: its kernels exist, what runs them on a Mac does not yet; use "
           "--backend cpu");
     }},
    {"cpu", []() -> Result<std::unique_ptr<Backend>> { return make_cpu(); }},
    {"reference", []() -> Result<std::unique_ptr<Backend>> { return make_reference(); }},
    {"checker",
     []() -> Result<std::unique_ptr<Backend>> {
       return gpu::make_backend(
           "checker", []() -> Result<std::unique_ptr<gpu::Device>> { return make_checker_device(); },
           make_checker_device()->description());
     }},
}};

}  // namespace

std::span<const BackendEntry> all() { return entries; }

Result<std::unique_ptr<Backend>> make(std::string_view name) {
  std::vector<std::string_view> names{"auto"};
  for (const BackendEntry& entry : entries) {
    if (name == "auto") {
      if (auto backend = entry.make()) return backend;
    } else if (entry.name == name) {
      return entry.make();
    }
    names.push_back(entry.name);
  }
  return fail("'{}' is no backend; there are {}", name, fmt::join(names, ", "));
}

}  // namespace plumb::backends
