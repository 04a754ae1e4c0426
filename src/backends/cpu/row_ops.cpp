#include "backends/cpu/stages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <variant>

namespace plumb::backends::cpu {

namespace {

// The rows that a thread takes through a stage at a time. Up to this many are not worth sharing among threads.
constexpr std::uint32_t row_chunk = 4;

// Runs one op for one row.
struct RowRun {
  const Workspace& w;
  std::uint32_t op;  // of the plan
  std::uint32_t row;

  [[nodiscard]] float* at(plan::ValueId id) const { return w.row(id, row); }

  void operator()(const plan::Embed& o) const {
    const gguf::Tensor& table = w.plan.weight(o.table).tensor;
    const quants::FormatInfo& format = quants::info(table.format);
    const std::uint64_t width = w.width(o.out);
    float* out = at(o.out);
    format.decode(table.data.data() + o.row(w.batch.rows[row].token, w.batch.position(row)) * format.row_bytes(width), out,
                  width / format.block_size);
    if (o.scale != 1.0f) std::for_each(out, out + width, [&](float& x) { x *= o.scale; });
  }

  void operator()(const plan::Norm& o) const {
    const std::uint64_t n = o.group;
    for (std::uint64_t start = 0; start < w.width(o.x); start += n) {
      const float* x = at(o.x) + start;
      float* out = at(o.out) + start;
      if (o.kind == plan::NormKind::layer) {
        const auto mean = static_cast<float>(std::accumulate(x, x + n, 0.0) / static_cast<double>(n));
        std::transform(x, x + n, out, [mean](float v) { return v - mean; });
        x = out;
      }
      w.kernels.rms_norm(x, o.weight ? of_group(*o.weight, start, n) : nullptr, o.eps, n, out);
      if (o.bias) w.kernels.add(out, of_group(*o.bias, start, n), n, out);
    }
  }
  // The part of a vector that belongs to the group of n values from `start` on.
  [[nodiscard]] const float* of_group(plan::VectorId id, std::uint64_t start, std::uint64_t n) const {
    const std::vector<float>& vector = w.vector(id);
    return vector.data() + (vector.size() == n ? 0 : start);
  }

  void operator()(const plan::Rope& o) const {
    const auto rotate = o.pairing == plan::RopePairing::adjacent ? w.kernels.rope_adjacent : w.kernels.rope_halves;
    const float* cos_sin = w.cos_sin(w.schedule.rotations.of_op[op], row);
    for (std::uint64_t head = 0; head < w.width(o.x); head += o.head_dim) {
      rotate(at(o.x) + head, cos_sin, o.n_rot, o.head_dim, at(o.out) + head);
    }
  }

  void operator()(const plan::KvWrite& o) const {
    const Cache& cache = w.cache(row);
    const std::uint32_t position = w.batch.position(row);
    const plan::LayerCache& kept = w.plan.cache.layers[o.layer];
    for (std::uint32_t head = 0; head < kept.n_kv_heads; ++head) {
      const std::size_t from = std::size_t{head} * kept.head_dim;
      store_head(cache, at(o.k) + from, {o.layer, head, false}, position);
      store_head(cache, at(o.v) + from, {o.layer, head, true}, position);
    }
  }
  void store_head(const Cache& cache, const float* from, const CachedHead& head, std::uint32_t position) const {
    std::byte* const to = cache.row(head, position);
    const std::size_t n = w.plan.cache.layers[head.layer].head_dim;
    std::size_t written = n * sizeof(float);
    if (cache.f16()) {
      w.kernels.to_f16(from, n, reinterpret_cast<std::uint16_t*>(to));
      written = n * sizeof(std::uint16_t);
    } else {
      std::memcpy(to, from, written);
    }
    std::memset(to + written, 0, cache.row_bytes(head.layer) - written);
  }

