#include "backends/gpu/operations.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <type_traits>
#include <variant>

namespace plumb::backends::gpu {

namespace {

using plan::ValueId;
using std::uint32_t;

constexpr uint32_t ceil_div(uint32_t n, uint32_t d) { return (n + d - 1) / d; }
// LINEAR_TILE_OUT and LINEAR_TILE_ROWS of kernels/shared.h.
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

uint32_t splits(const StepContext& step, const plan::Attention& op) {
  return attention_splits(op.n_heads, step.n_tokens(), step.batch().longest);
}

// The launches of one op.
struct Emission {
  const StepContext& step;
  std::size_t op;
  Launches& to;

  template <class Signature>
  void add(Kernel<Signature> kernel, Grid grid, const std::type_identity_t<Signature>& with) const {
    to.push_back(launch(kernel, grid, with));
  }
  // Calls add_for<T>(kernel) for the type T of the cache's elements.
  template <class Half, class Float, class Add>
  void by_type(const CacheView& cache, Kernel<Half> half, Kernel<Float> single, const Add& add_for) const {
    if (cache.type == KvType::f16) {
      add_for.template operator()<sig::half>(half);
    } else {
      add_for.template operator()<float>(single);
    }
  }

  [[nodiscard]] uint32_t rows(ValueId id) const { return step.n_rows(id); }
  [[nodiscard]] uint32_t width(ValueId id) const { return step.width(id); }
  [[nodiscard]] uint32_t n_elements(ValueId id) const { return rows(id) * width(id); }
  [[nodiscard]] ViewOf<float> at(ValueId id) const { return ViewOf<float>(step.value(id)); }
  [[nodiscard]] ViewOf<float> vector(plan::VectorId id) const { return ViewOf<float>(step.weight(id).view); }
  // Kernels do not read the argument of a vector that an op lacks; it still has to be some memory.
  [[nodiscard]] ViewOf<float> vector_or(const std::optional<plan::VectorId>& id, ViewOf<float> other) const {
    return id ? vector(*id) : other;
  }
  [[nodiscard]] uint32_t length(const std::optional<plan::VectorId>& id) const { return id ? step.weight(*id).n_in : 0; }
  [[nodiscard]] ViewOf<sig::uint> slots() const { return ViewOf<sig::uint>(step.row_places().slots); }
  [[nodiscard]] ViewOf<sig::uint> positions() const { return ViewOf<sig::uint>(step.row_places().positions); }
  [[nodiscard]] ViewOf<sig::uint> lasts(const plan::Attention& o) const {
    return o.causal ? positions() : ViewOf<sig::uint>(step.row_places().lasts);
  }
  static Grid flat(uint32_t n, uint32_t n_rows = 1) { return {ceil_div(n, PLUMB_FLAT_THREADS), n_rows, 1}; }

  void operator()(const plan::Embed& o) const {
    const WeightView& table = step.weight(o.table);
    add(kernels_for(table.format).embed, {step.n_tokens()},
        {.rows = ViewOf<int>(o.by != plan::EmbedBy::position ? step.tokens() : step.row_places().positions),
         .table = ViewOf<sig::uchar>(table.view),
         .y = at(o.out),
         // With 0 bytes a row, every token takes the first.
         .p = {.width = table.n_in, .row_bytes = o.by == plan::EmbedBy::segment ? 0 : row_bytes(table), .scale = o.scale}});
  }

  void operator()(const plan::Norm& o) const {
    add(kernel::normalize, {n_elements(o.x) / o.group},
        {.x = at(o.x),
         .weight = vector_or(o.weight, at(o.x)),
         .bias = vector_or(o.bias, at(o.x)),
         .y = at(o.out),
         .p = {.group = o.group,
               .eps = o.eps,
               .is_layer = o.kind == plan::NormKind::layer ? 1u : 0u,
               .n_weights = length(o.weight),
               .n_biases = length(o.bias)}});
  }

  void operator()(const plan::Linear& o) const {
    const WeightView& w = step.weight(o.weight);
    const uint32_t n_rows = rows(o.out);
    ViewOf<float> x = at(o.x);
    const std::uint64_t skipped = std::uint64_t{rows(o.x) - n_rows} * width(o.x) * sizeof(float);
    x.view.offset += skipped;
    x.view.bytes -= skipped;
    if (n_rows <= most_vector_rows) {
      multiply_vectors(w, o.bias, x, x, 0, 1, n_rows, o.out);
    } else {
      add(kernels_for(w.format).linear_mat, {ceil_div(w.n_out, tile_outputs), ceil_div(n_rows, tile_rows)},
          {.w = ViewOf<sig::uchar>(w.view),
           .x = x,
           .bias = vector_or(o.bias, x),
           .y = at(o.out),
           .p = linear_params(w, n_rows, o.bias.has_value(), 0, 1)});
    }
  }

