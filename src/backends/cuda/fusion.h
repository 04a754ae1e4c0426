// Describes which ops of a step's plan run together in tuned kernels. Nothing here launches kernels or keeps state.
//
// One token: a norm runs with the Linears that read it. It is rounded once, weights of one format share a launch, gate and
// up run with their activation, and float weights compute the norm within the product. A Linear runs with the addition of
// its residual, and both rotations run with the write to the cache. 2 to most_few_rows tokens, of one sequence or many: the
// same fusions, but rounding is to halves. Longer prompts: Linears are products in half precision with sums in float;
// attention runs on tensor cores.
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "backends/gpu/step.h"

namespace plumb::backends::cuda {

// Linears with the same x.
struct FusedLinears {
  enum class Input : std::uint8_t {
    floats,   // floats, possibly normalized within the product
    rounded,  // one row as Rounded; weights that need floats get floats
    few,      // rows as HalfRows
    halves,   // rows of halves for cuBLASLt
  };
  Input input = Input::floats;
  bool is_there = false;             // an earlier launch has made x in this form
  const plan::Norm* norm = nullptr;  // the norm that makes x
  std::vector<std::vector<const plan::Linear*>> launches;
  const plan::Activate* activate = nullptr;  // takes the results of the two Linears
  const plan::Add* residual = nullptr;       // added to the only Linear
};

struct FusedRotation {
  const plan::Rope* q = nullptr;
  const plan::Rope* k = nullptr;
  const plan::KvWrite* write = nullptr;
};

// A long run of a sequence's tokens runs on tensor cores. Other tokens run one by one; neighbours share a launch.
struct FusedAttention {
  struct Part {
    Run rows;
    bool is_prompt = false;
  };
  const plan::Attention* op = nullptr;
  std::vector<Part> parts;
  bool rounds = false;  // also gives the result rounded
};

struct Fusion {
  std::size_t n_ops = 0;  // ops covered; 0: the shared kernels run the op
  std::variant<std::monostate, FusedLinears, FusedRotation, FusedAttention> what;
};

// The facts about a step that fuse() uses.
struct FusionInput {
  const gpu::StepContext& step;
  std::span<const std::uint32_t> readers;  // how often each value is read, by ValueId
  bool has_cublas = false;
};

// The fusion that begins with op number `op`.
Fusion fuse(const FusionInput& input, std::size_t op);

// Whether a Linear runs on multiply_few (by_few_rows) or on cuBLASLt (by_halves).
bool by_few_rows(const gpu::StepContext& step, const plan::Linear& linear);
bool by_halves(const FusionInput& input, const plan::Linear& linear);
// Whether attention takes all tokens of a run together.
bool is_prompt(const Run& run);

}  // namespace plumb::backends::cuda
