#include "model/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace plumb::model {
namespace {

// Limits far above any known model. The product of any two of them fits 64 bits.
constexpr std::uint32_t max_layers = 1u << 10;
constexpr std::uint32_t max_width = 1u << 22;
constexpr std::uint32_t max_heads = 1u << 16;
constexpr std::uint32_t max_vocab = 1u << 26;
constexpr std::uint32_t max_context = 1u << 30;

constexpr std::string_view tokens_key = "tokenizer.ggml.tokens";

constexpr double not_known = std::numeric_limits<double>::quiet_NaN();

bool is_zero(const gguf::Value& value) {
  return std::visit(
      [](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_arithmetic_v<T>) {
          return v == T{};
        } else if constexpr (std::is_same_v<T, gguf::Array>) {
          for (std::uint64_t i = 0; i < v.count; ++i) {
            if (!is_zero(gguf::element_of(v, i))) return false;
          }
          return true;
        } else {
          return false;
        }
      },
      value);
}

// Keys by which a file says that its model computes something that Plumb does not. The key's neutral value (zero, false or
// the one named here) is accepted; any other value is an error, since ignoring it would compute another model.
struct Foreign {
  std::string_view key;
  std::optional<double> neutral;
  std::string_view what;
};
constexpr std::array foreign_keys{
    Foreign{"expert_count", {}, "mixture-of-experts models of this architecture are not supported yet"},
    Foreign{"expert_used_count", {}, "mixture-of-experts models of this architecture are not supported yet"},
    Foreign{parallel_key, {}, "a parallel residual is not supported for this architecture"},
    Foreign{"attention.max_alibi_bias", {}, "ALiBi is not supported for this architecture"},
    Foreign{"attention.clamp_kqv", {}, "clamped q, k and v are not supported for this architecture"},
    Foreign{"attention.temperature_scale", {}, "attention temperature is not supported for this architecture"},
    Foreign{
        "attention.sliding_window_pattern", {}, "layers with and without a window are not supported for this architecture"},
    Foreign{"attn_logit_softcapping", {}, "soft-capped attention is not supported for this architecture"},
    Foreign{"final_logit_softcapping", {}, "soft-capped logits are not supported for this architecture"},
    Foreign{"logit_scale", 1.0, "scaled logits are not supported for this architecture"},
    Foreign{"embedding_scale", 1.0, "scaled embeddings are not supported for this architecture"},
    Foreign{"residual_scale", 1.0, "scaled residuals are not supported for this architecture"},
    Foreign{"nextn_predict_layers", {}, "multi-token prediction is not supported for this architecture"},
    Foreign{"rope.scaling.yarn_log_multiplier", {}, "this variant of YaRN is not supported for this architecture"},
};

void check_foreign_keys(Keys& keys, const DecoderConventions& conventions) {
  std::vector<std::string_view> heeded = conventions.heeds;
  if (conventions.experts) heeded.insert(heeded.end(), {"expert_count", "expert_used_count"});
  const gguf::File& file = keys.file();
  for (const Foreign& foreign : foreign_keys) {
    const gguf::Value* value = file.find(keys.full(foreign.key));
    if (value == nullptr || is_zero(*value)) continue;
    if (std::find(heeded.begin(), heeded.end(), foreign.key) != heeded.end()) continue;
    if (foreign.neutral) {
      const auto number = keys.value(file.get_float(keys.full(foreign.key)));
      if (!number || *number == *foreign.neutral) continue;
    }
    keys.odd(foreign.key, fmt::format("is set, but {}", foreign.what));
  }
  if (keys.has("attention.causal")) {
    const auto causal = keys.value(file.get_bool(keys.full("attention.causal")));
    if (causal == false) keys.odd("attention.causal", "is false; Plumb runs causal models of this architecture only");
  }
}

