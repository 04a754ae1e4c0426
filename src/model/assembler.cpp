#include "model/assembler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace plumb::model {
namespace {

std::string dims_text(const gguf::Tensor& tensor) {
  std::string text;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.dims[i]);
  return "{" + text + "}";
}

// A tensor of early files that only repeats numbers computed from rope.freq_base.
bool is_redundant(std::string_view name) { return name.ends_with(".attn_rot_embd.weight"); }

// Whether a tensor must be part of the forward pass, so that leaving it out computes another model.
bool matters(std::string_view name) {
  constexpr std::array prefixes{"blk.", "rope_", "token_embd", "position_embd", "output"};
  const auto begins = [&](std::string_view prefix) { return name.starts_with(prefix); };
  return !is_redundant(name) && (std::any_of(prefixes.begin(), prefixes.end(), begins) || name.ends_with(".bias"));
}

plan::CacheShape cache_of(const HyperParameters& parameters) {
  plan::CacheShape cache;
  for (const LayerParameters& layer : parameters.layers) cache.layers.push_back({layer.n_kv_heads, layer.head_dim});
  return cache;
}

}  // namespace

Assembler::Assembler(const gguf::File& file, const HyperParameters& parameters)
    : file_(file), p_(parameters), builder_(cache_of(parameters)) {}

void Assembler::complain(std::string complaint) {
  std::string message = fmt::format("{}: tensor {}", file_.label(), complaint);
  if (std::find(complaints_.begin(), complaints_.end(), message) == complaints_.end())
    complaints_.push_back(std::move(message));
}

gguf::Tensor Assembler::rows(const gguf::Tensor& whole, std::uint64_t first, const Shape& shape) {
  const quants::FormatInfo& format = quants::info(whole.format);
  const std::uint64_t start = shape.vector ? first : first * shape.in;
  const std::uint64_t n = shape.out * shape.in;
  if (start % format.block_size != 0 || n % format.block_size != 0) {
    complain(fmt::format("'{}' is stored in blocks of {} values, which cannot be cut at value {}", whole.name,
                         format.block_size, start % format.block_size != 0 ? start : start + n));
    return whole;
  }
  gguf::Tensor part = whole;
  part.name =
      names_.emplace_back(fmt::format("{}[{}:{}]", whole.name, first, first + (shape.vector ? shape.in : shape.out)));
  part.dims = {shape.in, shape.out, 1, 1};
  part.data = whole.data.subspan(format.row_bytes(start), format.row_bytes(n));
  part.file_offset += format.row_bytes(start);
  return part;
}

gguf::Tensor Assembler::bind(const Source& source, std::string_view kind, const Shape& shape) {
  const std::string name = fmt::format("{}.{}", source.name, kind);
  Shape whole = shape;
  if (source.of != 0) (shape.vector ? whole.in : whole.out) = source.of;
  const gguf::Tensor* found = file_.tensor(name);
  const bool is_known = whole.in > 0 && whole.out > 0;
  const auto fits = [](std::uint64_t has, std::uint64_t wanted) { return has == wanted || wanted == 0; };
  if (found != nullptr && fits(found->dims[0], whole.in) && fits(found->dims[1], whole.out) &&
      fits(found->dims[2], whole.n_experts) && found->dims[3] == 1) {
    used_.insert(found->name);
    if (source.of != 0 && is_known) return rows(*found, source.first, shape);
    gguf::Tensor tensor = *found;
    tensor.n_dims = shape.n_dims();  // files drop the last dimensions that are 1, or keep them
    return tensor;
  }
  const auto shown = [](std::uint64_t n) { return n == 0 ? std::string("any") : fmt::format("{}", n); };
  const std::string in = shown(whole.in), out = shown(whole.out);
  const std::string n_experts = whole.n_experts == 1 ? "" : ", " + shown(whole.n_experts);
  const std::string of_experts = whole.n_experts == 1 ? "" : fmt::format("experts = {}, ", shown(whole.n_experts));
  const std::string expected = whole.vector ? fmt::format("dims {{{}}}", in)
                                            : fmt::format("dims {{{}, {}{}}}, which is [{}out = {}, in = {}]", in, out,
                                                          n_experts, of_experts, out, in);
  if (found != nullptr) {
    used_.insert(found->name);
    complain(fmt::format("'{}' has dims {}; the hyper-parameters of architecture {} ask for {}", name, dims_text(*found),
                         p_.architecture, expected));
  } else {
    complain(fmt::format("'{}' is missing; architecture {} needs it{}", name, p_.architecture,
                         whole.in == 0 && whole.out <= 1 ? "" : " with " + expected));
  }
  // A stand-in of the right shape without data. After a complaint the Plan is never handed out, so nothing reads it.
  gguf::Tensor stand_in;
  stand_in.format = quants::Format::f32;
  stand_in.n_dims = shape.n_dims();
  stand_in.dims = {shape.in, shape.out, shape.n_experts, 1};
  return stand_in;
}

plan::ValueId Assembler::embed() {
  const plan::ValueId rows = builder_.embed("token_embd", matrix({"token_embd"}, p_.vocab, p_.d_model));
  if (p_.embedding_scale == 1) return rows;
  return builder_.scale("embd", rows, static_cast<float>(p_.embedding_scale));
}

plan::VectorId Assembler::norm_vector(const std::string& source, std::string_view kind, std::uint64_t n_groups,
                                      std::uint64_t length) {
  const gguf::Tensor* found = file_.tensor(fmt::format("{}.{}", source, kind));
  if (found == nullptr || found->n_dims < 2) return vector({source}, kind, length);
  gguf::Tensor stacked = bind({source}, kind, {n_groups, length, false});
  stacked.n_dims = 1;
  stacked.dims = {n_groups * length, 1, 1, 1};
  return builder_.vector(stacked);
}