  void operator()(const plan::ExpertLinear& o) const {
    const WeightView& w = step.weight(o.weight);
    const uint32_t k = width(o.experts);
    multiply_vectors(w, o.bias, at(o.x), at(o.experts), w.n_experts, width(o.x) == w.n_in ? k : 1, rows(o.out) * k, o.out);
  }

  static sig::LinearParams linear_params(const WeightView& w, uint32_t n_rows, bool has_bias, uint32_t n_experts,
                                         uint32_t rows_a_x) {
    return {.n_in = w.n_in,
            .n_out = w.n_out,
            .row_bytes = row_bytes(w),
            .n_rows = n_rows,
            .has_bias = has_bias ? 1u : 0u,
            .n_experts = n_experts,
            .rows_a_x = rows_a_x};
  }
  // y [n_rows, n_out]: row r is row r / rows_a_x of x times the weight, or that of expert experts[r] of n_experts.
  void multiply_vectors(const WeightView& w, const std::optional<plan::VectorId>& bias, ViewOf<float> x,
                        ViewOf<float> experts, uint32_t n_experts, uint32_t rows_a_x, uint32_t n_rows, ValueId y) const {
    constexpr uint32_t outputs = PLUMB_LINEAR_VEC_THREADS / 32;
    add(kernels_for(w.format).linear_vec, {ceil_div(w.n_out, outputs), n_rows},
        {.w = ViewOf<sig::uchar>(w.view),
         .x = x,
         .bias = vector_or(bias, x),
         .experts = experts,
         .y = at(y),
         .p = linear_params(w, n_rows, bias.has_value(), n_experts, rows_a_x)});
  }

  void operator()(const plan::Rope& o) const {
    add(kernel::rope, flat(width(o.x) / o.head_dim * ceil_div(o.head_dim, 2), step.n_tokens()),
        {.positions = positions(),
         .turns = ViewOf<sig::float4>(step.turns(op)),
         .x = at(o.x),
         .y = at(o.out),
         .p = {.width = width(o.x),
               .head_dim = o.head_dim,
               .n_rot = o.n_rot,
               .halves = o.pairing == plan::RopePairing::halves ? 1u : 0u}});
  }

  void operator()(const plan::KvWrite& o) const {
    const CacheView cache = step.cache(o.layer);
    by_type(cache, kernel::kv_write_f16, kernel::kv_write_f32, [&]<class T>(auto kernel) {
      add(kernel, flat(width(o.k), step.n_tokens()),
          {.slots = slots(),
           .positions = positions(),
           .k = at(o.k),
           .v = at(o.v),
           .keys = ViewOf<T>(cache.keys),
           .values = ViewOf<T>(cache.values),
           .p = {.width = width(o.k), .head_dim = step.plan().cache.layers[o.layer].head_dim, .capacity = cache.capacity}});
    });
  }

  void operator()(const plan::Attention& o) const {
    const CacheView cache = step.cache(o.layer);
    const uint32_t n_splits = splits(step, o);
    const ViewOf<float> partial(View{step.partials().memory, 0, attention_partial_bytes(o, step.n_tokens(), n_splits)});
    const sig::AttentionParams p = attention_params(o, n_splits);
    by_type(cache, kernel::attention_f16, kernel::attention_f32, [&]<class T>(auto kernel) {
      add(kernel, {o.n_heads, step.n_tokens(), n_splits},
          {.slots = slots(),
           .positions = positions(),
           .lasts = lasts(o),
           .q = at(o.q),
           .keys = ViewOf<T>(cache.keys),
           .values = ViewOf<T>(cache.values),
           .partial = partial,
           .p = p});
    });
    add(kernel::attention_merge, {o.n_heads, step.n_tokens(), 1},
        {.partial = partial, .sinks = vector_or(o.sinks, partial), .y = at(o.out), .p = p});
  }

  void show_probs(const plan::Attention& o, View probs) const {
    const CacheView cache = step.cache(o.layer);
    sig::AttentionParams p = attention_params(o, 1);
    p.n_rows = step.n_tokens();
    p.n_positions = step.batch().longest;
    by_type(cache, kernel::attention_probs_f16, kernel::attention_probs_f32, [&]<class T>(auto kernel) {
      add(kernel, {o.n_heads, step.n_tokens(), 1},
          {.slots = slots(),
           .positions = positions(),
           .lasts = lasts(o),
           .q = at(o.q),
           .keys = ViewOf<T>(cache.keys),
           .sinks = vector_or(o.sinks, at(o.q)),
           .probs = ViewOf<float>(probs),
           .p = p});
    });
  }

