// The planted kernels (kernels.h) for the host.
#pragma once

#include "backends/checker/runtime.h"
#include "backends/planted/list.h"

namespace plumb::backends::planted {

enum class Id : int {
#define PLANTED_ID(signature, name, n) name,
  PLANTED_KERNEL_LIST(PLANTED_ID)
#undef PLANTED_ID
};

inline constexpr std::string_view names[] = {
#define PLANTED_NAME(signature, name, n) #name,
    PLANTED_KERNEL_LIST(PLANTED_NAME)
#undef PLANTED_NAME
};

checker::KernelEntry entry(Id id);

}  // namespace plumb::backends::planted
