#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "plan/fields.h"

namespace plumb::plan {

namespace {

// Calls visit with each of the op's fields.
template <class Visit>
void for_each_operand(const Op& op, const Visit& visit) {
  std::visit([&](const auto& o) { for_each_field(o, visit); }, op);
}

// The op's fields of the types Ids, in order. Optional fields count where they are set. Each is returned as a Wanted, the
// type itself or its base.
template <class Wanted, class... Ids>
std::vector<Wanted> collect(const Op& op) {
  std::vector<Wanted> found;
  for_each_operand(op, [&]<class Field>(const Field& field) {
    if constexpr ((std::is_same_v<Field, Ids> || ...)) {
      found.push_back({field});
    } else if constexpr ((std::is_same_v<Field, std::optional<Ids>> || ...)) {
      if (field) found.push_back({*field});
    }
  });
  return found;
}

std::string describe(const Weight& weight) {
  const auto& tensor = weight.tensor;
  return fmt::format("'{}' with dimensions [{}]", tensor.name,
                     fmt::join(tensor.dims.begin(), tensor.dims.begin() + tensor.n_dims, ", "));
}

}  // namespace

std::string_view name(const Op& op) {
  return std::visit([](const auto& o) { return o.name; }, op);
}

std::optional<ValueId> output(const Op& op) {
  const auto results = collect<ValueId, ResultId>(op);
  return results.empty() ? std::nullopt : std::optional(results.front());
}

std::vector<ValueId> inputs(const Op& op) { return collect<ValueId, ValueId>(op); }

std::vector<WeightId> weights(const Op& op) { return collect<WeightId, MatrixId, VectorId>(op); }

std::vector<VectorId> vectors(const Op& op) { return collect<VectorId, VectorId>(op); }

std::optional<ValueId> Plan::find(std::string_view wanted) const {
  for (std::uint32_t i = 0; i < values.size(); ++i) {
    if (values[i].name == wanted) return ValueId{i};
  }
  return std::nullopt;
}

Builder::Builder(CacheShape cache) { plan_.cache = std::move(cache); }

void Builder::expect(bool holds, std::string_view op, std::string_view value, std::string_view rule) {
  if (!holds && !error_) error_ = Error{fmt::format("{} '{}': {}", op, value, rule)};
}

void Builder::expect_vector(std::optional<VectorId> id, std::uint64_t n, std::string_view what, std::string_view op,
                            std::string_view value) {
  if (!id) return;
  const Weight& w = plan_.weight(*id);
  expect(w.tensor.n_dims == 1 && w.in() == n, op, value,
         fmt::format("the {} {} must be one vector of {} values", what, describe(w), n));
}

ResultId Builder::make(std::string value, Rows rows, std::uint64_t width) {
  const auto index = static_cast<std::uint32_t>(plan_.values.size());
  const bool fresh = names_.emplace(value, index).second;
  expect(fresh, "value", value, "the name is taken by an earlier op");
  expect(width > 0 && width < (std::uint64_t{1} << 31), "value", value, "the width must be between 1 and 2^31");
  // The rules of later ops divide by widths; after an error any will do.
  plan_.values.push_back({std::move(value), rows, std::max<std::uint64_t>(width, 1)});
  return {{index}};
}

template <class T>
ValueId Builder::append(std::string value, Rows rows, std::uint64_t width, T op) {
  op.out = make(std::move(value), rows, width);
  plan_.ops.emplace_back(op);
  return op.out;
}

void Builder::expect_one_shape(const Op& op, std::string_view value) {
  const std::vector<ValueId> values = inputs(op);
  const Value& first = plan_.value(values.front());
  for (const ValueId id : values) {
    const Value& other = plan_.value(id);
    expect(other.width == first.width && other.rows == first.rows, plan::name(op), value,
           fmt::format("'{}' and '{}' must have one shape", first.name, other.name));
  }
}

WeightId Builder::weight(const gguf::Tensor& tensor) {
  for (std::uint32_t i = 0; i < plan_.weights.size(); ++i) {
    if (plan_.weights[i].tensor.name == tensor.name) return {i};
  }
  plan_.weights.push_back({tensor});
  return {static_cast<std::uint32_t>(plan_.weights.size() - 1)};
}

ValueId Builder::embed(std::string value, Embed op) {
  const Weight& w = plan_.weight(op.table);
  expect(w.tensor.n_dims == 2, "embed", value, fmt::format("the table {} must be [vocab, d]", describe(w)));
  return append(std::move(value), Rows::tokens, w.in(), op);
}

ValueId Builder::norm(std::string value, Norm op) {
  const Value input = plan_.value(op.x);
  if (op.group == 0) op.group = static_cast<std::uint32_t>(op.weight ? plan_.weight(*op.weight).in() : input.width);
  expect(op.group > 0 && input.width % op.group == 0, "norm", value,
         fmt::format("groups of {} values must divide the width {} of '{}'", op.group, input.width, input.name));
  for (const VectorId id : vectors(op)) {
    const Weight& w = plan_.weight(id);
    expect(w.tensor.n_dims == 1 && (w.in() == op.group || w.in() == input.width), "norm", value,
           fmt::format("the weight {} must be one vector of {} values, the group, or {}, the width of '{}'", describe(w),
                       op.group, input.width, input.name));
  }
  expect(std::isfinite(op.eps) && op.eps > 0, "norm", value, "eps must be a positive number");
  return append(std::move(value), input.rows, input.width, op);
}

ValueId Builder::linear(std::string value, ValueId x, MatrixId weight, std::optional<VectorId> bias, Rows rows) {
  const Value input = plan_.value(x);
  const Weight& w = plan_.weight(weight);
  expect(
      w.tensor.n_dims == 2 && w.in() == input.width, "linear", value,
      fmt::format("the weight {} must be [out, in] with in = {}, the width of '{}'", describe(w), input.width, input.name));
  expect(rows == input.rows || rows == Rows::outputs, "linear", value, "output rows cannot become token rows");
  expect_vector(bias, w.out(), "bias", "linear", value);
  return append(std::move(value), rows, w.out(), Linear{.x = x, .weight = weight, .bias = bias});
}

ValueId Builder::rope(std::string value, ValueId x, Rope op) {
  const Value input = plan_.value(x);
  expect(input.rows == Rows::tokens, "rope", value, "the input must have one row a token");
  expect(op.head_dim > 0 && input.width % op.head_dim == 0, "rope", value,
         fmt::format("head_dim {} must divide the width {} of '{}'", op.head_dim, input.width, input.name));
  expect(op.n_rot > 0 && op.n_rot % 2 == 0 && op.n_rot <= op.head_dim, "rope", value,
         fmt::format("{} rotated components must be even and at most head_dim {}", op.n_rot, op.head_dim));
  expect(std::isfinite(op.theta) && op.theta > 0, "rope", value, "theta must be a positive number");
  expect_vector(op.factors, op.n_rot / 2, "factors", "rope", value);
  expect_vector(op.long_factors, op.n_rot / 2, "long factors", "rope", value);
  expect(!op.long_factors || (op.factors && op.original_context > 0), "rope", value,
         "long factors need short ones, and the context from which on they apply");
  op.x = x;
  return append(std::move(value), input.rows, input.width, op);
}

void Builder::kv_write(std::uint32_t layer, ValueId k, ValueId v) {
  const std::string place = fmt::format("layer {}", layer);
  expect(layer < plan_.cache.n_layers(), "kv_write", place, fmt::format("the cache has {} layers", plan_.cache.n_layers()));
  expect(writer(layer) == nullptr, "kv_write", place, "the layer's cache is written already");
  const std::uint64_t width = layer < plan_.cache.n_layers() ? plan_.cache.layers[layer].width() : 0;
  for (const ValueId id : {k, v}) {
    const Value& value = plan_.value(id);
    expect(value.rows == Rows::tokens && value.width == width, "kv_write", place,
           fmt::format("'{}' has width {}, the cache holds n_kv_heads * head_dim = {}", value.name, value.width, width));
  }
  plan_.ops.emplace_back(KvWrite{k, v, layer});
}

const KvWrite* Builder::writer(std::uint32_t layer) const {
  for (const Op& op : plan_.ops) {
    if (const auto* write = std::get_if<KvWrite>(&op); write != nullptr && write->layer == layer) return write;
  }
  return nullptr;
}

ValueId Builder::attention(std::string value, ValueId q, Attention op) {
  const Value input = plan_.value(q);
  expect(input.rows == Rows::tokens && input.width == std::uint64_t{op.n_heads} * op.head_dim, "attention", value,
         fmt::format("'{}' has width {}, n_heads * head_dim is {}", input.name, input.width,
                     std::uint64_t{op.n_heads} * op.head_dim));
  expect(op.n_kv_heads > 0 && op.n_heads % op.n_kv_heads == 0, "attention", value,
         fmt::format("n_kv_heads {} must divide n_heads {}", op.n_kv_heads, op.n_heads));
  const KvWrite* const write = writer(op.layer);
  expect(write != nullptr, "attention", value, fmt::format("nothing is written to the cache of layer {}", op.layer));
  expect(write == nullptr || plan_.cache.layers[op.layer] == LayerCache{op.n_kv_heads, op.head_dim}, "attention", value,
         fmt::format("the cache of layer {} was made for another shape", op.layer));
  expect(std::isfinite(op.scale) && op.scale > 0, "attention", value, "the scale must be a positive number");
  expect(std::isfinite(op.soft_cap) && op.soft_cap >= 0, "attention", value,
         "the soft cap must be a positive number, or 0 for none");
  expect(std::isfinite(op.alibi_max_bias) && op.alibi_max_bias >= 0, "attention", value,
         "ALiBi's largest bias must be a positive number, or 0 for none");
  expect(op.causal || (op.window_kind == WindowKind::sliding && op.alibi_max_bias == 0), "attention", value,
         "parts of a sequence and ALiBi are for causal attention");
  expect_vector(op.sinks, op.n_heads, "sinks", "attention", value);
  op.q = q;
  return append(std::move(value), Rows::tokens, input.width, op);
}

ValueId Builder::activate(std::string value, Activate op) {
  const Value gate = plan_.value(op.gate);
  const Value up = plan_.value(op.up.value_or(op.gate));
  expect(gate.rows == up.rows && up.width % gate.width == 0, "activate", value,
         fmt::format("the width {} of '{}' must be a multiple of {}, that of '{}', with as many rows", up.width, up.name,
                     gate.width, gate.name));
  expect(op.limit == 0 || op.up, "activate", value, "only a gated activation has a limit");
  expect(op.limit >= 0 && std::isfinite(op.limit) && std::isfinite(op.alpha) && std::isfinite(op.up_offset), "activate",
         value, "limit, alpha and offset must be numbers, and the limit not negative");
  return append(std::move(value), up.rows, up.width, op);
}

ValueId Builder::add(std::string value, ValueId a, ValueId b) {
  const Add op{.a = a, .b = b};
  expect_one_shape(op, value);
  const Value left = plan_.value(a);
  return append(std::move(value), left.rows, left.width, op);
}

ValueId Builder::scale(std::string value, Scale op, std::uint64_t width) {
  const Value input = plan_.value(op.x);
  expect(op.first + width <= input.width, "scale", value,
         fmt::format("values {} to {} must be within the width {} of '{}'", op.first, op.first + width, input.width,
                     input.name));
  expect(std::isfinite(op.factor), "scale", value, "the factor must be a number");
  if (op.weight && plan_.weight(*op.weight).in() != 1) expect_vector(op.weight, width, "weight", "scale", value);
  if (op.temperature) {
    expect(input.rows == Rows::tokens, "scale", value, "only rows of tokens have positions");
    expect(std::isfinite(op.temperature->beta) && op.temperature->length > 0, "scale", value,
           "the temperature's beta must be a number, and its length positive");
  }
  return append(std::move(value), input.rows, width, op);
}

ValueId Builder::soft_cap(std::string value, ValueId x, float cap) {
  const Value input = plan_.value(x);
  expect(std::isfinite(cap) && cap > 0, "soft_cap", value, "the cap must be a positive number");
  return append(std::move(value), input.rows, input.width, SoftCap{.x = x, .cap = cap});
}

ValueId Builder::top_k(std::string value, TopK op) {
  const Value input = plan_.value(op.x);
  expect(op.n_groups > 0 && op.n_groups_used > 0 && op.n_groups_used <= op.n_groups && op.n_groups <= max_expert_groups &&
             input.width % op.n_groups == 0,
         "top_k", value,
         fmt::format("{} of {} groups must be at least one, at most {}, and divide the width {} of '{}'", op.n_groups_used,
                     op.n_groups, max_expert_groups, input.width, input.name));
  const std::uint64_t most = input.width / std::max(1u, op.n_groups) * op.n_groups_used;
  expect(op.k > 0 && op.k <= most && input.width < (1u << 24), "top_k", value,
         fmt::format("k = {} must be between 1 and {}, from the width of '{}', which must be below 2^24", op.k, most,
                     input.name));
  expect_vector(op.bias, input.width, "bias", "top_k", value);
  return append(std::move(value), input.rows, op.k, op);
}

ValueId Builder::expert_weights(std::string value, ValueId logits, ValueId experts, Gating gating, float scale) {
  const Value all = plan_.value(logits);
  const Value chosen = plan_.value(experts);
  expect(all.rows == chosen.rows && chosen.width <= all.width, "expert_weights", value,
         fmt::format("'{}' must choose among the {} of '{}'", chosen.name, all.width, all.name));
  expect(std::isfinite(scale), "expert_weights", value, "the scale must be a number");
  return append(std::move(value), chosen.rows, chosen.width,
                ExpertWeights{.logits = logits, .experts = experts, .gating = gating, .scale = scale});
}

ValueId Builder::expert_linear(std::string value, ValueId x, ValueId experts, MatrixId weight,
                               std::optional<VectorId> bias) {
  const Value input = plan_.value(x);
  const Value chosen = plan_.value(experts);
  const Weight& w = plan_.weight(weight);
  expect(
      w.tensor.n_dims == 3 && (w.in() == input.width || w.in() * chosen.width == input.width) && input.rows == chosen.rows,
      "expert_linear", value,
      fmt::format("the weight {} must be [n_experts, out, in] with in = {}, the width of '{}', or its {}th part",
                  describe(w), input.width, input.name, chosen.width));
  for (const Op& op : plan_.ops) {
    const auto* top = std::get_if<TopK>(&op);
    if (top == nullptr || !(top->out == experts)) continue;
    expect(plan_.value(top->x).width == w.n_experts(), "expert_linear", value,
           fmt::format("the weight {} must have {} experts, as many as '{}' has logits", describe(w),
                       plan_.value(top->x).width, plan_.value(top->x).name));
  }
  if (bias) {
    const Weight& b = plan_.weight(*bias);
    expect(b.tensor.n_dims == 2 && b.in() == w.out() && b.out() == w.n_experts(), "expert_linear", value,
           fmt::format("the bias {} must be [{}, {}]", describe(b), w.n_experts(), w.out()));
  }
  return append(std::move(value), input.rows, chosen.width * w.out(),
                ExpertLinear{.x = x, .experts = experts, .weight = weight, .bias = bias});
}

ValueId Builder::expert_sum(std::string value, ValueId x, ValueId weights) {
  const Value input = plan_.value(x);
  const Value chosen = plan_.value(weights);
  expect(input.rows == chosen.rows && input.width % chosen.width == 0, "expert_sum", value,
         fmt::format("the width {} of '{}' must be a multiple of {}, that of '{}'", input.width, input.name, chosen.width,
                     chosen.name));
  return append(std::move(value), input.rows, input.width / chosen.width, ExpertSum{.x = x, .weights = weights});
}

Result<Plan> Builder::finish(ValueId logits, std::uint32_t context) {
  const Value& value = plan_.value(logits);
  expect(value.rows == Rows::outputs, "logits", value.name, "the logits must have one row an output");
  expect(context > 0, "plan", value.name, "the context length must be positive");
  if (error_) return fail(*error_);
  plan_.logits = logits;
  plan_.vocab = static_cast<std::uint32_t>(value.width);
  plan_.context = context;
  return std::move(plan_);
}

}  // namespace plumb::plan