  [[nodiscard]] sig::AttentionParams attention_params(const plan::Attention& o, uint32_t n_splits) const {
    constexpr uint32_t any = std::numeric_limits<uint32_t>::max();
    const bool slides = o.window > 0 && o.window_kind == plan::WindowKind::sliding;
    return {.n_heads = o.n_heads,
            .n_kv_heads = o.n_kv_heads,
            .head_dim = o.head_dim,
            .capacity = step.cache(o.layer).capacity,
            .before = !slides    ? any
                      : o.causal ? o.window - 1
                                 : o.window / 2,
            .after = slides && !o.causal ? o.window / 2 : any,
            .chunk = slides ? 0 : o.window,
            .n_splits = n_splits,
            .scale = o.scale,
            .soft_cap = o.soft_cap,
            .has_sinks = o.sinks ? 1u : 0u,
            .alibi_max_bias = o.alibi_max_bias,
            .alibi_heads = std::bit_floor(o.n_heads)};
  }

  void operator()(const plan::Activate& o) const {
    const uint32_t n = n_elements(o.out);
    add(kernel::activated, flat(n),
        {.gate = at(o.gate),
         .up = at(o.up.value_or(o.gate)),
         .y = at(o.out),
         .p = {.n = n,
               .activation = static_cast<uint32_t>(o.activation),
               .has_up = o.up ? 1u : 0u,
               .a_gate = width(o.out) / width(o.gate),
               .limit = o.limit,
               .alpha = o.alpha,
               .up_offset = o.up_offset,
               .positive = o.xielu.positive,
               .negative = o.xielu.negative,
               .beta = o.xielu.beta,
               .eps = o.xielu.eps}});
  }

  void operator()(const plan::Add& o) const {
    const uint32_t n = n_elements(o.out);
    add(kernel::add, flat(n), {.a = at(o.a), .b = at(o.b), .y = at(o.out), .p = {.n = n}});
  }

  void operator()(const plan::Scale& o) const {
    const plan::Temperature temperature = o.temperature.value_or(plan::Temperature{});
    const uint32_t n = n_elements(o.out);
    add(kernel::scale, flat(n),
        {.positions = positions(),
         .x = at(o.x),
         .weight = vector_or(o.weight, at(o.x)),
         .y = at(o.out),
         .p = {.n = n,
               .width = width(o.out),
               .x_width = width(o.x),
               .first = o.first,
               .n_weights = length(o.weight),
               .factor = o.factor,
               .beta = temperature.beta,
               .length = temperature.length,
               .offset = temperature.offset}});
  }

  void operator()(const plan::SoftCap& o) const {
    const uint32_t n = n_elements(o.out);
    add(kernel::soft_cap, flat(n), {.x = at(o.x), .y = at(o.out), .p = {.n = n, .cap = o.cap}});
  }

  void operator()(const plan::TopK& o) const {
    add(kernel::top_k, {rows(o.x)},
        {.x = at(o.x),
         .bias = vector_or(o.bias, at(o.x)),
         .indices = at(o.out),
         .p = {.n = width(o.x),
               .k = o.k,
               // Without a bias and groups, a score changes no order.
               .score = o.bias || o.n_groups > 1 ? static_cast<uint32_t>(o.score) : 0u,
               .has_bias = o.bias ? 1u : 0u,
               .n_groups = o.n_groups,
               .n_groups_used = o.n_groups_used}});
  }

  void operator()(const plan::ExpertWeights& o) const {
    add(kernel::expert_weights, {rows(o.out)},
        {.logits = at(o.logits),
         .experts = at(o.experts),
         .y = at(o.out),
         .p = {.n = width(o.logits), .k = width(o.experts), .gating = static_cast<uint32_t>(o.gating), .scale = o.scale}});
  }

  void operator()(const plan::ExpertSum& o) const {
    add(kernel::expert_sum, flat(width(o.out), rows(o.out)),
        {.x = at(o.x), .weights = at(o.weights), .y = at(o.out), .p = {.width = width(o.out), .k = width(o.weights)}});
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

void emit_probs(const StepContext& step, const plan::Attention& op, View probs, Launches& to) {
  Emission{step, 0, to}.show_probs(op, probs);
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

}  // namespace plumb::backends::gpu
