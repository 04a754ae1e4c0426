// Stages of products with weights: Linears, and the experts of ExpertLinears. An item is some rows of one weight; for
// experts, of one expert's weight and one token.
#pragma once

#include <cstdint>

#include "backends/cpu/workspace.h"

namespace plumb::backends::cpu {

std::uint32_t begin_stage(const Workspace& w, const LinearStage& stage);
void run_item(const Workspace& w, const LinearStage& stage, std::uint32_t item, std::uint32_t thread);
std::uint32_t begin_stage(const Workspace& w, const ExpertStage& stage);
void run_item(const Workspace& w, const ExpertStage& stage, std::uint32_t item, std::uint32_t thread);

// Rounds a row of activations for the products that follow.
void run_row(const Workspace& w, const Quantize& op, std::uint32_t row);

}  // namespace plumb::backends::cpu
