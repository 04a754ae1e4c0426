// Turns ops into launches of the shared kernels: chooses the kernel, its grid and its arguments. Each op of the plan is one
// function of Emission in operations.cpp; no other file of gpu/ depends on the op.
#pragma once

#include <cstdint>

#include "backends/gpu/launch.h"
#include "backends/gpu/step.h"

namespace plumb::backends::gpu {

// Steps of up to this many rows use the matrix-vector kernels.
inline constexpr std::uint32_t most_vector_rows = 4;
// The longest head that the attention kernels take: MAX_HEAD_DIM of kernels/shared.h. Gemma 4 has heads of 512.
inline constexpr std::uint32_t max_head_dim = 512;

// Errors: a shape that no kernel takes.
Result<void> check_shapes(const plan::Plan& plan);
// Appends the launches of op number `op` of the step's plan.
void emit(const StepContext& step, std::size_t op, Launches& to);
// Appends the launch that computes an attention's weights, after the attention has run: probs [n_heads, T, longest].
void emit_probs(const StepContext& step, const plan::Attention& op, View probs, Launches& to);

// Parts that the caches are cut into for a step of n_tokens whose longest sequence has `longest` positions after it.
std::uint32_t attention_splits(std::uint32_t n_heads, std::uint32_t n_tokens, std::uint32_t longest);
// Bytes of the parts' results.
std::uint64_t attention_partial_bytes(const plan::Attention& op, std::uint32_t n_tokens, std::uint32_t n_splits);
// The most of both that an attention of the step has.
std::uint32_t most_splits(const StepContext& step);
std::uint64_t partial_bytes(const StepContext& step);

}  // namespace plumb::backends::gpu
