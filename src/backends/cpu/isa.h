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

}  // namespace plumb::backends::cpu
