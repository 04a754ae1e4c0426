#include "model/blocks.h"

#include <fmt/format.h>

namespace plumb::model {

std::string Block::full(std::string_view name) const { return fmt::format("blk.{}.{}", layer_, name); }

plan::ValueId Block::linear(std::string_view name, plan::ValueId x, std::uint64_t out, std::uint64_t in, Bias bias) const {
  return a_.linear(full(name), {full(name)}, x, out, in, bias);
}

plan::ValueId Block::attention(plan::ValueId x, const AttentionOptions& options) const {
  const HyperParameters& p = a_.parameters();
  const std::uint64_t n_fused = p.q_width() + 2 * std::uint64_t{p.kv_width()};
  const bool is_known = p.q_width() > 0 && p.kv_width() > 0;
  const auto project = [&](std::string_view name, std::uint64_t first, std::uint64_t out) {
    if (options.fused_qkv && !is_known) return a_.linear(full(name), {full("attn_qkv")}, x, 0, p.d_model, options.qkv_bias);
    const Source source = options.fused_qkv ? Source{full("attn_qkv"), first, n_fused} : Source{full(name)};
    return a_.linear(full(name), source, x, out, p.d_model, options.qkv_bias);
  };
  plan::ValueId q = project("attn_q", 0, p.q_width());
  plan::ValueId k = project("attn_k", p.q_width(), p.kv_width());
  const plan::ValueId v = project("attn_v", std::uint64_t{p.q_width()} + p.kv_width(), p.kv_width());
  if (options.head_norms) {
    q = a_.norm(full("attn_q_norm"), q, p.head_dim);
    k = a_.norm(full("attn_k_norm"), k, p.head_dim);
  }
  if (options.rope) {
    q = a_.rope(full("attn_q_rope"), q);
    k = a_.rope(full("attn_k_rope"), k);
  }
  const plan::ValueId context = a_.attend(full("attn_ctx"), layer_, q, k, v);
  return a_.linear(full("attn_out"), {full("attn_output")}, context, p.d_model, p.q_width(), options.out_bias);
}

plan::ValueId Block::feed_forward(plan::ValueId x, plan::Activation activation) const {
  const HyperParameters& p = a_.parameters();
  const plan::ValueId gate = linear("ffn_gate", x, p.d_ff, p.d_model);
  const plan::ValueId up = linear("ffn_up", x, p.d_ff, p.d_model);
  return linear("ffn_down", a_.builder().activate(full("ffn_act"), gate, up, activation), p.d_model, p.d_ff);
}

std::vector<Block> blocks(Assembler& a) {
  std::vector<Block> all;
  for (std::uint32_t i = 0; i < a.parameters().n_layers; ++i) all.emplace_back(a, i);
  return all;
}

}  // namespace plumb::model
