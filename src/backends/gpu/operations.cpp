#include "backends/gpu/operations.h"

#include <algorithm>
#include <optional>
#include <variant>

namespace plumb::backends::gpu {

namespace {

using plan::ValueId;
using std::uint32_t;

constexpr uint32_t ceil_div(uint32_t n, uint32_t d) { return (n + d - 1) / d; }
// LINEAR_TILE_OUT and LINEAR_TILE_ROWS of kernels/linear.h.
constexpr uint32_t tile_outputs = 64;
constexpr uint32_t tile_rows = 32;

struct FormatKernels {
  Kernel<sig::embed> embed;
  Kernel<sig::linear_vec> linear_vec;
  Kernel<sig::linear_mat> linear_mat;
};
const FormatKernels& kernels_for(quants::Format format) {
#define PLUMB_FORMAT(id, type, NAME, family, writing) \
  {.embed = kernel::embed_##id, .linear_vec = kernel::linear_vec_##id, .linear_mat = kernel::linear_mat_##id},
  static constexpr FormatKernels kernels[] = {PLUMB_FORMATS(PLUMB_FORMAT)};
#undef PLUMB_FORMAT
  return kernels[quants::index(format)];
}

uint32_t row_bytes(const WeightView& w) { return static_cast<uint32_t>(quants::info(w.format).row_bytes(w.n_in)); }

template <class T>
ViewOf<T> of(View view) {
  return ViewOf<T>(view);
}

sig::AttentionParams attention_params(const plan::Attention& op, uint32_t n_splits, uint32_t capacity) {
  return {.n_heads = op.n_heads,
          .n_kv_heads = op.n_kv_heads,
          .head_dim = op.head_dim,
          .capacity = capacity,
          .window = op.window,
          .n_splits = n_splits,
          .scale = op.scale,
          .soft_cap = op.soft_cap,
          .has_sinks = op.sinks ? 1u : 0u,
          .n_rows = 0,
          .n_positions = 0};
}

}  // namespace

void embed(Launches& to, const WeightView& table, View tokens, uint32_t n_tokens, float scale, View y) {
  to.push_back(launch(kernels_for(table.format).embed, {n_tokens},
                      {.tokens = of<int>(tokens),
                       .table = of<sig::uchar>(table.view),
                       .y = of<float>(y),
                       .p = {.width = table.n_in, .row_bytes = row_bytes(table), .scale = scale}}));
}

void rms_norm(Launches& to, View x, View weight, uint32_t group, uint32_t n_groups, float eps, View y) {
  to.push_back(
      launch(kernel::rms_norm, {n_groups},
             {.x = of<float>(x), .weight = of<float>(weight), .y = of<float>(y), .p = {.group = group, .eps = eps}}));
}

void linear(Launches& to, const WeightView& w, View bias, View x, uint32_t n_rows, View y) {
  const sig::LinearParams p{.n_in = w.n_in,
                            .n_out = w.n_out,
                            .row_bytes = row_bytes(w),
                            .n_rows = n_rows,
                            .has_bias = bias.memory != nullptr ? 1u : 0u,
                            .n_experts = 0,
                            .rows_a_x = 1};
  const auto weight = of<sig::uchar>(w.view);
  const auto b = of<float>(bias.memory != nullptr ? bias : x);
  if (n_rows <= most_vector_rows) {
    constexpr uint32_t outputs = PLUMB_LINEAR_VEC_THREADS / 32;
    to.push_back(launch(kernels_for(w.format).linear_vec, {ceil_div(w.n_out, outputs), n_rows},
                        {.w = weight, .x = of<float>(x), .bias = b, .experts = of<float>(x), .y = of<float>(y), .p = p}));
  } else {
    to.push_back(launch(kernels_for(w.format).linear_mat, {ceil_div(w.n_out, tile_outputs), ceil_div(n_rows, tile_rows)},
                        {.w = weight, .x = of<float>(x), .bias = b, .y = of<float>(y), .p = p}));
  }
}

void expert_linear(Launches& to, const WeightView& w, View bias, View experts, View x, uint32_t rows_a_x, uint32_t n_rows,
                   View y) {
  constexpr uint32_t outputs = PLUMB_LINEAR_VEC_THREADS / 32;
  const bool has_bias = bias.memory != nullptr;
  to.push_back(launch(kernels_for(w.format).linear_vec, {ceil_div(w.n_out, outputs), n_rows},
                      {.w = of<sig::uchar>(w.view),
                       .x = of<float>(x),
                       .bias = of<float>(has_bias ? bias : x),
                       .experts = of<float>(experts),
                       .y = of<float>(y),
                       .p = {.n_in = w.n_in,
                             .n_out = w.n_out,
                             .row_bytes = row_bytes(w),
                             .n_rows = n_rows,
                             .has_bias = has_bias ? 1u : 0u,
                             .n_experts = w.n_experts,
                             .rows_a_x = rows_a_x}}));
}

void rope(Launches& to, View positions, View turns, const plan::Rope& op, uint32_t width, uint32_t n_tokens, View x,
          View y) {
  to.push_back(launch(kernel::rope, {ceil_div(width / 2, PLUMB_FLAT_THREADS), n_tokens},
                      {.positions = of<sig::uint>(positions),
                       .turns = of<sig::float4>(turns),
                       .x = of<float>(x),
                       .y = of<float>(y),
                       .p = {.width = width,
                             .head_dim = op.head_dim,
                             .n_rot = op.n_rot,
                             .halves = op.pairing == plan::RopePairing::halves ? 1u : 0u}}));
}

void kv_write(Launches& to, const RowPlaces& rows, View k, View v, uint32_t width, uint32_t head_dim, uint32_t n_tokens,
              const CacheView& cache) {
  const sig::KvWriteParams p{.width = width, .head_dim = head_dim, .capacity = cache.capacity};
  const Grid grid{ceil_div(width, PLUMB_FLAT_THREADS), n_tokens, 1};
  const auto write = [&]<class T>(auto kernel) {
    to.push_back(launch(kernel, grid,
                        {.slots = of<sig::uint>(rows.slots),
                         .positions = of<sig::uint>(rows.positions),
                         .k = of<float>(k),
                         .v = of<float>(v),
                         .keys = of<T>(cache.keys),
                         .values = of<T>(cache.values),
                         .p = p}));
  };
  if (cache.type == KvType::f16) {
    write.operator()<sig::half>(kernel::kv_write_f16);
  } else {
    write.operator()<float>(kernel::kv_write_f32);
  }
}

uint32_t attention_splits(uint32_t n_heads, uint32_t n_tokens, uint32_t longest) {
  constexpr uint32_t positions_a_split = 128;
  constexpr uint32_t most_threadgroups = 1024;
  const uint32_t most = std::max(1u, most_threadgroups / std::max(1u, n_heads * n_tokens));
  uint32_t splits = 1;  // a power of two, so that a recorded step serves many lengths
  while (splits * 2 <= most && splits * positions_a_split < longest) splits *= 2;
  return splits;
}

std::uint64_t attention_partial_bytes(const plan::Attention& op, uint32_t n_tokens, uint32_t n_splits) {
  return std::uint64_t{4} * n_tokens * op.n_heads * n_splits * (op.head_dim + 2);
}

void attention(Launches& to, const RowPlaces& rows, const plan::Attention& op, uint32_t n_tokens, uint32_t n_splits, View q,
               const CacheView& cache, View sinks, View partial, View y) {
  const sig::AttentionParams p = attention_params(op, n_splits, cache.capacity);
  const Grid grid{op.n_heads, n_tokens, n_splits};
  const auto attend = [&]<class T>(auto kernel) {
    to.push_back(launch(kernel, grid,
                        {.slots = of<sig::uint>(rows.slots),
                         .positions = of<sig::uint>(rows.positions),
                         .q = of<float>(q),
                         .keys = of<T>(cache.keys),
                         .values = of<T>(cache.values),
                         .partial = of<float>(partial),
                         .p = p}));
  };
  if (cache.type == KvType::f16) {
    attend.operator()<sig::half>(kernel::attention_f16);
  } else {
    attend.operator()<float>(kernel::attention_f32);
  }
  to.push_back(
      launch(kernel::attention_merge, {op.n_heads, n_tokens, 1},
             {.partial = of<float>(partial), .sinks = of<float>(op.sinks ? sinks : partial), .y = of<float>(y), .p = p}));
}

void attention_probs(Launches& to, const RowPlaces& rows, const plan::Attention& op, uint32_t n_tokens,
                     uint32_t n_positions, View q, const CacheView& cache, View sinks, View probs) {
  sig::AttentionParams p = attention_params(op, 1, cache.capacity);
  p.n_rows = n_tokens;
  p.n_positions = n_positions;
  const Grid grid{op.n_heads, n_tokens, 1};
  const auto watch = [&]<class T>(auto kernel) {
    to.push_back(launch(kernel, grid,
                        {.slots = of<sig::uint>(rows.slots),
                         .positions = of<sig::uint>(rows.positions),
                         .q = of<float>(q),
                         .keys = of<T>(cache.keys),
                         .sinks = of<float>(op.sinks ? sinks : q),
                         .probs = of<float>(probs),
                         .p = p}));
  };
  if (cache.type == KvType::f16) {
    watch.operator()<sig::half>(kernel::attention_probs_f16);
  } else {
    watch.operator()<float>(kernel::attention_probs_f32);
  }
}

void gated(Launches& to, View gate, View up, uint32_t n, plan::Activation activation, View y) {
  to.push_back(launch(kernel::gated, {ceil_div(n, PLUMB_FLAT_THREADS)},
                      {.gate = of<float>(gate),
                       .up = of<float>(up),
                       .y = of<float>(y),
                       .p = {.n = n, .activation = static_cast<uint32_t>(activation)}}));
}

void add(Launches& to, View a, View b, uint32_t n, View y) {
  to.push_back(launch(kernel::add, {ceil_div(n, PLUMB_FLAT_THREADS)},
                      {.a = of<float>(a), .b = of<float>(b), .y = of<float>(y), .p = {.n = n}}));
}

void soft_cap(Launches& to, View x, uint32_t n, float cap, View y) {
  to.push_back(launch(kernel::soft_cap, {ceil_div(n, PLUMB_FLAT_THREADS)},
                      {.x = of<float>(x), .y = of<float>(y), .p = {.n = n, .cap = cap}}));
}

void top_k(Launches& to, View x, uint32_t n, uint32_t n_rows, uint32_t k, View indices) {
  to.push_back(launch(kernel::top_k, {n_rows}, {.x = of<float>(x), .indices = of<float>(indices), .p = {.n = n, .k = k}}));
}

void expert_weights(Launches& to, View logits, uint32_t n, View experts, uint32_t k, uint32_t n_rows, plan::Gating gating,
                    float scale, View y) {
  to.push_back(launch(kernel::expert_weights, {n_rows},
                      {.logits = of<float>(logits),
                       .experts = of<float>(experts),
                       .y = of<float>(y),
                       .p = {.n = n, .k = k, .gating = static_cast<uint32_t>(gating), .scale = scale}}));
}

void expert_sum(Launches& to, View x, View weights, uint32_t width, uint32_t k, uint32_t n_rows, View y) {
  to.push_back(
      launch(kernel::expert_sum, {ceil_div(width, PLUMB_FLAT_THREADS), n_rows},
             {.x = of<float>(x), .weights = of<float>(weights), .y = of<float>(y), .p = {.width = width, .k = k}}));
}

namespace {

std::uint32_t splits(const StepContext& step, const plan::Attention& op) {
  return attention_splits(op.n_heads, step.n_tokens(), step.batch().longest);
}
View vector(const StepContext& step, const std::optional<plan::WeightId>& id) {
  return id ? step.weight(*id).view : View{};
}

// The launches of one op.
struct Emission {
  const StepContext& step;
  std::size_t op;
  Launches& to;