// The number of tokens: [arch].vocab_size, which newer files may leave out, or the length of the token list. If the file
// has both, they must agree.
std::uint32_t read_vocab(Keys& keys) {
  const gguf::File& file = keys.file();
  const std::optional<std::uint32_t> stated = keys.optional_count("vocab_size", max_vocab);
  if (file.find(tokens_key) == nullptr) {
    if (stated) return *stated;
    keys.odd("vocab_size", fmt::format("is missing, and so is '{}': the size of the vocabulary is unknown", tokens_key));
    return 0;
  }
  const auto tokens = keys.value(file.get_array(tokens_key, gguf::ValueType::string));
  if (!tokens) return stated.value_or(0);
  const std::uint64_t n = (*tokens)->count;
  if (n == 0 || n > max_vocab) {
    keys.complain(fmt::format("{}: key '{}' lists {} tokens; expected 1 to {}", file.label(), tokens_key, n, max_vocab));
    return stated.value_or(0);
  }
  if (stated && *stated != 0 && *stated != n) {
    keys.odd("vocab_size", fmt::format("is {}, but '{}' lists {} tokens", *stated, tokens_key, n));
    return 0;
  }
  return static_cast<std::uint32_t>(n);
}

constexpr std::string_view scaling_prefix = "rope.scaling.";

// Keys of rope.scaling.* that say how YaRN turns, and their values that change nothing.
struct YarnKey {
  std::string_view key;
  std::optional<double> neutral;
};
constexpr std::array yarn_keys{YarnKey{"yarn_beta_fast", {}}, YarnKey{"yarn_beta_slow", {}},
                               YarnKey{"yarn_ext_factor", 0.0}, YarnKey{"yarn_attn_factor", 1.0}};

// Every key of rope.scaling.* is applied or refused: one that is left out would compute another model.
void check_scaling_keys(Keys& keys, bool yarn) {
  // What the file says about the model's making; with YaRN, the original length matters, and read_yarn() reads it.
  constexpr std::array always{
      "type", "factor", "attn_factor", "original_context_length", "finetuned", "yarn_log_multiplier"};
  const std::string prefix = keys.full(scaling_prefix);
  for (const auto& [full, value] : keys.file().metadata()) {
    if (!full.starts_with(prefix)) continue;
    const std::string_view key = full.substr(prefix.size());
    if (std::find(always.begin(), always.end(), key) != always.end()) continue;
    const std::string name = fmt::format("{}{}", scaling_prefix, key);
    const auto* known =
        std::find_if(yarn_keys.begin(), yarn_keys.end(), [&](const YarnKey& entry) { return entry.key == key; });
    if (known == yarn_keys.end()) {
      keys.odd(name, "is set, and Plumb does not know it");
    } else if (!yarn) {
      const auto number = known->neutral ? keys.value(keys.file().get_float(full)) : std::nullopt;
      if (known->neutral && (!number || *number == *known->neutral)) continue;
      keys.odd(name, fmt::format("is set, but '{}' is not yarn", keys.full("rope.scaling.type")));
    }
  }
}

void read_yarn(Keys& keys, std::uint32_t context, RopeParameters& rope) {
  rope.scaling = RopeScaling::yarn;
  const std::uint32_t original = keys.count("rope.scaling.original_context_length", max_context);
  if (context > 0 && original > context) {
    keys.odd("rope.scaling.original_context_length",
             fmt::format("is {}, more than the context length {} that scaling reaches", original, context));
  }
  const std::optional<double> beta_fast = keys.optional_number("rope.scaling.yarn_beta_fast", 1e-3, 1e6);
  const std::optional<double> beta_slow = keys.optional_number("rope.scaling.yarn_beta_slow", 1e-3, 1e6);
  const std::optional<double> extrapolation = keys.optional_number("rope.scaling.yarn_ext_factor", 0, 1);
  const std::optional<double> magnitude = keys.optional_number("rope.scaling.yarn_attn_factor", 1e-3, 1e3);
  plan::Yarn yarn;
  yarn.factor = static_cast<float>(rope.factor);
  yarn.original_context = static_cast<float>(original);
  yarn.beta_fast = static_cast<float>(beta_fast.value_or(32));
  yarn.beta_slow = static_cast<float>(beta_slow.value_or(1));
  yarn.extrapolation_mix = static_cast<float>(extrapolation.value_or(1));
  if (yarn.beta_fast <= yarn.beta_slow) {
    keys.odd("rope.scaling.yarn_beta_fast",
             fmt::format("is {}, not above 'rope.scaling.yarn_beta_slow' = {}", yarn.beta_fast, yarn.beta_slow));
  }
  rope.magnitude *= magnitude.value_or(0.1 * std::log(rope.factor) + 1);
  rope.yarn = yarn;
}

