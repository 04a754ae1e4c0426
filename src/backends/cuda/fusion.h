// Which ops of a step's plan run together in tuned kernels, as a description: nothing here launches or remembers anything.
//
// One token: a norm and the Linears that read it (rounded once, weights of one format in one launch, gate and up with their
// activation; float weights do the norm on the way); a Linear and the addition of its residual; both rotations and the
// write to the cache. 2 to most_few_rows tokens, of one sequence or many: the same fusions but for the rounding, which is
// to halves. Longer prompts: Linears as products in half precision with sums in float; attention on tensor cores.
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "backends/gpu/step.h"

namespace plumb::backends::cuda {

// Linears of one x.
struct FusedLinears {
  enum class Input : std::uint8_t {
    floats,   // as they are, or normalized on the way
    rounded,  // one row as Rounded, for the weights that take it
    few,      // rows as HalfRows
    halves,   // rows for cuBLASLt
  };
  Input input = Input::floats;
  bool is_there = false;             // an earlier launch has left x in that form
  const plan::Norm* norm = nullptr;  // that gives x
  std::vector<std::vector<const plan::Linear*>> launches;
  const plan::Activate* activate = nullptr;  // of the two Linears there are
  const plan::Add* residual = nullptr;       // added to the only Linear
};

struct FusedRotation {
  const plan::Rope* q = nullptr;
  const plan::Rope* k = nullptr;
  const plan::KvWrite* write = nullptr;
};

// Long runs of a sequence's tokens go through tensor cores; the others one by one, those beside each other in one launch.
struct FusedAttention {
  struct Part {
    Run rows;
    bool is_prompt = false;
  };
  const plan::Attention* op = nullptr;
  std::vector<Part> parts;
  bool rounds = false;  // its result too
};

struct Fusion {
  std::size_t n_ops = 0;  // 0: left to the shared kernels
  std::variant<std::monostate, FusedLinears, FusedRotation, FusedAttention> what;
};

// What fuse() knows of a step.
struct FusionInput {
  const gpu::StepContext& step;
  std::span<const std::uint32_t> readers;  // how often each value is read, by ValueId
  bool has_cublas = false;
};

// The ops from number `op` on.
Fusion fuse(const FusionInput& input, std::size_t op);

// Whether a Linear is multiplied by multiply_few, or by cuBLASLt.
bool by_few_rows(const gpu::StepContext& step, const plan::Linear& linear);
bool by_halves(const FusionInput& input, const plan::Linear& linear);
// Whether attention takes the tokens of a run together.
bool is_prompt(const Run& run);

}  // namespace plumb::backends::cuda
