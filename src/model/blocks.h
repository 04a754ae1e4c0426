// The blocks that decoders share. An architecture's recipe (architectures/) calls them in the order of its forward pass.
// docs/architecture.md has the names of tensors and values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/assembler.h"
#include "plan/plan.h"

namespace plumb::model {

// The norms attn_q_norm and attn_k_norm.
enum class QkNorm : std::uint8_t {
  none,
  heads,                // of each head, before it rotates
  heads_after_rope,     // of each head, after it has rotated
  rows,                 // of all heads together, before they rotate
  heads_where_present,  // of each head, in files that have the tensors
  unit_after_rope       // of each head without a weight, after it has rotated
};

struct AttentionOptions {
  bool fused_qkv = false;            // q, k and v are the rows of attn_qkv, in this order, not three tensors
  Bias qkv_bias = Bias::if_present;  // the same for each of the three
  Bias out_bias = Bias::if_present;
  QkNorm qk_norm = QkNorm::none;
  bool sinks = false;  // attn_sinks.weight [n_heads]
};

struct FeedForwardOptions {
  plan::Activation activation = plan::Activation::silu;
  bool has_gate = true;        // ffn_down of activation(ffn_gate) * ffn_up, or of activation(ffn_up)
  bool fused_gate_up = false;  // ffn_up has the gate's rows, and then those of up
  Bias bias = Bias::if_present;
};

struct ExpertOptions {
  plan::Activate activation{};  // its numbers; the operands are set by experts()
  bool biases = false;          // of the experts' matrices
  bool softmax_of_chosen =
      false;                  // the softmax of the weights runs over the chosen experts, which are chosen by their logits
  bool weighs_input = false;  // an expert's weight multiplies its input, not its result; one expert a token
  bool gated_shared = false;  // the shared expert has a gate: sigmoid(ffn_gate_inp_shexp . x)
};

// One of the model's blocks. `b.norm("attn_norm", x)` reads blk.N.attn_norm.weight and makes the value blk.N.attn_norm.
class Block {
 public:
  Block(Assembler& a, std::uint32_t layer) : a_(a), layer_(layer) {}

  [[nodiscard]] std::uint32_t layer() const { return layer_; }
  [[nodiscard]] const LayerParameters& parameters() const { return a_.parameters().layers[layer_]; }
  // "blk.3.attn_q"
  [[nodiscard]] std::string full(std::string_view name) const;
  plan::ValueId norm(std::string_view name, plan::ValueId x) const { return norm(name, name, x); }
  // For a tensor whose name is not the value's.
  plan::ValueId norm(std::string_view name, std::string_view tensor, plan::ValueId x) const {
    return a_.norm(full(name), full(tensor), x);
  }
  // The value `name`: x times the tensor of the same name.
  plan::ValueId linear(std::string_view name, plan::ValueId x, std::uint64_t out, std::uint64_t in,
                       Bias bias = Bias::if_present) const;
  // The value `name`: x plus the branch, which is scaled where the model scales what a block adds.
  plan::ValueId add(std::string_view name, plan::ValueId x, plan::ValueId branch) const {
    return a_.add_branch(full(name), x, branch, full(name) + "_branch");
  }
  // All of attention, from attn_q, attn_k and attn_v to attn_out, which it returns.
  plan::ValueId attention(plan::ValueId x, const AttentionOptions& options = {}) const;
  // The feed-forward's ffn_down.
  plan::ValueId feed_forward(plan::ValueId x, const FeedForwardOptions& options = {}) const;
  // The mixture's result, from ffn_router to ffn_moe, plus that of the shared experts where there are any (ffn_out).
  plan::ValueId experts(plan::ValueId x, const ExpertOptions& options = {}) const;
  // Either, as the block's parameters say.
  plan::ValueId feed_forward_or_experts(plan::ValueId x, const ExpertOptions& options = {}) const {
    return parameters().has_experts ? experts(x, options) : feed_forward(x);
  }

 private:
  plan::ValueId head_norm(std::string_view name, plan::ValueId x, QkNorm kind) const;
  // The feed-forward of the experts that every token passes.
  plan::ValueId shared_experts(plan::ValueId x, bool gated) const;

  Assembler& a_;
  std::uint32_t layer_;
};

// All blocks of the model, in order.
std::vector<Block> blocks(Assembler& a);

// The whole forward pass of a model whose blocks add attention(attn_norm(x)), and then feed_forward(ffn_norm(x)), to the
// residual stream. Returns the logits.
plan::ValueId pre_norm_decoder(Assembler& a, const AttentionOptions& attention = {},
                               const FeedForwardOptions& feed_forward = {});
// The same with norms (attn_post_norm, ffn_post_norm) of what attention and feed-forward add.
plan::ValueId sandwich_norm_decoder(Assembler& a, const AttentionOptions& attention = {},
                                    const FeedForwardOptions& feed_forward = {});
// The same with those norms alone: attention and feed-forward read the residual stream as it is.
plan::ValueId post_norm_decoder(Assembler& a, const AttentionOptions& attention = {});
// The whole forward pass of a model whose attention and feed-forward stand side by side after one norm.
plan::ValueId parallel_decoder(Assembler& a, const AttentionOptions& attention = {},
                               const FeedForwardOptions& feed_forward = {});
// pre_norm_decoder() with experts in the blocks that have them. The tensor `ffn_norm` is the norm before them.
plan::ValueId expert_decoder(Assembler& a, const AttentionOptions& attention = {}, const ExpertOptions& experts = {},
                             std::string_view ffn_norm = "ffn_norm");

}  // namespace plumb::model