// Whether a number is known and another one.
bool differs(const std::optional<double>& number, double other) {
  return number && !std::isnan(*number) && !std::isnan(other) && *number != other;
}

// The scaling of rotary embedding. By the specification, rope.scaling.type is none, linear or yarn, with
// rope.scaling.factor; older files have only rope.scale_linear. rope.scaling.attn_factor multiplies the rotated components
// whatever the type, as in llama.cpp. YaRN follows https://arxiv.org/abs/2309.00071. Its recommended ramp (beta 32 and 1)
// and magnitude (0.1 ln s + 1) apply where the file does not state others: converters write these keys only for models
// that deviate.
void read_rope_scaling(Keys& keys, std::uint32_t context, RopeParameters& rope) {
  constexpr double max_factor = 1e6;
  const std::optional<std::string_view> type = keys.optional_string("rope.scaling.type");
  const std::optional<double> factor = keys.optional_number("rope.scaling.factor", 1, max_factor);
  const std::optional<double> scale_linear = keys.optional_number("rope.scale_linear", 1, max_factor);
  rope.magnitude = keys.optional_number("rope.scaling.attn_factor", 1e-3, 1e3).value_or(1);
  const bool is_unreadable = !type && keys.has("rope.scaling.type");
  if (is_unreadable) return;
  check_scaling_keys(keys, type == "yarn");

  if (!type) {
    if (factor) {
      keys.odd("rope.scaling.type", "is missing although 'rope.scaling.factor' is set; expected none, linear or yarn");
    } else if (differs(scale_linear, 1)) {
      rope.scaling = RopeScaling::linear;
      rope.factor = *scale_linear;
    }
    return;
  }
  if (*type == "none") {
    for (const auto& [key, stated] :
         {std::pair("rope.scaling.factor", factor), std::pair("rope.scale_linear", scale_linear)}) {
      if (differs(stated, 1)) keys.odd(key, fmt::format("is {}, but 'rope.scaling.type' is none", *stated));
    }
    return;
  }
  if (*type != "linear" && *type != "yarn") {
    return keys.odd("rope.scaling.type", fmt::format("is '{}'; expected none, linear or yarn", *type));
  }
  if (!factor) return keys.odd("rope.scaling.factor", fmt::format("is missing; scaling of type {} needs it", *type));
  if (differs(scale_linear, *factor)) {
    keys.odd("rope.scale_linear", fmt::format("is {}, but 'rope.scaling.factor' is {}", *scale_linear, *factor));
  }
  rope.factor = *factor;
  if (*type == "yarn") return read_yarn(keys, context, rope);
  rope.scaling = RopeScaling::linear;
}

RopeParameters read_rope(Keys& keys, const HyperParameters& p, const RopeConventions& conventions) {
  RopeParameters rope;
  rope.pairing = conventions.pairing;
  const std::optional<std::uint32_t> n_rot = keys.optional_count("rope.dimension_count", max_width);
  if (!n_rot && !conventions.n_rot_is_head_dim_if_absent) {
    keys.odd("rope.dimension_count", "is missing");
  } else {
    rope.n_rot = n_rot.value_or(p.head_dim);
  }
  if (rope.n_rot % 2 != 0 || (p.head_dim > 0 && rope.n_rot > p.head_dim)) {
    keys.odd("rope.dimension_count",
             fmt::format("makes {} components of a head rotate; expected an even number up to the head's {}", rope.n_rot,
                         p.head_dim));
    rope.n_rot = 0;
  }
  const std::optional<double> theta = keys.optional_number("rope.freq_base", 1, 1e12);
  if (!theta && !conventions.theta_if_absent) keys.odd("rope.freq_base", "is missing");
  rope.theta = theta.value_or(conventions.theta_if_absent.value_or(not_known));
  read_rope_scaling(keys, p.context, rope);
  return rope;
}

// Values of expert_gating_func (the gguf package's ExpertGatingFuncType).
constexpr std::uint32_t gating_softmax = 1, gating_sigmoid = 2;

