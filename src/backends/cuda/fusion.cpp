#include "backends/cuda/fusion.h"

#include <algorithm>

#include "backends/cuda/kernels.h"
#include "backends/gpu/operations.h"

namespace plumb::backends::cuda {

namespace {

using gpu::StepContext;
using gpu::WeightView;
using plan::ValueId;

// The shortest run that counts as a prompt. Shorter ones run on multiply_few or on the shared kernels.
constexpr std::uint32_t least_prompt = gpu::most_vector_rows + 1;

template <class Op>
const Op* op_at(const StepContext& step, std::size_t i) {
  return i < step.plan().ops.size() ? std::get_if<Op>(&step.plan().ops[i]) : nullptr;
}

// Whether the fused kernels have this activation: a function of the gate alone, times up.
bool is_plain(const plan::Activate& op) {
  return op.activation <= plan::Activation::identity && op.limit == 0 && op.alpha == 1 && op.up_offset == 0;
}

bool is_rounded(const StepContext& step, const plan::Linear& linear) {
  return takes_rounded(static_cast<unsigned>(step.weight(linear.weight).format));
}

// The last Linear before number `op` for which `is_such` is true.
template <class Predicate>
const plan::Linear* linear_before(const StepContext& step, std::size_t op, Predicate is_such) {
  while (op-- > 0) {
    if (const auto* linear = op_at<plan::Linear>(step, op); linear != nullptr && is_such(*linear)) return linear;
  }
  return nullptr;
}

bool takes_attention(const StepContext& step, const plan::Attention& op) {
  const std::vector<Run>& runs = step.batch().runs;
  const bool is_usual = op.soft_cap <= 0 && !op.sinks && op.causal && op.alibi_max_bias <= 0 &&
                        (op.window == 0 || op.window_kind == plan::WindowKind::sliding);
  return step.cache(op.layer).type == KvType::f16 && is_usual && std::all_of(runs.begin(), runs.end(), [&](const Run& run) {
           return is_prompt(run) ? prompt_attention_takes(op.head_dim) : decode_attention_takes(op.head_dim);
         });
}

// Groups Linears into launches: those with weights of one format share a launch.
std::vector<std::vector<const plan::Linear*>> by_format(const StepContext& step,
                                                        const std::vector<const plan::Linear*>& linears) {
  std::vector<std::vector<const plan::Linear*>> launches;
  for (const plan::Linear* linear : linears) {
    const auto found = std::find_if(launches.begin(), launches.end(), [&](const auto& launch) {
      return launch.size() < max_products && step.weight(launch[0]->weight).format == step.weight(linear->weight).format;
    });
    if (found == launches.end()) {
      launches.push_back({linear});
    } else {
      found->push_back(linear);
    }
  }
  return launches;
}

template <class Op>
Fusion fuse_op(const FusionInput&, std::size_t, const Op&) {
  return {};
}

Fusion fuse_op(const FusionInput& input, std::size_t op, const plan::Norm& norm) {
  const StepContext& step = input.step;
  const std::uint64_t width = step.plan().value(norm.x).width;
  const std::uint32_t n_rows = step.n_rows(norm.out);
  if (norm.kind != plan::NormKind::rms || norm.bias || !norm.weight) return {};
  if (n_rows > most_few_rows || norm.group != width || width % 32 != 0) return {};
  std::vector<const plan::Linear*> linears;
  for (std::size_t i = op + 1;; ++i) {
    const auto* linear = op_at<plan::Linear>(step, i);
    if (linear == nullptr || linear->x != norm.out) break;
    linears.push_back(linear);
  }
  if (linears.empty()) return {};
  FusedLinears fused;
  fused.norm = &norm;
  if (n_rows > 1) {
    fused.input = FusedLinears::Input::few;
    const bool takes_all_rows = std::all_of(linears.begin(), linears.end(), [&](const plan::Linear* linear) {
      return by_few_rows(step, *linear) && step.n_rows(linear->out) == n_rows;
    });
    if (!takes_all_rows) return {};
  } else {
    const bool on_the_way =
        input.readers[norm.out.index] == linears.size() &&
        std::none_of(linears.begin(), linears.end(), [&](const auto* linear) { return is_rounded(step, *linear); });
    fused.input = on_the_way ? FusedLinears::Input::floats : FusedLinears::Input::rounded;
  }
  const auto* activate = op_at<plan::Activate>(step, op + 3);
  if (linears.size() == 2 && activate != nullptr && activate->up && is_plain(*activate) &&
      activate->gate == linears[0]->out && activate->up == linears[1]->out &&
      step.weight(linears[0]->weight).format == step.weight(linears[1]->weight).format &&
      input.readers[activate->gate.index] == 1 && input.readers[activate->up->index] == 1) {
    fused.activate = activate;
    fused.launches = {linears};
    return {4, fused};
  }
  fused.launches = by_format(step, linears);
  return {1 + linears.size(), fused};
}

Fusion fuse_op(const FusionInput& input, std::size_t op, const plan::Linear& linear) {
  const StepContext& step = input.step;
  const std::uint32_t n_rows = step.n_rows(linear.out);
  FusedLinears fused;
  fused.launches = {{&linear}};
  if (by_halves(input, linear)) {
    const auto* last = linear_before(step, op, [&](const plan::Linear& l) { return by_halves(input, l); });
    fused.input = FusedLinears::Input::halves;
    fused.is_there = last != nullptr && last->x == linear.x && step.n_rows(last->out) == n_rows;
    return {1, fused};
  }
  if (by_few_rows(step, linear)) {
    const auto* last = linear_before(step, op, [&](const plan::Linear& l) { return by_few_rows(step, l); });
    fused.input = FusedLinears::Input::few;
    const bool all_rows = n_rows == step.n_rows(linear.x);
    fused.is_there = last != nullptr && last->x == linear.x && all_rows && step.n_rows(last->out) == n_rows;
  } else if (n_rows != 1 || step.weight(linear.weight).n_in % 32 != 0) {
    return {};
  } else if (is_rounded(step, linear)) {
    const auto* attention = op > 0 ? op_at<plan::Attention>(step, op - 1) : nullptr;
    fused.input = FusedLinears::Input::rounded;
    fused.is_there =
        attention != nullptr && attention->out == linear.x && step.n_tokens() == 1 && takes_attention(step, *attention);
  }
  const auto* sum = op_at<plan::Add>(step, op + 1);
  if (sum != nullptr && (sum->a == linear.out) != (sum->b == linear.out) && input.readers[linear.out.index] == 1) {
    fused.residual = sum;
  }
  return {fused.residual != nullptr ? 2u : 1u, fused};
}

Fusion fuse_op(const FusionInput& input, std::size_t op, const plan::Rope& q) {
  const StepContext& step = input.step;
  const auto* k = op_at<plan::Rope>(step, op + 1);
  const auto* write = op_at<plan::KvWrite>(step, op + 2);
  if (k == nullptr || write == nullptr || write->k != k->out || input.readers[k->out.index] != 1 ||
      k->head_dim != q.head_dim || k->n_rot != q.n_rot || k->pairing != q.pairing || q.head_dim % 2 != 0 ||
      q.head_dim != step.plan().cache.layers[write->layer].head_dim) {
    return {};
  }
  return {3, FusedRotation{&q, k, write}};
}

Fusion fuse_op(const FusionInput& input, std::size_t, const plan::Attention& op) {
  if (!takes_attention(input.step, op)) return {};
  FusedAttention fused{.op = &op, .rounds = input.step.n_tokens() == 1};
  for (const Run& run : input.step.batch().runs) {
    if (is_prompt(run) || fused.parts.empty() || fused.parts.back().is_prompt) {
      fused.parts.push_back({run, is_prompt(run)});
    } else {
      fused.parts.back().rows.end = run.end;
    }
  }
  return {1, fused};
}

}  // namespace

bool is_prompt(const Run& run) { return run.n() >= least_prompt; }

bool by_few_rows(const StepContext& step, const plan::Linear& linear) {
  const WeightView& w = step.weight(linear.weight);
  const std::uint32_t n_rows = step.n_rows(linear.out);
  return n_rows > 1 && n_rows <= most_few_rows && w.n_in % 32 == 0 && takes_few_rows(static_cast<unsigned>(w.format));
}

// Longer prompts run in half precision. F32 weights do not, since their users want float; nor do odd shapes.
bool by_halves(const FusionInput& input, const plan::Linear& linear) {
  const WeightView& w = input.step.weight(linear.weight);
  return input.has_cublas && !by_few_rows(input.step, linear) && input.step.n_rows(linear.out) >= least_prompt &&
         w.format != quants::Format::f32 && w.n_in % 32 == 0 && w.n_out % 8 == 0;
}

Fusion fuse(const FusionInput& input, std::size_t op) {
  return std::visit([&](const auto& o) { return fuse_op(input, op, o); }, input.step.plan().ops[op]);
}

}  // namespace plumb::backends::cuda