plan::ValueId Assembler::norm(const std::string& name, const std::string& source, plan::ValueId x, std::uint64_t length,
                              Bias bias) {
  const std::uint64_t n_groups = length == 0 ? 0 : builder_.width(x) / length;  // 0: unknown
  plan::Norm op{.x = x, .eps = static_cast<float>(p_.norm_eps), .kind = p_.norm_kind};
  op.weight = norm_vector(source, "weight", n_groups, length);
  const bool may_have_bias = p_.norm_kind == plan::NormKind::layer && file_.tensor(source + ".bias") != nullptr;
  if (bias == Bias::required || may_have_bias) op.bias = norm_vector(source, "bias", n_groups, length);
  op.group = static_cast<std::uint32_t>(length);
  return builder_.norm(name, op);
}

plan::ValueId Assembler::linear(const std::string& name, const Source& source, plan::ValueId x, std::uint64_t out,
                                std::uint64_t in, Bias bias) {
  const plan::MatrixId weight = matrix(source, out, in);
  std::optional<plan::VectorId> bias_weight;
  if (bias == Bias::required || file_.tensor(source.name + ".bias") != nullptr) bias_weight = vector(source, "bias", out);
  return builder_.linear(name, x, weight, bias_weight);
}

plan::ValueId Assembler::rope(const std::string& name, std::uint32_t layer, plan::ValueId x) {
  const LayerParameters& l = p_.layers[layer];
  const RopeParameters& r = l.window > 0 && p_.window_rope ? *p_.window_rope : p_.rope;
  plan::Rope rope;
  rope.head_dim = l.head_dim;
  rope.n_rot = r.n_rot;
  rope.pairing = r.pairing;
  rope.theta = static_cast<float>(r.theta);
  rope.position_scale = static_cast<float>(1 / r.factor);
  rope.magnitude = static_cast<float>(r.magnitude);
  rope.yarn = r.yarn;
  if (r.frequency_factors) rope.factors = vector({"rope_freqs"}, "weight", r.n_rot / 2);
  if (r.long_and_short) {
    rope.factors = vector({"rope_factors_short"}, "weight", r.n_rot / 2);
    rope.long_factors = vector({"rope_factors_long"}, "weight", r.n_rot / 2);
    rope.original_context = r.original_context;
  }
  return builder_.rope(name, x, rope);
}

plan::ValueId Assembler::attend(const std::string& name, std::uint32_t layer, plan::ValueId q, plan::ValueId k,
                                plan::ValueId v, std::optional<plan::VectorId> sinks) {
  const LayerParameters& l = p_.layers[layer];
  builder_.kv_write(layer, k, v);
  plan::Attention attention;
  attention.layer = layer;
  attention.n_heads = l.n_heads;
  attention.n_kv_heads = l.n_kv_heads;
  attention.head_dim = l.head_dim;
  attention.scale = static_cast<float>(p_.attention_scale);
  attention.window = l.window;
  attention.window_kind = p_.window_kind;
  attention.alibi_max_bias = static_cast<float>(p_.alibi_max_bias);
  attention.soft_cap = static_cast<float>(p_.attention_soft_cap);
  attention.sinks = sinks;
  return builder_.attention(name, q, attention);
}

plan::ValueId Assembler::add_branch(const std::string& name, plan::ValueId x, plan::ValueId branch,
                                    const std::string& scaled) {
  if (p_.residual_scale != 1) branch = builder_.scale(scaled, branch, static_cast<float>(p_.residual_scale));
  return add(name, x, branch);
}

plan::ValueId Assembler::logits(plan::ValueId x) {
  const plan::MatrixId weight = matrix({p_.tied_embeddings ? "token_embd" : "output"}, p_.vocab, p_.d_model);
  std::optional<plan::VectorId> bias;
  if (p_.logit_bias) bias = vector({"output"}, "bias", p_.vocab);
  const bool scales = p_.logit_scale != 1, caps = p_.logit_soft_cap > 0;
  plan::ValueId y = builder_.linear(scales || caps ? "logits_raw" : "logits", x, weight, bias, plan::Rows::outputs);
  if (scales) y = builder_.scale(caps ? "logits_scaled" : "logits", y, static_cast<float>(p_.logit_scale));
  if (caps) y = builder_.soft_cap("logits", y, static_cast<float>(p_.logit_soft_cap));
  return y;
}

bool Assembler::of_prediction(std::string_view name) const {
  for (std::uint32_t i = p_.n_layers; i < p_.n_layers + p_.n_prediction_layers; ++i) {
    if (name.starts_with(fmt::format("blk.{}.", i))) return true;
  }
  return false;
}

Result<Assembler::Draft> Assembler::finish(plan::ValueId logits) {
  Draft draft;
  for (const gguf::Tensor& tensor : file_.tensors()) {
    if (used_.contains(tensor.name)) continue;
    if (matters(tensor.name) && !of_prediction(tensor.name)) {
      complain(
          fmt::format("'{}' has no role in architecture {} with {} blocks; without it Plumb would compute another model",
                      tensor.name, p_.architecture, p_.n_layers));
    }
    draft.unused_tensors.push_back(tensor.name);
  }
  if (!complaints_.empty()) return fail("{}", complaints_.front());
  auto plan = builder_.finish(logits, p_.context);
  if (!plan) return fail("{}: {}", file_.label(), plan.error().message);
  draft.plan = std::move(*plan);
  draft.names = std::move(names_);
  return draft;
}

}  // namespace plumb::model
