// A Plan as stages for the pool, and the memory layout of its values.
//
// Ops that work row by row (norms, additions, rotations, rounding of activations) follow each other within one stage: a
// thread takes some rows through all of them. Linears that do not need each other's results share a stage. A value has
// memory for the stages in which it is needed, counted in bytes for each row, so that one layout serves steps of any
// length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/layout.h"
#include "backends/rotary.h"
#include "plan/plan.h"

namespace plumb::backends::cpu {

// Brings rows of a value into the form that the Linears which follow multiply.
struct MakeOperand {
  plan::ValueId x;
  Operand kind = Operand::f32;
  std::uint32_t buffer = 0;
  plan::Rows rows = plan::Rows::tokens;
  std::uint32_t n_parts = 1;  // of a row, each a separate operand
  bool alone = false;         // operands are multiplied one by one
};
// Computes the sines and cosines for the step's positions.
struct Turn {
  std::uint32_t angles = 0;  // index in Rotations::angles
};
// Adds up the results of Attention over the blocks of the cache.
struct Merge {
  std::uint32_t op = 0;  // the Attention's index in the Plan
};
// An op of the Plan that works row by row.
struct PlanOp {
  std::uint32_t op = 0;
};
using RowOp = std::variant<PlanOp, MakeOperand, Turn, Merge>;

struct RowStage {
  std::vector<RowOp> ops;
  plan::Rows rows = plan::Rows::tokens;
};
struct LinearStage {
  struct Part {
    std::uint32_t op = 0;
    std::uint32_t buffer = 0;  // has the operand
    quants::Format format = quants::Format::f32;
  };
  std::vector<Part> parts;
};
// The product of each token with each of its experts.
struct ExpertStage {
  LinearStage::Part part;
};
struct AttentionStage {
  std::uint32_t op = 0;
};
using Stage = std::variant<RowStage, LinearStage, ExpertStage, AttentionStage>;

struct Schedule {
  std::vector<Stage> stages;
  Layout layout;  // the values by ValueId, then the buffers of operands
  Rotations rotations;
  std::vector<std::uint32_t> stage_of;  // by op
};

// `planes`: of rounded activations.
Schedule make_schedule(const plan::Plan& plan, Rotations rotations, int planes);

// Bytes of a row of n activations.
std::size_t operand_bytes(Operand kind, std::uint64_t n, int planes);

}  // namespace plumb::backends::cpu