std::optional<ExpertParameters> read_experts(Keys& keys, const HyperParameters& p, const ExpertConventions& conventions) {
  const gguf::Value* count = keys.file().find(keys.full("expert_count"));
  if (count == nullptr || is_zero(*count)) return std::nullopt;
  constexpr std::uint32_t most = 1u << 16;
  ExpertParameters e{.by_sigmoid = conventions.by_sigmoid, .normalized = conventions.normalized};
  e.n_experts = keys.count("expert_count", most);
  e.n_used = keys.count("expert_used_count", most);
  if (e.n_used > e.n_experts) {
    keys.odd("expert_used_count", fmt::format("is {}, more than the {} experts", e.n_used, e.n_experts));
  }
  e.d_ff = keys.optional_count("expert_feed_forward_length", max_width).value_or(p.d_ff);
  if (const auto shared = keys.optional_count("expert_shared_feed_forward_length", max_width)) {
    e.d_ff_shared = *shared;
  } else if (const auto n_shared = keys.optional_count("expert_shared_count", most)) {
    e.d_ff_shared = *n_shared * e.d_ff;
  }
  if (const auto gating = keys.optional_count("expert_gating_func", gating_sigmoid))
    e.by_sigmoid = *gating == gating_sigmoid;
  if (keys.has("expert_weights_norm")) e.normalized = keys.flag("expert_weights_norm");
  if (const auto scale = keys.optional_number("expert_weights_scale", 0, 1e6); scale && *scale > 0) e.scale = *scale;
  e.n_groups = keys.optional_count("expert_group_count", plan::max_expert_groups).value_or(1);
  e.n_groups_used = keys.optional_count("expert_group_used_count", e.n_groups).value_or(e.n_groups);
  return e;
}

// Multipliers and caps, as far as the architecture heeds them. Others refuse their keys (foreign_keys).
void read_factors(Keys& keys, const std::vector<std::string_view>& heeded, HyperParameters& p) {
  constexpr double least = 1e-9, most = 1e9;
  const auto read = [&](std::string_view key, double& into) {
    if (std::find(heeded.begin(), heeded.end(), key) == heeded.end()) return;
    const std::optional<double> value = keys.optional_number(key, 0, most);
    if (!value || *value == 0) return;
    if (*value < least) keys.odd(key, fmt::format("is {}; expected {} to {}", *value, least, most));
    into = *value;
  };
  read("embedding_scale", p.embedding_scale);
  read("residual_scale", p.residual_scale);
  read("logit_scale", p.logit_scale);
  read("attn_logit_softcapping", p.attention_soft_cap);
  read("final_logit_softcapping", p.logit_soft_cap);
}

}  // namespace

std::string Keys::full(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }

bool Keys::has(std::string_view key) const { return file_.find(full(key)) != nullptr; }

void Keys::odd(std::string_view key, std::string_view complaint) {
  complain(fmt::format("{}: key '{}' {}", file_.label(), full(key), complaint));
}

std::uint32_t Keys::count(std::string_view key, std::uint32_t most) {
  const gguf::Value* held = file_.find(full(key));
  if (const auto* array = held == nullptr ? nullptr : std::get_if<gguf::Array>(held)) {
    const auto n_blocks = file_.get_uint(full("block_count"));
    if (n_blocks && array->count != *n_blocks) {
      odd(key, fmt::format("has {} values for {} blocks; expected one for each", array->count, *n_blocks));
      return 0;
    }
    if (!file_.get_uint(full(key))) {
      odd(key, "differs from block to block, which Plumb does not run for this architecture");
      return 0;
    }
  }
  const auto found = value(file_.get_uint(full(key)));
  if (!found) return 0;
  if (*found == 0 || *found > most) {
    odd(key, fmt::format("is {}; expected 1 to {}", *found, most));
    return 0;
  }
  return static_cast<std::uint32_t>(*found);
}

std::optional<std::uint32_t> Keys::optional_count(std::string_view key, std::uint32_t most) {
  if (!has(key)) return std::nullopt;
  return count(key, most);
}

