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
#ifdef PLUMB_WITH_METAL
#include "backends/metal/metal.h"
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

Result<std::unique_ptr<Backend>> make_metal() {
#if defined(PLUMB_WITH_METAL)
  PLUMB_TRY(const std::string description, describe_metal_device());
  return gpu::make_backend("metal", make_metal_device, description);
#elif defined(__APPLE__)
  return fail(
      "the backend 'metal' is not part of this build: PLUMB_METAL was off when Plumb was built, or metal-cpp was not "
      "found; use --backend cpu");
#else
  return fail("the backend 'metal' is not part of this build: it is for Macs; use --backend cpu");
#endif
}

constexpr std::array<BackendEntry, 5> entries{{
    {"cuda", make_cuda},
    {"metal", make_metal, true},
    {"cpu", []() -> Result<std::unique_ptr<Backend>> { return make_cpu(); }},
    {"reference", []() -> Result<std::unique_ptr<Backend>> { return make_reference(); }},
    {"checker",
     []() -> Result<std::unique_ptr<Backend>> {
       return gpu::make_backend(
           "checker", []() -> Result<std::unique_ptr<gpu::Device>> { return make_checker_device(); },
           make_checker_device()->description());
     },
     true},
}};

}  // namespace

std::span<const BackendEntry> all() { return entries; }

Result<std::unique_ptr<Backend>> make(std::string_view name) {
  std::vector<std::string_view> names{"auto"};
  for (const BackendEntry& entry : entries) {
    if (name == "auto") {
      if (entry.by_name_only) continue;
      if (auto backend = entry.make()) return backend;
    } else if (entry.name == name) {
      return entry.make();
    }
    names.push_back(entry.name);
  }
  return fail("'{}' is no backend; there are {}", name, fmt::join(names, ", "));
}

}  // namespace plumb::backends