  [[nodiscard]] View at(ValueId id) const { return step.value(id); }
  [[nodiscard]] uint32_t rows(ValueId id) const { return step.n_rows(id); }
  [[nodiscard]] uint32_t width(ValueId id) const { return step.width(id); }
  [[nodiscard]] uint32_t n_elements(ValueId id) const { return rows(id) * width(id); }

  void operator()(const plan::Embed& o) const {
    embed(to, step.weight(o.table), step.tokens(), step.n_tokens(), o.scale, at(o.out));
  }
  void operator()(const plan::Norm& o) const {
    const uint32_t group = step.weight(o.weight).n_in;
    rms_norm(to, at(o.x), step.weight(o.weight).view, group, n_elements(o.x) / group, o.eps, at(o.out));
  }
  void operator()(const plan::Linear& o) const {
    View x = at(o.x);
    const std::uint64_t skipped = std::uint64_t{rows(o.x) - rows(o.out)} * width(o.x) * sizeof(float);
    x.offset += skipped;
    x.bytes -= skipped;
    linear(to, step.weight(o.weight), vector(step, o.bias), x, rows(o.out), at(o.out));
  }
  void operator()(const plan::Rope& o) const {
    rope(to, step.row_places().positions, step.turns(op), o, width(o.x), step.n_tokens(), at(o.x), at(o.out));
  }
  void operator()(const plan::KvWrite& o) const {
    kv_write(to, step.row_places(), at(o.k), at(o.v), width(o.k), step.plan().cache.head_dim, step.n_tokens(),
             step.cache(o.layer));
  }
  void operator()(const plan::Attention& o) const {
    const uint32_t n = splits(step, o);
    const View partial{step.partials().memory, 0, attention_partial_bytes(o, step.n_tokens(), n)};
    attention(to, step.row_places(), o, step.n_tokens(), n, at(o.q), step.cache(o.layer), vector(step, o.sinks), partial,
              at(o.out));
  }
  void operator()(const plan::Activate& o) const {
    gated(to, at(o.gate), at(o.up), n_elements(o.out), o.activation, at(o.out));
  }
  void operator()(const plan::Add& o) const { add(to, at(o.a), at(o.b), n_elements(o.out), at(o.out)); }
  void operator()(const plan::SoftCap& o) const { soft_cap(to, at(o.x), n_elements(o.out), o.cap, at(o.out)); }
  void operator()(const plan::TopK& o) const { top_k(to, at(o.x), width(o.x), rows(o.x), o.k, at(o.out)); }
  void operator()(const plan::ExpertWeights& o) const {
    expert_weights(to, at(o.logits), width(o.logits), at(o.experts), width(o.experts), rows(o.out), o.gating, o.scale,
                   at(o.out));
  }
  void operator()(const plan::ExpertLinear& o) const {
    const WeightView& w = step.weight(o.weight);
    const uint32_t k = width(o.experts);
    expert_linear(to, w, vector(step, o.bias), at(o.experts), at(o.x), width(o.x) == w.n_in ? k : 1, rows(o.out) * k,
                  at(o.out));
  }
  void operator()(const plan::ExpertSum& o) const {
    expert_sum(to, at(o.x), at(o.weights), width(o.out), width(o.weights), rows(o.out), at(o.out));
  }
};

// Calls visit(op) for each attention of the plan.
template <class Visit>
void for_attentions(const plan::Plan& plan, const Visit& visit) {
  for (const plan::Op& op : plan.ops) {
    if (const auto* attention = std::get_if<plan::Attention>(&op)) visit(*attention);
  }
}

}  // namespace

void emit(const StepContext& step, std::size_t op, Launches& to) {
  std::visit(Emission{step, op, to}, step.plan().ops[op]);
}

Result<void> check_shapes(const plan::Plan& plan) {
  uint32_t longest = 0;
  for_attentions(plan, [&](const plan::Attention& op) { longest = std::max(longest, op.head_dim); });
  if (longest <= max_head_dim) return {};
  return fail("heads of {} elements are longer than the {} that GPU kernels take; use --backend cpu", longest,
              max_head_dim);
}

uint32_t most_splits(const StepContext& step) {
  uint32_t most = 1;
  for_attentions(step.plan(), [&](const plan::Attention& op) { most = std::max(most, splits(step, op)); });
  return most;
}

std::uint64_t partial_bytes(const StepContext& step) {
  std::uint64_t most = 0;
  for_attentions(step.plan(), [&](const plan::Attention& op) {
    most = std::max(most, attention_partial_bytes(op, step.n_tokens(), splits(step, op)));
  });
  return most;
}

void emit_probs(const StepContext& step, const plan::Attention& op, View probs, Launches& to) {
  attention_probs(to, step.row_places(), op, step.n_tokens(), step.batch().longest, step.value(op.q), step.cache(op.layer),
                  vector(step, op.sinks), probs);
}

}  // namespace plumb::backends::gpu