double Keys::number(std::string_view key, double least, double most) {
  const auto found = value(file_.get_float(full(key)));
  if (!found) return not_known;
  if (*found >= least && *found <= most) return *found;
  odd(key, fmt::format("is {}; expected {} to {}", *found, least, most));
  return not_known;
}

std::optional<double> Keys::optional_number(std::string_view key, double least, double most) {
  if (!has(key)) return std::nullopt;
  return number(key, least, most);
}

std::vector<double> Keys::numbers_by_block(std::string_view key, std::uint32_t n_blocks) {
  std::vector<double> numbers(n_blocks, 0.0);
  const auto array = value(file_.get_array(key, gguf::ValueType::f32));
  if (!array) return numbers;
  if ((*array)->count != n_blocks) {
    complain(fmt::format("{}: key '{}' has {} values for {} blocks; expected one for each", file_.label(), key,
                         (*array)->count, n_blocks));
    return numbers;
  }
  for (std::uint32_t i = 0; i < n_blocks; ++i) {
    numbers[i] = double{std::get<float>(gguf::element_of(**array, i))};
    if (std::isfinite(numbers[i])) continue;
    complain(fmt::format("{}: key '{}' has {} for block {}; expected a number", file_.label(), key, numbers[i], i));
    numbers[i] = 0;
  }
  return numbers;
}

bool Keys::flag(std::string_view key) { return value(file_.get_bool(full(key))).value_or(false); }

std::optional<std::string_view> Keys::optional_string(std::string_view key) {
  if (!has(key)) return std::nullopt;
  return value(file_.get_string(full(key)));
}

HyperParameters read_decoder(Keys& keys, const DecoderConventions& conventions) {
  const gguf::File& file = keys.file();
  check_foreign_keys(keys, conventions);

  HyperParameters p;
  p.architecture = keys.architecture();
  if (file.find("general.name") != nullptr) p.name = keys.value(file.get_string("general.name")).value_or("");
  p.tied_embeddings = !keys.has_tensor("output.weight");
  p.n_layers = keys.count("block_count", max_layers);
  if (p.n_layers > file.tensors().size()) {
    keys.odd("block_count", fmt::format("is {}, but the file has only {} tensors", p.n_layers, file.tensors().size()));
    p.n_layers = 0;
  }
  p.d_model = keys.count("embedding_length", max_width);
  p.d_ff = keys.count("feed_forward_length", max_width);
  p.context = keys.count("context_length", max_context);
  p.vocab = read_vocab(keys);

  p.n_heads = keys.count("attention.head_count", max_heads);
  // "If not present or if present and equal to head_count, the model does not use GQA."
  p.n_kv_heads = keys.optional_count("attention.head_count_kv", max_heads).value_or(p.n_heads);
  if (p.n_heads > 0 && p.n_kv_heads > 0 && p.n_heads % p.n_kv_heads != 0) {
    keys.odd("attention.head_count_kv",
             fmt::format("is {}; expected a divisor of the {} query heads", p.n_kv_heads, p.n_heads));
    p.n_kv_heads = 0;
  }

  // "The optional size of a key head. If not specified, it will be n_embd / n_head"; the same for values.
  const std::optional<std::uint32_t> key_length = keys.optional_count("attention.key_length", max_width);
  const std::optional<std::uint32_t> value_length = keys.optional_count("attention.value_length", max_width);
  const bool divides = p.n_heads > 0 && p.d_model % p.n_heads == 0;
  if ((!key_length || !value_length) && p.n_heads > 0 && !divides) {
    keys.odd("attention.head_count", fmt::format("is {}, no divisor of the embedding length {}, and the file has no '{}'",
                                                 p.n_heads, p.d_model, keys.full("attention.key_length")));
  }
  const std::uint32_t usual_length = divides ? p.d_model / p.n_heads : 0;
  p.head_dim = key_length.value_or(usual_length);
  const std::uint32_t of_values = value_length.value_or(usual_length);
  if (p.head_dim > 0 && of_values > 0 && of_values != p.head_dim) {
    keys.odd("attention.value_length",
             fmt::format("makes values of {} components, keys having {}; Plumb needs them alike", of_values, p.head_dim));
    p.head_dim = 0;
  }
  if (static_cast<std::uint64_t>(p.n_heads) * p.head_dim > max_width) {
    keys.odd("attention.head_count",
             fmt::format("makes {} heads of {} components, more than {} together", p.n_heads, p.head_dim, max_width));
    p.head_dim = 0;
  }

  p.norm_kind = conventions.norm_kind;
  p.norm_bias = conventions.norm_bias;
  p.logit_bias = conventions.logit_bias;
  p.norm_eps = keys.number(p.norm_kind == plan::NormKind::rms ? rms_eps_key : layer_eps_key, 1e-12, 0.1);
  // 1/sqrt(head_dim) is the definition of attention (https://arxiv.org/abs/1706.03762); a file may state another scale.
  const std::optional<double> scale = keys.optional_number("attention.scale", 1e-9, 1e3);
  p.attention_scale = scale ? *scale : 1.0 / std::sqrt(static_cast<double>(p.head_dim));
  read_factors(keys, conventions.heeds, p);
  const std::vector<std::string_view>& heeded = conventions.heeds;
  if (std::find(heeded.begin(), heeded.end(), parallel_key) != heeded.end()) p.parallel_blocks = keys.flag(parallel_key);

  std::uint32_t window = 0;
  if (const gguf::Value* held = file.find(keys.full("attention.sliding_window")); held != nullptr && !is_zero(*held)) {
    window = keys.count("attention.sliding_window", std::numeric_limits<std::uint32_t>::max());
  }
  if (window > 0 && window < p.context) {
    if (conventions.windows == Windows::none) {
      keys.odd("attention.sliding_window", fmt::format("is {}, less than the context length {}; a sliding window is not "
                                                       "supported for this architecture",
                                                       window, p.context));
    }
    p.window = window;
  }
  if (conventions.rope) p.rope = read_rope(keys, p, *conventions.rope);
  const std::uint32_t common_window = conventions.windows == Windows::uniform ? p.window : 0;
  p.layers.assign(p.n_layers, {.n_heads = p.n_heads,
                               .n_kv_heads = p.n_kv_heads,
                               .head_dim = p.head_dim,
                               .d_ff = p.d_ff,
                               .window = common_window,
                               .rotates = conventions.rope.has_value()});
  if (conventions.experts) p.experts = read_experts(keys, p, *conventions.experts);
  if (p.experts) {
    const gguf::Value* dense = file.find(keys.full("leading_dense_block_count"));
    const std::uint32_t n_dense =
        dense == nullptr || is_zero(*dense) ? 0 : keys.count("leading_dense_block_count", p.n_layers);
    for (std::uint32_t i = n_dense; i < p.n_layers; ++i) p.layers[i].has_experts = true;
  }
  return p;
}

