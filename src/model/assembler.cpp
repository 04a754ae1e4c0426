#include "model/assembler.h"

#include <fmt/format.h>

#include <utility>

namespace plumb::model {
namespace {

constexpr const char* token_embd_weight = "token_embd.weight";
constexpr const char* output_weight = "output.weight";
constexpr const char* rope_freqs = "rope_freqs.weight";

std::string dims_text(const gguf::Tensor& tensor) {
  std::string text;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.dims[i]);
  return "{" + text + "}";
}

// Tensors of early files that hold what is computed from rope.freq_base.
bool is_redundant(std::string_view name) { return name.ends_with(".attn_rot_embd.weight"); }

// A tensor that some computation must have been meant to read.
bool matters(std::string_view name) {
  return !is_redundant(name) && (name.starts_with("blk.") || name.starts_with("rope_") || name.starts_with("token_embd") ||
                                 name.starts_with("output") || name.ends_with(".bias"));
}

}  // namespace

std::string block(std::uint32_t layer, std::string_view value) { return fmt::format("blk.{}.{}", layer, value); }

Assembler::Assembler(const gguf::File& file, const HyperParameters& parameters)
    : file_(file), p_(parameters), builder_({parameters.n_layers, parameters.n_kv_heads, parameters.head_dim}) {}

plan::WeightId Assembler::bind(const std::string& name, std::uint64_t out, std::uint64_t in, bool vector) {
  const gguf::Tensor* found = file_.tensor(name);
  const bool fits = found != nullptr && found->dims == std::array<std::uint64_t, gguf::max_dims>{in, out, 1, 1};
  if (fits) {
    used_.insert(found->name);
    return builder_.weight(*found);
  }
  if (!error_) {
    const std::string expected = vector ? fmt::format("dims {{{}}}", in)
                                        : fmt::format("dims {{{}, {}}}, which is [out = {}, in = {}]", in, out, out, in);
    error_ = Error{found == nullptr
                       ? fmt::format("{}: tensor '{}' is missing; architecture {} needs it with {}", file_.label(), name,
                                     p_.architecture, expected)
                       : fmt::format("{}: tensor '{}' has dims {}; the hyper-parameters of architecture {} ask for {}",
                                     file_.label(), name, dims_text(*found), p_.architecture, expected)};
  }
  // A stand-in of the right shape and without data: the Plan is never handed out once a complaint is kept.
  gguf::Tensor stand_in;
  stand_in.format = quants::Format::f32;
  stand_in.n_dims = vector ? 1 : 2;
  stand_in.dims = {in, out, 1, 1};
  return builder_.weight(stand_in);
}

plan::ValueId Assembler::embed() { return builder_.embed("token_embd", matrix(token_embd_weight, p_.vocab, p_.d_model)); }

plan::ValueId Assembler::norm(const std::string& name, plan::ValueId x, std::uint64_t length) {
  return builder_.rms_norm(name, x, vector(name + ".weight", length), static_cast<float>(p_.rms_eps));
}

plan::ValueId Assembler::linear(const std::string& name, const std::string& tensor, plan::ValueId x, std::uint64_t out,
                                std::uint64_t in, Bias bias) {
  const plan::WeightId weight = matrix(tensor + ".weight", out, in);
  const std::string bias_name = tensor + ".bias";
  std::optional<plan::WeightId> bias_weight;
  if (bias == Bias::required || has(bias_name)) bias_weight = vector(bias_name, out);
  return builder_.linear(name, x, weight, bias_weight);
}

plan::ValueId Assembler::rope(const std::string& name, plan::ValueId x) {
  plan::Rope rope;
  rope.head_dim = p_.head_dim;
  rope.n_rot = p_.rope.n_rot;
  rope.pairing = p_.rope.pairing;
  rope.theta = static_cast<float>(p_.rope.theta);
  rope.position_scale = static_cast<float>(1 / p_.rope.factor);
  rope.yarn = p_.rope.yarn;
  if (p_.rope.frequency_factors) rope.factors = vector(rope_freqs, p_.rope.n_rot / 2);
  return builder_.rope(name, x, rope);
}

plan::ValueId Assembler::attend(const std::string& name, std::uint32_t layer, plan::ValueId q, plan::ValueId k,
                                plan::ValueId v) {
  builder_.kv_write(layer, k, v);
  plan::Attention attention;
  attention.layer = layer;
  attention.n_heads = p_.n_heads;
  attention.n_kv_heads = p_.n_kv_heads;
  attention.head_dim = p_.head_dim;
  attention.scale = static_cast<float>(p_.attention_scale);
  attention.window = p_.window;
  return builder_.attention(name, q, attention);
}

plan::ValueId Assembler::gated_feed_forward(std::uint32_t layer, plan::ValueId x, plan::Activation activation) {
  const std::string gate_name = block(layer, "ffn_gate");
  const std::string up_name = block(layer, "ffn_up");
  const std::string down_name = block(layer, "ffn_down");
  const plan::ValueId normed = norm(block(layer, "ffn_norm"), x, p_.d_model);
  const plan::ValueId gate = linear(gate_name, gate_name, normed, p_.d_ff, p_.d_model);
  const plan::ValueId up = linear(up_name, up_name, normed, p_.d_ff, p_.d_model);
  const plan::ValueId act = builder_.gated(block(layer, "ffn_act"), gate, up, activation);
  const plan::ValueId down = linear(down_name, down_name, act, p_.d_model, p_.d_ff);
  return add(block(layer, "output"), x, down);
}

plan::ValueId Assembler::logits(plan::ValueId x) {
  const plan::ValueId normed = norm("output_norm", x, p_.d_model);
  const plan::WeightId weight = matrix(p_.tied_embeddings ? token_embd_weight : output_weight, p_.vocab, p_.d_model);
  return builder_.linear("logits", normed, weight, {}, plan::Rows::outputs);
}

Result<Draft> Assembler::finish(plan::ValueId logits) {
  if (error_) return fail(*error_);
  Draft draft;
  for (const gguf::Tensor& tensor : file_.tensors()) {
    if (used_.contains(tensor.name)) continue;
    if (matters(tensor.name)) {
      return fail(
          "{}: tensor '{}' has no role in architecture {} with {} blocks; without it Plumb would compute another model",
          file_.label(), tensor.name, p_.architecture, p_.n_layers);
    }
    draft.unused_tensors.push_back(tensor.name);
  }
  auto plan = builder_.finish(logits, p_.context);
  if (!plan) return fail("{}: {}", file_.label(), plan.error().message);
  draft.plan = std::move(*plan);
  draft.parameters = p_;
  return draft;
}

}  // namespace plumb::model
