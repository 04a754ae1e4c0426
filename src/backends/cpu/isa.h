// Which kernels this build has, which this processor can run.
#pragma once

#include "backends/cpu/cpu.h"
#include "backends/cpu/kernels.h"
#include "quants/format.h"

namespace plumb::backends::cpu {

const KernelTable& kernels(Isa isa);

// The place of a file's format in KernelTable::dot, and what it multiplies with.
WeightFormat weight_format(quants::Format format);
Operand operand(WeightFormat format);

// Cores that this process may run on.
std::uint32_t usable_cores();

}  // namespace plumb::backends::cpu
