#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <utility>

#include "backends/checker/checker.h"
#include "backends/checker/runtime.h"

namespace plumb::backends {

namespace checker {

namespace {

using gpu::Access;
using gpu::Argument;
using gpu::Launch;
using gpu::View;

std::recursive_mutex lock;  // the process has one set of fibers, addresses and machine state

class CheckedMemory final : public gpu::Memory {
 public:
  explicit CheckedMemory(std::unique_ptr<Region> region) : Memory(region->size()), region_(std::move(region)) {}
  ~CheckedMemory() override {
    const std::lock_guard guard(lock);
    region_.reset();
  }
  [[nodiscard]] Region& region() const { return *region_; }

 private:
  std::unique_ptr<Region> region_;
};

Region& region_of(const View& view) { return static_cast<CheckedMemory*>(view.memory)->region(); }

// Accesses are recorded by elements whose size is a power of two.
std::uint32_t shift_of(std::uint64_t bytes) { return static_cast<std::uint32_t>(std::countr_zero(bytes)); }

// Binds a launch's arguments during its lifetime.
class Bound {
 public:
  Bound(const Launch& launch, Region* params, Region* shared, std::uint64_t alignment) {
    for (const Argument& argument : launch.arguments) {
      Region& region = region_of(argument.view);
      bind(region, {.begin = argument.view.offset,
                    .end = argument.view.offset + argument.view.bytes,
                    .element_shift = shift_of(argument.element_bytes),
                    .access = argument.access,
                    .name = argument.name});
      addresses_.push_back(region.data() + argument.view.offset);
    }
    if (params != nullptr) {
      std::memcpy(params->data(), launch.params.data(), launch.params.size());
      params->set_written(0, params->size());
      bind(*params, {.begin = 0, .end = launch.params.size(), .element_shift = 2, .access = Access::in, .name = "p"});
      addresses_.push_back(params->data());
    }
    if (shared != nullptr) {
      shared->shared = true;
      bind(*shared, {.begin = 0,
                     .end = shared->size(),
                     .element_shift = shift_of(alignment),
                     .access = Access::inout,
                     .name = "shared memory"});
    }
    for (const Argument& argument : launch.arguments) {
      if (argument.access != Access::out || read_too(launch, argument)) continue;
      region_of(argument.view).set_unwritten(argument.view.offset, argument.view.bytes);
    }
  }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  ~Bound() {
    for (Region* region : regions_) {
      region->bindings.clear();
      region->raced = false;
    }
  }
  [[nodiscard]] void* const* addresses() const { return addresses_.data(); }

 private:
  void bind(Region& region, const Region::Binding& binding) {
    region.bindings.push_back(binding);
    region.raced |= binding.access != Access::in;
    regions_.push_back(&region);
  }
  static bool read_too(const Launch& launch, const Argument& out) {
    for (const Argument& other : launch.arguments) {
      if (other.access != Access::out && other.view.memory == out.view.memory) return true;
    }
    return false;
  }

  std::vector<void*> addresses_;
  std::vector<Region*> regions_;
};

Result<void> check_outputs(const Launch& launch) {
  for (const Argument& argument : launch.arguments) {
    if (argument.access != Access::out) continue;
    Region& region = region_of(argument.view);
    const Cell* cells = region.cells(shift_of(argument.element_bytes));
    const std::uint64_t first = argument.view.offset / argument.element_bytes;
    const std::uint64_t n = argument.view.bytes / argument.element_bytes;
    for (std::uint64_t i = 0; i < n; ++i) {
      if (cells[first + i].write.stamp() >= machine.launch_start) continue;
      return fail("kernel {}: element {} of its output '{}' is left unwritten", machine.kernel, i, argument.name);
    }
  }
  return {};
}

class CheckerDevice final : public gpu::Device {
 public:
  [[nodiscard]] std::string_view name() const override { return "checker"; }
  [[nodiscard]] std::string description() const override {
    return "the GPU kernels' Metal text, executed and checked on the CPU, 1 thread";
  }
  [[nodiscard]] bool isolates_values() const override { return true; }
  [[nodiscard]] std::uint32_t preferred_batch() const override { return 64; }

  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    const std::lock_guard guard(lock);
    auto region = make_region(std::max<std::uint64_t>(bytes, 1));
    if (!region) return fail("the checker has no addresses left for {} bytes of {}", bytes, what);
    region->label = what;
    return std::make_unique<CheckedMemory>(std::move(region));
  }
  Result<void> upload(const View& to, std::span<const std::byte> from) override {
    std::memcpy(region_of(to).data() + to.offset, from.data(), from.size());
    region_of(to).set_written(to.offset, from.size());
    region_of(to).constant = from.size() == region_of(to).size();
    return {};
  }
  Result<void> download(const View& from, std::span<std::byte> to) override {
    const Region& region = region_of(from);
    if (!region.is_written(from.offset, to.size())) return fail("the host reads device memory that nobody has written");
    std::memcpy(to.data(), region.data() + from.offset, to.size());
    return {};
  }
  void forget(const View& view) override { region_of(view).set_unwritten(view.offset, view.bytes); }

  Result<void> run(std::span<const Launch> launches, std::uint64_t) override {
    const std::lock_guard guard(lock);
    for (const Launch& launch : launches) {
      const auto index = static_cast<std::size_t>(launch.kernel);
      const gpu::KernelInfo& info = gpu::kernel_infos()[index];
      PLUMB_CHECK(run_kernel(kernel_entries()[index], info.name, info.threads, launch));
    }
    return {};
  }
};

}  // namespace

Result<void> run_kernel(const KernelEntry& entry, std::string_view name, std::uint32_t n_threads, const Launch& launch) {
  const std::lock_guard guard(lock);
  const auto params = launch.params.empty() ? nullptr : make_region(launch.params.size());
  const auto shared = entry.shared_bytes == 0 ? nullptr : make_region(entry.shared_bytes);
  const Bound bound(launch, params.get(), shared.get(), entry.shared_alignment);
  machine.kernel = name;
  void* const shared_data = shared ? shared->data() : nullptr;
  if (!run_threadgroups(launch.grid, n_threads, entry.body, bound.addresses(), shared_data)) {
    return fail("{}", machine.fault);
  }
  return check_outputs(launch);
}

std::byte* address_of(const View& view) { return view.memory == nullptr ? nullptr : region_of(view).data() + view.offset; }

}  // namespace checker

std::unique_ptr<gpu::Device> make_checker_device() { return std::make_unique<checker::CheckerDevice>(); }

}  // namespace plumb::backends
