// Attention over the cache, block by block, for the query heads that share a KV head.
//
// A short step of one sequence splits the blocks among the threads, and Merge adds up the results, row by row. Longer
// steps, and steps of several sequences, give each thread some tokens, for which it goes through all blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cpu/workspace.h"

namespace plumb::backends::cpu {

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
