#include "model/unknown.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>
#include <variant>
#include <vector>

namespace plumb::model {
namespace {

enum class Support : std::uint8_t { has, lacks };

// A feature of models, with the keys (after "[architecture].") and the tensors (after "blk.N.") by which files ask for it.
// Tensors go without ".weight" and ".bias". A name that ends in '*' stands for all that begin so.
struct Feature {
  std::string_view what;
  Support support;
  std::vector<std::string_view> keys;
  std::vector<std::string_view> tensors;
};

const std::vector<Feature>& features() {
  using enum Support;
  static const std::vector<Feature> all{
      {"attention",
       has,
       {"attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"},
       {"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"}},
      {"norms of queries and keys", has, {}, {"attn_q_norm", "attn_k_norm"}},
      {"RMS norms", has, {"attention.layer_norm_rms_epsilon"}, {}},
      {"layer norms", has, {"attention.layer_norm_epsilon"}, {}},
      {"norms after attention or feed-forward",
       has,
       {},
       {"post_attention_norm", "post_ffw_norm", "attn_output_norm", "layer_output_norm"}},
      {"rotary positions",
       has,
       {"rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.dimension_sections"},
       {"rope_freqs", "rope_factors_long", "rope_factors_short"}},
      {"learned positions", has, {}, {"position_embd"}},
      {"segments", has, {}, {"token_types"}},
      {"a norm of the embeddings", has, {}, {"token_embd_norm"}},
      {"sliding windows",
       has,
       {"attention.sliding_window", "attention.sliding_window_pattern", "attention.chunk_size"},
       {}},
      {"sinks", has, {}, {"attn_sinks"}},
      {"soft caps", has, {"attn_logit_softcapping", "final_logit_softcapping"}, {}},
      {"multipliers", has, {"embedding_scale", "residual_scale", "logit_scale", "attention.scale"}, {"layer_output_scale"}},
      {"a feed-forward", has, {"feed_forward_length"}, {"ffn_gate", "ffn_up", "ffn_down"}},
      {"experts",
       has,
       {"expert_count", "expert_used_count", "expert_group_count"},
       {"ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps", "exp_probs_b"}},
      {"shared experts",
       has,
       {"expert_shared_count", "expert_shared_feed_forward_length"},
       {"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "ffn_gate_inp_shexp"}},
      {"recurrent state",
       lacks,
       {"ssm.conv_kernel", "ssm.state_size", "ssm.inner_size", "ssm.time_step_rank", "wkv.head_size", "shortconv.l_cache"},
       {"ssm_*", "time_mix_*", "channel_mix_*", "shortconv*"}},
      {"latent attention",
       lacks,
       {"attention.kv_lora_rank", "attention.q_lora_rank"},
       {"attn_kv_a_*", "attn_kv_b*", "attn_k_b*", "attn_v_b*", "attn_q_a*", "attn_q_b*"}},
      {"attention to chosen positions", lacks, {"attention.indexer.head_count", "attention.indexer.top_k"}, {"indexer.*"}},
      {"an attention gate", lacks, {}, {"attn_gate"}},
      {"attention that sees both sides", lacks, {"attention.causal"}, {}},
      {"ALiBi", has, {"attention.max_alibi_bias"}, {}},
      {"clamped queries, keys and values", lacks, {"attention.clamp_kqv"}, {}},
      {"positions relative to each other", lacks, {"attention.relative_buckets_count"}, {"attn_rel_b"}},
      {"layers that share a cache", lacks, {"attention.shared_kv_layers"}, {}},
      {"embeddings for each layer",
       lacks,
       {"embedding_length_per_layer_input"},
       {"per_layer_*", "inp_gate", "proj", "post_norm"}},
      {"pooling", lacks, {"pooling_type"}, {"cls"}},
      {"an encoder with a decoder", lacks, {"decoder_block_count"}, {"enc.*", "dec.*", "cross_attn*"}},
      {"pictures or sound", lacks, {"vision.block_count", "audio.block_count"}, {"v.*", "a.*", "mm.*"}},
      {"prediction of further tokens, which is left out", has, {"nextn_predict_layers"}, {"nextn.*"}},
  };
  return all;
}

// Tensors that every decoder has.
constexpr std::array plain_tensors{"token_embd", "output", "output_norm", "attn_norm", "attn_norm_2", "ffn_norm"};

bool matches(std::string_view name, std::string_view pattern) {
  return pattern.ends_with('*') ? name.starts_with(pattern.substr(0, pattern.size() - 1)) : name == pattern;
}

// "attn_q" of "blk.3.attn_q.weight".
std::string_view role(std::string_view tensor) {
  for (const std::string_view kind : {".weight", ".bias"}) {
    if (tensor.ends_with(kind)) tensor.remove_suffix(kind.size());
  }
  if (!tensor.starts_with("blk.")) return tensor;
  const std::size_t end = tensor.find('.', 4);
  return end == std::string_view::npos ? tensor : tensor.substr(end + 1);
}

// Numbers, truth values and short texts; other values are empty.
std::string shown(const gguf::Value& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_arithmetic_v<T>) {
          return fmt::format("{}", v);
        } else if constexpr (std::is_same_v<T, gguf::Array>) {
          return fmt::format("{} values", v.count);
        } else {
          return v.size() <= 32 ? fmt::format("'{}'", v) : fmt::format("a text of {} bytes", v.size());
        }
      },
      value);
}

// Whether a key asks for nothing: 0, or false. attention.causal asks by being false.
bool is_neutral(std::string_view key, const gguf::Value& value) {
  const std::string text = shown(value);
  return key == "attention.causal" ? text != "false" : text == "0" || text == "false";
}

// The keys and the roles of tensors by which the file asks for the feature.
std::vector<std::string> asked_by(const Feature& feature, const gguf::File& file, std::string_view architecture,
                                  const std::set<std::string_view>& roles) {
  std::vector<std::string> found;
  for (const std::string_view key : feature.keys) {
    const gguf::Value* value = file.find(fmt::format("{}.{}", architecture, key));
    if (value != nullptr && !is_neutral(key, *value)) found.push_back(fmt::format("{} = {}", key, shown(*value)));
  }
  for (const std::string_view name : roles) {
    if (std::ranges::any_of(feature.tensors, [&](std::string_view pattern) { return matches(name, pattern); }))
      found.emplace_back(name);
  }
  return found;
}

std::string listed(std::span<const std::string> names) {
  constexpr std::size_t most = 6;
  if (names.size() <= most + 1) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.first(most), ", "), names.size() - most);
}

