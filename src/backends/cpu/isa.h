// The kernels that this build has and this processor can run.
#pragma once

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernels.h"
#include "quants/format.h"

namespace plumb::backends::cpu {

const KernelTable& kernels(Isa isa);

// The form of activations that weights of a format multiply.
Operand operand(quants::Format format);

}  // namespace plumb::backends::cpu
