// Runs a Plan on the cpu backend: the Schedule's stages over a pool of threads.
#pragma once

#include <memory>

#include "backends/cpu/cpu.h"

namespace plumb::backends::cpu {

Result<std::unique_ptr<Executor>> make_executor(std::shared_ptr<const plan::Plan> plan, const LoadOptions& options,
                                                Isa isa);

}  // namespace plumb::backends::cpu
