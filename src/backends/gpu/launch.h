// Typed launches. Each signature of kernels/interface.h has a struct with a field for each argument. A launch names a
// kernel of that signature and passes such a struct:
//
//   launch(kernel::normalize, {n_rows}, sig::normalize{.x = x, .weight = w, .y = y, .p = {.group = d, .eps = eps}})
//
// A field left out, misnamed, out of order or of another element type does not compile.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backends/gpu/device.h"

namespace plumb::backends::gpu {

// The dialect's types on the host.
namespace dialect {
using uint = std::uint32_t;
using uchar = std::uint8_t;
using ushort = std::uint16_t;
using ulong = std::uint64_t;
struct half {
  std::uint16_t bits;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
#include "backends/gpu/kernels/interface.h"
}  // namespace dialect

// A View whose elements are T.
template <class T>
struct ViewOf {
  View view;
  ViewOf() = delete;
  explicit ViewOf(View v) : view(v) {}
};

namespace sig {
using namespace dialect;

#define PLUMB_HOST_BUFFER(i, T, name) ViewOf<T> name;
#define PLUMB_HOST_PARAMS(i, T) \
  T p;                          \
  using Params = T;
#define PLUMB_HOST_ADD_IN(i, T, name) arguments.push_back({(name).view, Access::in, sizeof(T), #name});
#define PLUMB_HOST_ADD_OUT(i, T, name) arguments.push_back({(name).view, Access::out, sizeof(T), #name});
#define PLUMB_HOST_ADD_INOUT(i, T, name) arguments.push_back({(name).view, Access::inout, sizeof(T), #name});

#define PLUMB_HOST_SIGNATURE(signature, name, n)                                                                     \
  struct signature {                                                                                                 \
    SIGNATURE_##signature(PLUMB_HOST_BUFFER, PLUMB_HOST_BUFFER, PLUMB_HOST_BUFFER, PLUMB_NOTHING, PLUMB_HOST_PARAMS) \
        [[nodiscard]] std::vector<Argument> list() const {                                                           \
      std::vector<Argument> arguments;                                                                               \
      SIGNATURE_##signature(PLUMB_HOST_ADD_IN, PLUMB_HOST_ADD_OUT, PLUMB_HOST_ADD_INOUT, PLUMB_NOTHING,              \
                            PLUMB_NOTHING) return arguments;                                                         \
    }                                                                                                                \
    static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) % 4 == 0 && alignof(Params) == 4,           \
                  "a parameter struct holds 4-byte fields only");                                                    \
  };

PLUMB_FORMAT_KERNELS(PLUMB_HOST_SIGNATURE, of_any_format)
PLUMB_SINGLE_KERNELS(PLUMB_HOST_SIGNATURE)
}  // namespace sig

// A kernel that takes the arguments of Signature.
template <class Signature>
struct Kernel {
  KernelId id;
};

namespace kernel {
#define PLUMB_KERNEL(signature, name, n) inline constexpr Kernel<sig::signature> name{KernelId::name};
PLUMB_KERNEL_LIST
#undef PLUMB_KERNEL
}  // namespace kernel

// Threadgroups.
struct Grid {
  std::uint32_t x = 1, y = 1, z = 1;
};

template <class Signature>
Launch launch(Kernel<Signature> kernel, Grid grid, const std::type_identity_t<Signature>& with) {
  Launch result{.kernel = kernel.id, .grid = {grid.x, grid.y, grid.z}, .arguments = with.list()};
  result.params.resize(sizeof with.p);
  std::memcpy(result.params.data(), &with.p, sizeof with.p);
  return result;
}

}  // namespace plumb::backends::gpu