  // Without a second factor, the activation is multiplied by ones.
  void operator()(const plan::Activate& o) const {
    float* out = at(o.out);
    const std::uint64_t n = w.width(o.out), each = n / w.width(o.gate);
    if (!o.up) std::fill_n(out, n, 1.0f);
    // A gate that is the factor of several values is spread out first.
    const float* gate = at(o.gate);
    if (each > 1) {
      for (std::uint64_t i = 0; i < n; ++i) out[i] = gate[i / each];
      gate = out;
    }
    w.kernels.gated[static_cast<std::size_t>(o.activation)]({.gate = gate,
                                                             .up = o.up ? at(*o.up) : out,
                                                             .limit = o.limit > 0 ? o.limit : HUGE_VALF,
                                                             .alpha = o.alpha,
                                                             .up_offset = o.up ? o.up_offset : 0,
                                                             .positive = o.xielu.positive,
                                                             .negative = o.xielu.negative,
                                                             .beta = o.xielu.beta,
                                                             .eps = o.xielu.eps},
                                                            n, out);
  }

  void operator()(const plan::Add& o) const { w.kernels.add(at(o.a), at(o.b), w.width(o.out), at(o.out)); }

  void operator()(const plan::Scale& o) const {
    const float* x = at(o.x) + o.first;
    float* out = at(o.out);
    float factor = o.factor;
    if (o.temperature) factor *= static_cast<float>(o.temperature->at(w.batch.position(row)));
    const std::vector<float>* weight = o.weight ? &w.vector(*o.weight) : nullptr;
    const std::uint64_t n = w.width(o.out);
    if (weight != nullptr && weight->size() == 1) factor *= weight->front();
    for (std::uint64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
    if (weight == nullptr || weight->size() == 1) return;
    for (std::uint64_t i = 0; i < n; ++i) out[i] *= (*weight)[i];
  }

  void operator()(const plan::SoftCap& o) const {
    const float* x = at(o.x);
    float* out = at(o.out);
    for (std::uint64_t i = 0; i < w.width(o.x); ++i) out[i] = o.cap * std::tanh(x[i] / o.cap);
  }

  void operator()(const plan::TopK& o) const {
    const auto width = static_cast<std::uint32_t>(w.width(o.x));
    float* out = at(o.out);
    const std::vector<float> ranked = ranks(o, {at(o.x), width});
    const float* x = ranked.empty() ? at(o.x) : ranked.data();
    const auto rank = [&](std::uint32_t i) { return std::isnan(x[i]) ? -std::numeric_limits<float>::infinity() : x[i]; };
    const auto before = [&](std::uint32_t a, std::uint32_t b) {
      return rank(a) > rank(b) || (rank(a) == rank(b) && a < b);
    };
    // Each round finds the first, in the order of plan::TopK, of the values after the one found last.
    for (std::uint32_t j = 0; j < o.k; ++j) {
      std::uint32_t best = width;
      for (std::uint32_t i = 0; i < width; ++i) {
        if (j > 0 && !before(static_cast<std::uint32_t>(out[j - 1]), i)) continue;
        if (best == width || before(i, best)) best = i;
      }
      out[j] = static_cast<float>(best);
    }
  }

  // What TopK ranks; empty where that is x itself.
  [[nodiscard]] std::vector<float> ranks(const plan::TopK& o, std::span<const float> x) const {
    if (!o.bias && o.n_groups == 1) return {};
    std::vector<float> y(x.begin(), x.end());
    if (o.score == plan::Score::sigmoid) {
      for (float& v : y) v = 1 / (1 + std::exp(-v));
    } else if (o.score == plan::Score::softmax) {
      const float largest = *std::max_element(x.begin(), x.end());
      double total = 0;
      for (float& v : y) total += v = std::exp(v - largest);
      for (float& v : y) v /= static_cast<float>(total);
    }
    if (o.bias) w.kernels.add(y.data(), w.vector(*o.bias).data(), y.size(), y.data());
    drop_groups(o, y);
    return y;
  }
  // Gives the experts of all but the best groups the lowest rank.
  static void drop_groups(const plan::TopK& o, std::vector<float>& y) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    const std::size_t size = y.size() / o.n_groups;
    std::vector<float> of_group;
    for (std::size_t start = 0; start < y.size(); start += size) {
      float first = lowest, second = lowest;
      for (std::size_t i = start; i < start + size; ++i) {
        if (y[i] > first)
          second = std::exchange(first, y[i]);
        else if (y[i] > second)
          second = y[i];
      }
      of_group.push_back(size == 1 ? first : first + second);
    }
    for (std::uint32_t g = 0; g < o.n_groups; ++g) {
      const auto before = [&](std::uint32_t a) {
        return of_group[a] > of_group[g] || (of_group[a] == of_group[g] && a < g);
      };
      std::uint32_t n_before = 0;
      for (std::uint32_t a = 0; a < o.n_groups; ++a) n_before += before(a) ? 1 : 0;
      if (n_before >= o.n_groups_used) std::fill_n(y.begin() + static_cast<std::ptrdiff_t>(g * size), size, lowest);
    }
  }

