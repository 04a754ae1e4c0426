// The stages of a Schedule, as the pool runs them: begin_stage() gives the number of a stage's items, and run_item() runs
// one of them on a thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cpu/workspace.h"

namespace plumb::backends::cpu {

// row_ops.cpp: ops that work row by row. An item is some rows, which a thread takes through all of the stage's ops. There
// are no items if the rows were so few that they have been run at once. Each such op of the plan is one function; no other
// file of the cpu backend depends on the op.
std::uint32_t begin_stage(const Workspace& w, const RowStage& stage);
void run_item(const Workspace& w, const RowStage& stage, std::uint32_t item, std::uint32_t thread);

// products.cpp: products with weights. An item is some rows of one weight; for experts, of one expert's weight and one
// token.
std::uint32_t begin_stage(const Workspace& w, const LinearStage& stage);
void run_item(const Workspace& w, const LinearStage& stage, std::uint32_t item, std::uint32_t thread);
std::uint32_t begin_stage(const Workspace& w, const ExpertStage& stage);
void run_item(const Workspace& w, const ExpertStage& stage, std::uint32_t item, std::uint32_t thread);
// Rounds a row of activations for the products that follow.
void run_row(const Workspace& w, const MakeOperand& op, std::uint32_t row);

// attention.cpp: attention over the cache, block by block, for the query heads that share a KV head. A short step of one
// sequence splits the blocks among the threads, and Merge adds up the results, row by row. Longer steps, and steps of
// several sequences, give each thread some tokens, for which it goes through all blocks.
std::uint32_t begin_stage(const Workspace& w, const AttentionStage& stage);
void run_item(const Workspace& w, const AttentionStage& stage, std::uint32_t item, std::uint32_t thread);
void run_row(const Workspace& w, const Merge& op, std::uint32_t row);

// The most memory that the attentions of the batch need.
struct AttentionBytes {
  std::size_t scratch = 0;   // for each thread
  std::size_t partials = 0;  // for all threads together
};
AttentionBytes attention_bytes(const Workspace& w);

// The softmax weights, [n_heads, T, S], from the same queries and keys as the attention that ran.
std::vector<float> attention_probs(const Workspace& w, const plan::Attention& op);

}  // namespace plumb::backends::cpu
