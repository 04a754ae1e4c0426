// Which kernels this build has, which this processor can run.
#pragma once

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernels.h"
#include "quants/format.h"

namespace plumb::backends::cpu {

const KernelTable& kernels(Isa isa);

// What weights of a format multiply with.
Operand operand(quants::Format format);

}  // namespace plumb::backends::cpu
