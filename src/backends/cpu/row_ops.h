// Stages whose ops work row by row: a thread takes some rows through all of the stage's ops.
//
// Each such op of the plan is one function in row_ops.cpp; no other file of the cpu backend depends on the op.
#pragma once

#include <cstdint>

#include "backends/cpu/workspace.h"

namespace plumb::backends::cpu {

// The number of the stage's items; 0 if there were so few rows that they have been run here.
std::uint32_t begin_stage(const Workspace& w, const RowStage& stage);
void run_item(const Workspace& w, const RowStage& stage, std::uint32_t item, std::uint32_t thread);

}  // namespace plumb::backends::cpu
