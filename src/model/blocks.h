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

struct AttentionOptions {
  bool fused_qkv = false;            // q, k and v are the rows of attn_qkv, in this order, not three tensors
  Bias qkv_bias = Bias::if_present;  // the same for each of the three
  Bias out_bias = Bias::if_present;
  bool head_norms = false;  // normalizes every q and k head before it rotates
  bool rope = true;
};

// One of the model's blocks. `b.norm("attn_norm", x)` reads blk.N.attn_norm.weight and makes the value blk.N.attn_norm.
class Block {
 public:
  Block(Assembler& a, std::uint32_t layer) : a_(a), layer_(layer) {}

  // "blk.3.attn_q"
  [[nodiscard]] std::string full(std::string_view name) const;
  plan::ValueId norm(std::string_view name, plan::ValueId x) const { return a_.norm(full(name), x); }
  // The value `name`: x times the tensor of the same name.
  plan::ValueId linear(std::string_view name, plan::ValueId x, std::uint64_t out, std::uint64_t in,
                       Bias bias = Bias::if_present) const;
  plan::ValueId add(std::string_view name, plan::ValueId a, plan::ValueId b) const { return a_.add(full(name), a, b); }
  // All of attention, from attn_q, attn_k and attn_v to attn_out, which it returns.
  plan::ValueId attention(plan::ValueId x, const AttentionOptions& options = {}) const;
  // ffn_down of (activation(ffn_gate) * ffn_up).
  plan::ValueId feed_forward(plan::ValueId x, plan::Activation activation) const;

 private:
  Assembler& a_;
  std::uint32_t layer_;
};

// All blocks of the model, in order.
std::vector<Block> blocks(Assembler& a);

}  // namespace plumb::model
