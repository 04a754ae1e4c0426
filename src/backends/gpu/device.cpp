#include "backends/gpu/device.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "backends/gpu/launch.h"

namespace plumb::backends::gpu {

namespace dialect {
#include "backends/gpu/kernels/shared.h"
}  // namespace dialect

namespace {

constexpr std::uint32_t sum_of(std::initializer_list<std::size_t> sizes) {
  std::size_t sum = 0;
  for (const std::size_t size : sizes) sum += size;
  return static_cast<std::uint32_t>(sum);
}

}  // namespace

std::span<const KernelInfo> kernel_infos() {
  using namespace dialect;
#define PLUMB_SHARED_BYTES(T, name) sizeof(T),
#define PLUMB_KERNEL(signature, name, n) \
  {#name, n,                             \
   sum_of({SIGNATURE_##signature(PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_NOTHING, PLUMB_SHARED_BYTES, PLUMB_NOTHING)})},
  static constexpr KernelInfo infos[] = {PLUMB_KERNEL_LIST};
#undef PLUMB_KERNEL
#undef PLUMB_SHARED_BYTES
  return infos;
}

Result<Views> allocate_views(Device& device, std::span<const std::uint64_t> sizes, std::string_view what) {
  Views result;
  if (device.isolates_values()) {
    for (const std::uint64_t size : sizes) {
      PLUMB_TRY(auto memory, device.allocate(std::max<std::uint64_t>(1, size), what));
      result.views.push_back({memory.get(), 0, size});
      result.memories.push_back(std::move(memory));
    }
    return result;
  }
  std::uint64_t total = 0;
  for (const std::uint64_t size : sizes) {
    result.views.push_back({nullptr, total, size});
    total += (size + view_alignment - 1) / view_alignment * view_alignment;
  }
  PLUMB_TRY(auto memory, device.allocate(total + view_alignment, what));
  for (View& view : result.views) view.memory = memory.get();
  result.memories.push_back(std::move(memory));
  return result;
}

}  // namespace plumb::backends::gpu