void leave_out_prediction(Keys& keys, HyperParameters& p) {
  constexpr std::string_view key = "nextn_predict_layers";
  const gguf::Value* held = keys.file().find(keys.full(key));
  if (held == nullptr || is_zero(*held)) return;
  const std::uint32_t n = keys.count(key, max_layers);
  if (n >= p.n_layers) return keys.odd(key, fmt::format("is {}, but the file has {} blocks", n, p.n_layers));
  p.n_prediction_layers = n;
  p.n_layers -= n;
  p.layers.resize(p.n_layers);
}

void read_window_pattern(Keys& keys, HyperParameters& p, std::uint32_t period_if_absent) {
  constexpr std::string_view key = "attention.sliding_window_pattern";
  if (!keys.has(key)) return alternate_windows(p, period_if_absent);
  const auto pattern = keys.value(keys.file().get_array(keys.full(key), gguf::ValueType::boolean));
  if (!pattern) return;
  if ((*pattern)->count != p.n_layers) {
    keys.odd(key, fmt::format("has {} values for {} blocks; expected one for each", (*pattern)->count, p.n_layers));
    return;
  }
  for (std::uint32_t i = 0; i < p.n_layers; ++i) {
    p.layers[i].window = is_zero(gguf::element_of(**pattern, i)) ? 0 : p.window;
  }
}

void alternate_windows(HyperParameters& p, std::uint32_t period) {
  for (std::uint32_t i = 0; i < p.n_layers; ++i) p.layers[i].window = (i + 1) % period == 0 ? 0 : p.window;
}

}  // namespace plumb::model
