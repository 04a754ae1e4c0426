#include "model/blocks.h"

#include <fmt/format.h>

namespace plumb::model {

std::string Block::full(std::string_view name) const { return fmt::format("blk.{}.{}", layer_, name); }

plan::ValueId Block::linear(std::string_view name, plan::ValueId x, std::uint64_t out, std::uint64_t in, Bias bias) const {
  return a_.linear(full(name), {full(name)}, x, out, in, bias);
}

plan::ValueId Block::head_norm(std::string_view name, plan::ValueId x, QkNorm kind) const {
  const std::uint64_t length = kind == QkNorm::rows ? a_.builder().width(x) : parameters().head_dim;
  return a_.norm(full(name), full(name), x, length);
}

plan::ValueId Block::attention(plan::ValueId x, const AttentionOptions& options) const {
  const HyperParameters& p = a_.parameters();
  const LayerParameters& l = parameters();
  const std::uint64_t q_width = l.q_width(), kv_width = l.kv_width();
  const bool is_known = q_width > 0 && kv_width > 0;  // else there was a complaint
  const auto project = [&](std::string_view name, std::uint64_t first, std::uint64_t out) {
    if (options.fused_qkv && !is_known) return a_.linear(full(name), {full("attn_qkv")}, x, 0, p.d_model, options.qkv_bias);
    const Source source = options.fused_qkv ? Source{full("attn_qkv"), first, q_width + 2 * kv_width} : Source{full(name)};
    return a_.linear(full(name), source, x, out, p.d_model, options.qkv_bias);
  };
  plan::ValueId q = project("attn_q", 0, q_width);
  plan::ValueId k = project("attn_k", q_width, kv_width);
  const plan::ValueId v = project("attn_v", q_width + kv_width, kv_width);
  QkNorm norm = options.qk_norm;
  if (norm == QkNorm::heads_where_present) norm = a_.has(full("attn_q_norm") + ".weight") ? QkNorm::heads : QkNorm::none;
  const auto normalize = [&] {
    q = head_norm("attn_q_norm", q, norm);
    k = head_norm("attn_k_norm", k, norm);
  };
  if (norm == QkNorm::heads || norm == QkNorm::rows) normalize();
  if (l.rotates) {
    q = a_.rope(full("attn_q_rope"), layer_, q);
    k = a_.rope(full("attn_k_rope"), layer_, k);
  }
  if (norm == QkNorm::heads_after_rope) normalize();
  if (p.temperature) {
    q = a_.builder().scale(full("attn_q_temperature"), {.x = q, .temperature = p.temperature}, q_width);
  }
  std::optional<plan::VectorId> sinks;
  if (options.sinks) sinks = a_.vector({full("attn_sinks")}, "weight", l.n_heads);
  const plan::ValueId context = a_.attend(full("attn_ctx"), layer_, q, k, v, sinks);
  return a_.linear(full("attn_out"), {full("attn_output")}, context, p.d_model, q_width, options.out_bias);
}

plan::ValueId Block::feed_forward(plan::ValueId x, const FeedForwardOptions& options) const {
  const std::uint64_t d = a_.parameters().d_model, d_ff = parameters().d_ff;
  const auto project = [&](std::string_view name, std::uint64_t first) {
    const Source source = options.fused_gate_up && d_ff > 0 ? Source{full("ffn_up"), first, 2 * d_ff} : Source{full(name)};
    return a_.linear(full(name), source, x, d_ff, d, options.bias);
  };
  plan::Activate act{.activation = options.activation};
  if (options.has_gate) {
    act.gate = project("ffn_gate", 0);
    act.up = project("ffn_up", d_ff);
  } else {
    act.gate = project("ffn_up", 0);
  }
  return linear("ffn_down", a_.builder().activate(full("ffn_act"), act), d, d_ff, options.bias);
}

std::vector<Block> blocks(Assembler& a) {
  std::vector<Block> all;
  for (std::uint32_t i = 0; i < a.parameters().n_layers; ++i) all.emplace_back(a, i);
  return all;
}

plan::ValueId pre_norm_decoder(Assembler& a, const AttentionOptions& attention, const FeedForwardOptions& feed_forward) {
  plan::ValueId x = a.embed();
  for (const Block& b : blocks(a)) {
    x = b.add("attn_resid", x, b.attention(b.norm("attn_norm", x), attention));
    x = b.add("output", x, b.feed_forward(b.norm("ffn_norm", x), feed_forward));
  }
  return a.logits(a.norm("output_norm", x));
}

}  // namespace plumb::model
