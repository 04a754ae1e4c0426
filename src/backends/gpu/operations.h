// Ops as launches of the shared kernels: which kernel, over which grid. An op of the plan is one function of Emission in
// operations.cpp, above the function here that makes its launch; nothing else of gpu/ knows of it.
#pragma once

#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/gpu/launch.h"
#include "backends/gpu/step.h"
#include "quants/format.h"

namespace plumb::backends::gpu {

// Steps of up to so many rows take the matrix-vector kernels.
inline constexpr std::uint32_t most_vector_rows = 4;
// Longest head the attention kernels take.
inline constexpr std::uint32_t max_head_dim = 256;

// Errors: a shape that no kernel takes.
Result<void> check_shapes(const plan::Plan& plan);
// Appends what the op of that number in the step's plan takes.
void emit(const StepContext& step, std::size_t op, Launches& to);
// What the attentions of a step need at most: parts that caches are cut into, and bytes of StepContext::partials().
std::uint32_t most_splits(const StepContext& step);
std::uint64_t partial_bytes(const StepContext& step);
// The weights of an attention that has run: probs [n_heads, T, the longest sequence].
void emit_probs(const StepContext& step, const plan::Attention& op, View probs, Launches& to);

// Launches.

void embed(Launches& to, const WeightView& table, View tokens, std::uint32_t n_tokens, float scale, View y);
void rms_norm(Launches& to, View x, View weight, std::uint32_t group, std::uint32_t n_groups, float eps, View y);
// bias: no memory where there is none.
void linear(Launches& to, const WeightView& w, View bias, View x, std::uint32_t n_rows, View y);
// y [n_rows, n_out]: row r is row r / rows_a_x of x times the weight of expert experts[r] of w.n_experts.
void expert_linear(Launches& to, const WeightView& w, View bias, View experts, View x, std::uint32_t rows_a_x,
                   std::uint32_t n_rows, View y);
void rope(Launches& to, View positions, View turns, const plan::Rope& op, std::uint32_t width, std::uint32_t n_tokens,
          View x, View y);

void kv_write(Launches& to, const RowPlaces& rows, View k, View v, std::uint32_t width, std::uint32_t head_dim,
              std::uint32_t n_tokens, const CacheView& cache);

// Parts that the caches are cut into for a step of n_tokens whose longest sequence has `longest` positions after it.
std::uint32_t attention_splits(std::uint32_t n_heads, std::uint32_t n_tokens, std::uint32_t longest);
// Bytes of the partial results.
std::uint64_t attention_partial_bytes(const plan::Attention& op, std::uint32_t n_tokens, std::uint32_t n_splits);
// sinks: no memory where the op has none.
void attention(Launches& to, const RowPlaces& rows, const plan::Attention& op, std::uint32_t n_tokens,
               std::uint32_t n_splits, View q, const CacheView& cache, View sinks, View partial, View y);
// probs [n_heads, n_tokens, n_positions]
void attention_probs(Launches& to, const RowPlaces& rows, const plan::Attention& op, std::uint32_t n_tokens,
                     std::uint32_t n_positions, View q, const CacheView& cache, View sinks, View probs);

void gated(Launches& to, View gate, View up, std::uint32_t n, plan::Activation activation, View y);
void add(Launches& to, View a, View b, std::uint32_t n, View y);
void soft_cap(Launches& to, View x, std::uint32_t n, float cap, View y);
// Rows of n elements; the indices, [n_rows, k] of float, in the order of plan::TopK.
void top_k(Launches& to, View x, std::uint32_t n, std::uint32_t n_rows, std::uint32_t k, View indices);
// logits [n_rows, n], experts [n_rows, k].
void expert_weights(Launches& to, View logits, std::uint32_t n, View experts, std::uint32_t k, std::uint32_t n_rows,
                    plan::Gating gating, float scale, View y);
// x [n_rows, k * width], weights [n_rows, k].
void expert_sum(Launches& to, View x, View weights, std::uint32_t width, std::uint32_t k, std::uint32_t n_rows, View y);

}  // namespace plumb::backends::gpu