  void operator()(const plan::ExpertWeights& o) const {
    const float* logits = at(o.logits);
    const float* experts = at(o.experts);
    float* out = at(o.out);
    const std::uint64_t n = w.width(o.logits), k = w.width(o.experts);
    const bool softmax = o.gating == plan::Gating::softmax || o.gating == plan::Gating::softmax_of_chosen;
    const float largest = *std::max_element(logits, logits + n);
    const auto gate = [&](float x) { return softmax ? std::exp(x - largest) : 1 / (1 + std::exp(-x)); };
    for (std::uint64_t j = 0; j < k; ++j) out[j] = gate(logits[static_cast<std::size_t>(experts[j])]);
    double total = 1;
    if (o.gating == plan::Gating::softmax) {
      total = std::accumulate(logits, logits + n, 0.0, [&](double sum, float x) { return sum + gate(x); });
    } else if (o.gating != plan::Gating::sigmoid) {
      total = std::accumulate(out, out + k, 0.0);
    }
    const auto factor = static_cast<float>(o.scale / total);
    for (std::uint64_t j = 0; j < k; ++j) out[j] *= factor;
  }

  void operator()(const plan::ExpertSum& o) const {
    const float* weights = at(o.weights);
    const float* x = at(o.x);
    float* out = at(o.out);
    const std::uint64_t k = w.width(o.weights), width = w.width(o.out);
    std::fill(out, out + width, 0.0f);
    for (std::uint64_t j = 0; j < k; ++j) {
      for (std::uint64_t i = 0; i < width; ++i) out[i] += weights[j] * x[j * width + i];
    }
  }

  // These have stages of their own.
  void operator()(const plan::Linear&) const {}
  void operator()(const plan::ExpertLinear&) const {}
  void operator()(const plan::Attention&) const {}
};

void run_row(const Workspace& w, const PlanOp& op, std::uint32_t row) {
  std::visit(RowRun{w, op.op, row}, w.plan.ops[op.op]);
}

void run_row(const Workspace& w, const Turn& op, std::uint32_t row) {
  const Angles& angles = w.schedule.rotations.angles[op.angles];
  const std::vector<double>& frequency = angles.is_long(w.cache(row).capacity()) ? angles.long_frequency : angles.frequency;
  const std::size_t pairs = frequency.size();
  float* out = w.cos_sin(op.angles, row);
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = w.batch.position(row) * frequency[i];
    out[i] = static_cast<float>(std::cos(angle) * double{angles.magnitude});
    out[pairs + i] = static_cast<float>(std::sin(angle) * double{angles.magnitude});
  }
}

void run_rows(const Workspace& w, const RowStage& stage, std::uint32_t begin, std::uint32_t end) {
  for (const RowOp& op : stage.ops) {
    for (std::uint32_t row = begin; row < end; ++row) {
      std::visit([&](const auto& o) { run_row(w, o, row); }, op);
    }
  }
}

}  // namespace

std::uint32_t begin_stage(const Workspace& w, const RowStage& stage) {
  const std::uint32_t n = w.batch.n_rows(stage.rows);
  if (n > row_chunk) return (n + row_chunk - 1) / row_chunk;
  run_rows(w, stage, 0, n);
  return 0;
}

void run_item(const Workspace& w, const RowStage& stage, std::uint32_t item, std::uint32_t) {
  run_rows(w, stage, item * row_chunk, std::min((item + 1) * row_chunk, w.batch.n_rows(stage.rows)));
}

}  // namespace plumb::backends::cpu
