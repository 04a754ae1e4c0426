#include "model/blocks.h"

#include <fmt/format.h>

namespace plumb::model {

std::string Block::full(std::string_view name) const { return fmt::format("blk.{}.{}", layer_, name); }

plan::ValueId Block::linear(std::string_view name, plan::ValueId x, std::uint64_t out, std::uint64_t in, Bias bias) const {
  return a_.linear(full(name), {full(name)}, x, out, in, bias);
}

plan::ValueId Block::head_norm(std::string_view name, plan::ValueId x, QkNorm kind) const {
  if (kind == QkNorm::unit_after_rope) {
    return a_.builder().norm(full(name),
                             {.x = x, .eps = static_cast<float>(a_.parameters().norm_eps), .group = parameters().head_dim});
  }
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
  if (norm == QkNorm::heads_after_rope || norm == QkNorm::unit_after_rope) normalize();
  if (l.temperature) q = a_.builder().scale(full("attn_q_temperature"), {.x = q, .temperature = l.temperature}, q_width);
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
  plan::Activate act{.activation = options.activation, .xielu = parameters().xielu};
  if (options.has_gate) {
    act.gate = project("ffn_gate", 0);
    act.up = project("ffn_up", d_ff);
  } else {
    act.gate = project("ffn_up", 0);
  }
  return linear("ffn_down", a_.builder().activate(full("ffn_act"), act), d, d_ff, options.bias);
}

plan::ValueId Block::experts(plan::ValueId every, const ExpertOptions& options) const {
  plan::ValueId x = every;
  const ExpertParameters& e = *a_.parameters().experts;
  const std::uint64_t d = a_.parameters().d_model;
  plan::Builder& builder = a_.builder();
  const plan::ValueId router = a_.linear(full("ffn_router"), {full("ffn_gate_inp")}, x, e.n_experts, d);
  plan::TopK choice{.x = router, .k = e.n_used, .n_groups = e.n_groups, .n_groups_used = e.n_groups_used};
  if (!options.softmax_of_chosen) choice.score = e.by_sigmoid ? plan::Score::sigmoid : plan::Score::softmax;
  if (a_.has(full("exp_probs_b.bias"))) choice.bias = a_.vector({full("exp_probs_b")}, "bias", e.n_experts);
  const plan::ValueId chosen = builder.top_k(full("ffn_experts"), choice);
  // A softmax over all experts whose chosen weights are then brought to a sum of 1 is a softmax over the chosen.
  const auto gating = e.by_sigmoid   ? (e.normalized ? plan::Gating::sigmoid_normalized : plan::Gating::sigmoid)
                      : e.normalized ? plan::Gating::softmax_of_chosen
                                     : plan::Gating::softmax;
  const plan::ValueId weights =
      builder.expert_weights(full("ffn_expert_weights"), router, chosen, gating, static_cast<float>(e.scale));
  if (options.weighs_input) {
    x = builder.activate(full("ffn_expert_input"), weights, x, plan::Activation::identity);
  }
  const auto multiply = [&](std::string_view name, plan::ValueId in, std::uint64_t out, std::uint64_t n_in) {
    std::optional<plan::VectorId> bias;
    if (options.biases) bias = a_.expert_biases(full(name), e.n_experts, out);
    return builder.expert_linear(full(name), in, chosen, a_.experts(full(name), e.n_experts, out, n_in), bias);
  };
  plan::Activate act = options.activation;
  act.gate = multiply("ffn_gate_exps", x, e.d_ff, d);
  act.up = multiply("ffn_up_exps", x, e.d_ff, d);
  plan::ValueId y = multiply("ffn_down_exps", builder.activate(full("ffn_act_exps"), act), d, e.d_ff);
  if (!options.weighs_input) y = builder.expert_sum(full("ffn_moe"), y, weights);
  if (e.d_ff_shared == 0) return y;
  return a_.add(full("ffn_out"), y, shared_experts(every, options.gated_shared));
}

plan::ValueId Block::shared_experts(plan::ValueId x, bool gated) const {
  const std::uint64_t d = a_.parameters().d_model, d_ff = a_.parameters().experts->d_ff_shared;
  const plan::ValueId gate = linear("ffn_gate_shexp", x, d_ff, d), up = linear("ffn_up_shexp", x, d_ff, d);
  const plan::ValueId act = a_.builder().activate(full("ffn_act_shexp"), gate, up, plan::Activation::silu);
  const plan::ValueId down = linear("ffn_down_shexp", act, d, d_ff);
  if (!gated) return down;
  const plan::ValueId of_all = a_.linear(full("ffn_router_shexp"), {full("ffn_gate_inp_shexp")}, x, 1, d);
  return a_.builder().activate(full("ffn_shexp"), of_all, down, plan::Activation::sigmoid);
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

plan::ValueId sandwich_norm_decoder(Assembler& a, const AttentionOptions& attention,
                                    const FeedForwardOptions& feed_forward) {
  plan::ValueId x = a.embed();
  for (const Block& b : blocks(a)) {
    const plan::ValueId attn = b.attention(b.norm("attn_norm", x), attention);
    x = b.add("attn_resid", x, b.norm("attn_post_norm", "post_attention_norm", attn));
    const plan::ValueId down = b.feed_forward(b.norm("ffn_norm", x), feed_forward);
    x = b.add("output", x, b.norm("ffn_post_norm", "post_ffw_norm", down));
  }
  return a.logits(a.norm("output_norm", x));
}

plan::ValueId post_norm_decoder(Assembler& a, const AttentionOptions& attention) {
  plan::ValueId x = a.embed();
  for (const Block& b : blocks(a)) {
    x = b.add("attn_resid", x, b.norm("attn_post_norm", "post_attention_norm", b.attention(x, attention)));
    x = b.add("output", x, b.norm("ffn_post_norm", "post_ffw_norm", b.feed_forward(x)));
  }
  return a.logits(a.norm("output_norm", x));
}

plan::ValueId parallel_decoder(Assembler& a, const AttentionOptions& attention, const FeedForwardOptions& feed_forward) {
  plan::ValueId x = a.embed();
  for (const Block& b : blocks(a)) {
    const plan::ValueId normed = b.norm("attn_norm", x);
    const plan::ValueId attn = b.attention(normed, attention);
    x = b.add("output", b.add("attn_resid", x, attn), b.feed_forward(normed, feed_forward));
  }
  return a.logits(a.norm("output_norm", x));
}

plan::ValueId expert_decoder(Assembler& a, const AttentionOptions& attention, const ExpertOptions& experts,
                             std::string_view ffn_norm) {
  plan::ValueId x = a.embed();
  for (const Block& b : blocks(a)) {
    x = b.add("attn_resid", x, b.attention(b.norm("attn_norm", x), attention));
    x = b.add("output", x, b.feed_forward_or_experts(b.norm("ffn_norm", ffn_norm, x), experts));
  }
  return a.logits(a.norm("output_norm", x));
}

}  // namespace plumb::model
