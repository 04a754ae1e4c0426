// Turns ops into launches of the shared kernels: chooses the kernel and its grid. Each op of the plan is one function of
// Emission in operations.cpp, which calls a function below to make the launch; no other file of gpu/ depends on the op.
#pragma once

#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/gpu/launch.h"
#include "backends/gpu/step.h"
#include "quants/format.h"

namespace plumb::backends::gpu {

// Steps of up to this many rows use the matrix-vector kernels.
inline constexpr std::uint32_t most_vector_rows = 4;
// The longest head that the attention kernels take.
inline constexpr std::uint32_t max_head_dim = 256;

// Errors: a shape that no kernel takes.
Result<void> check_shapes(const plan::Plan& plan);
// Appends the launches of op number `op` of the step's plan.
void emit(const StepContext& step, std::size_t op, Launches& to);
// The most that the attentions of a step need: parts of a cache, and bytes of StepContext::partials().
std::uint32_t most_splits(const StepContext& step);
std::uint64_t partial_bytes(const StepContext& step);
// Computes the softmax weights of an attention that has run: probs [n_heads, T, length of the longest sequence].
void emit_probs(const StepContext& step, const plan::Attention& op, View probs, Launches& to);

// Launches.

void embed(Launches& to, const WeightView& table, View tokens, std::uint32_t n_tokens, float scale, View y);
void rms_norm(Launches& to, View x, View weight, std::uint32_t group, std::uint32_t n_groups, float eps, View y);
// bias: a View without memory if there is none.
void linear(Launches& to, const WeightView& w, View bias, View x, std::uint32_t n_rows, View y);
// y [n_rows, n_out]: row r is row r / rows_a_x of x times the weight of expert experts[r].
void expert_linear(Launches& to, const WeightView& w, View bias, View experts, View x, std::uint32_t rows_a_x,
                   std::uint32_t n_rows, View y);
void rope(Launches& to, View positions, View turns, const plan::Rope& op, std::uint32_t width, std::uint32_t n_tokens,
          View x, View y);

void kv_write(Launches& to, const RowPlaces& rows, View k, View v, std::uint32_t width, std::uint32_t head_dim,
              std::uint32_t n_tokens, const CacheView& cache);

// The number of parts into which caches are cut, for a step of n_tokens after which the longest sequence has `longest`
// positions.
std::uint32_t attention_splits(std::uint32_t n_heads, std::uint32_t n_tokens, std::uint32_t longest);
// Bytes of attention's partial results.
std::uint64_t attention_partial_bytes(const plan::Attention& op, std::uint32_t n_tokens, std::uint32_t n_splits);
// sinks: a View without memory if the op has none.
void attention(Launches& to, const RowPlaces& rows, const plan::Attention& op, std::uint32_t n_tokens,
               std::uint32_t n_splits, View q, const CacheView& cache, View sinks, View partial, View y);
// probs [n_heads, n_tokens, n_positions]
void attention_probs(Launches& to, const RowPlaces& rows, const plan::Attention& op, std::uint32_t n_tokens,
                     std::uint32_t n_positions, View q, const CacheView& cache, View sinks, View probs);

void gated(Launches& to, View gate, View up, std::uint32_t n, plan::Activation activation, View y);
void add(Launches& to, View a, View b, std::uint32_t n, View y);
void soft_cap(Launches& to, View x, std::uint32_t n, float cap, View y);
// x has n_rows rows of n elements; indices [n_rows, k] are floats, in the order of plan::TopK.
void top_k(Launches& to, View x, std::uint32_t n, std::uint32_t n_rows, std::uint32_t k, View indices);
// logits [n_rows, n], experts [n_rows, k].
void expert_weights(Launches& to, View logits, std::uint32_t n, View experts, std::uint32_t k, std::uint32_t n_rows,
                    plan::Gating gating, float scale, View y);
// x [n_rows, k * width], weights [n_rows, k].
void expert_sum(Launches& to, View x, View weights, std::uint32_t width, std::uint32_t k, std::uint32_t n_rows, View y);

}  // namespace plumb::backends::gpu
