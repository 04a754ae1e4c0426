// A Plan as stages for the pool, and where its values lie.
//
// Ops that work row by row (norms, additions, rotations, rounding of activations) follow each other within one stage: a
// thread takes some rows through all of them. Linears that do not need each other's results share a stage. Memory is given
// to values for the stages in which they are alive, in bytes a row, so that one layout serves steps of any length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/rotary.h"
#include "plan/plan.h"

namespace plumb::backends::cpu {

// Rows of a value rounded to int8 planes, for the Linears that follow.
struct Quantize {
  plan::ValueId x;
  Operand kind = Operand::x128;
  std::uint32_t buffer = 0;
  plan::Rows rows = plan::Rows::tokens;
  std::uint32_t n_parts = 1;  // a row is rounded in so many parts, each an operand of its own
  bool alone = false;         // operands are multiplied one by one
};
// Fills the angles of the step's positions.
struct Turn {
  std::uint32_t angles = 0;
};
// Adds up what Attention left for each block of the cache.
struct Merge {
  std::uint32_t op = 0;  // of the Plan: an Attention
};
// An op of the Plan that works row by row.
struct PlanOp {
  std::uint32_t op = 0;
};
using RowOp = std::variant<PlanOp, Quantize, Turn, Merge>;

struct RowStage {
  std::vector<RowOp> ops;
  plan::Rows rows = plan::Rows::tokens;
};
struct LinearStage {
  struct Part {
    std::uint32_t op = 0;
    std::uint32_t buffer = 0;  // of the rounded input; unused with float weights
    WeightFormat format = WeightFormat::f32;
  };
  std::vector<Part> parts;
};
// The products of each token with each of its experts.
struct ExpertStage {
  LinearStage::Part part;
};
struct AttentionStage {
  std::uint32_t op = 0;
};
using Stage = std::variant<RowStage, LinearStage, ExpertStage, AttentionStage>;

// Bytes from the start of its arena for each row of the step that the arena holds: an offset is multiplied by the rows.
struct Place {
  plan::Rows arena = plan::Rows::tokens;
  std::size_t offset = 0;
};

struct Schedule {
  std::vector<Stage> stages;
  std::vector<Place> values;    // by ValueId
  std::vector<Place> buffers;   // of rounded activations
  std::size_t token_bytes = 0;  // of the arenas, a row
  std::size_t output_bytes = 0;
  std::vector<Angles> angles;
  std::vector<std::uint32_t> angles_of;  // by op: which angles a Rope uses
  std::vector<std::uint32_t> stage_of;   // by op
};

// Fails where a tensor's shape, format or bytes are not what its op can run on. `planes`: of rounded activations.
Result<Schedule> make_schedule(const plan::Plan& plan, const std::vector<std::vector<float>>& vectors, int planes);

// Bytes of a row of n activations.
std::size_t operand_bytes(Operand kind, std::uint64_t n, int planes);

}  // namespace plumb::backends::cpu
