// Stages whose ops work row by row: a thread takes some rows through all of the stage's ops.
//
// An op of the plan that works so is one function in row_ops.cpp, and nothing else on the CPU knows of it.
#pragma once

#include <cstdint>

#include "backends/cpu/workspace.h"

namespace plumb::backends::cpu {

// The stage's items; 0 where there are so few rows that it has been run.
std::uint32_t begin_stage(const Workspace& w, const RowStage& stage);
void run_item(const Workspace& w, const RowStage& stage, std::uint32_t item, std::uint32_t thread);

}  // namespace plumb::backends::cpu