bool tells_something(std::string_view name) {
  return std::ranges::find(plain_tensors, name) != plain_tensors.end() ||
         std::ranges::any_of(features(), [&](const Feature& feature) {
           return std::ranges::any_of(feature.tensors, [&](std::string_view pattern) { return matches(name, pattern); });
         });
}

}  // namespace

std::string what_it_asks_for(const gguf::File& file, std::string_view architecture) {
  std::set<std::string_view> roles;
  for (const gguf::Tensor& tensor : file.tensors()) roles.insert(role(tensor.name));
  std::string has, lacks;
  for (const Feature& feature : features()) {
    const std::vector<std::string> found = asked_by(feature, file, architecture, roles);
    if (found.empty()) continue;
    (feature.support == Support::has ? has : lacks) += fmt::format("\n    {}: {}", feature.what, listed(found));
  }
  std::string text;
  if (!has.empty()) text += "\n  It asks for what other architectures have here:" + has;
  if (!lacks.empty()) text += "\n  It asks for what Plumb lacks:" + lacks;
  std::vector<std::string> silent;
  for (const std::string_view name : roles) {
    if (!tells_something(name)) silent.emplace_back(name);
  }
  if (!silent.empty()) text += fmt::format("\n  It has tensors whose names tell nothing here: {}", listed(silent));
  return text;
}

}  // namespace plumb::model
