#include "backends/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <span>
#include <utility>

#include "backends/batch.h"
#include "base/half.h"
#include "quants/format.h"

namespace plumb::backends {

namespace {

using plan::Plan;

// The weights of row `row` of a tensor as float.
std::vector<float> decode_row(const gguf::Tensor& tensor, std::uint64_t row) {
  const quants::FormatInfo& format = quants::info(tensor.format);
  const std::uint64_t n = tensor.dims[0];
  std::vector<float> values(n);
  format.decode(tensor.data.data() + row * format.row_bytes(n), values.data(), n / format.block_size);
  return values;
}

// Indices of the k largest, as plan::TopK says.
std::vector<std::uint32_t> largest_of(std::span<const float> x, std::uint32_t k) {
  std::vector<std::uint32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto rank = [&](std::uint32_t i) { return std::isnan(x[i]) ? -std::numeric_limits<float>::infinity() : x[i]; };
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return rank(a) > rank(b); });
  order.resize(k);
  return order;
}

// Rotary angles of one position. Pair i turns by cos/sin[i]; both carry the magnitude that YaRN asks for.
struct Rotation {
  std::vector<double> cosine, sine;
};

// YaRN's ramp (section 3.2 of https://arxiv.org/abs/2309.00071): 1 where a dimension turns often enough within the trained
// context to be extrapolated, 0 where it must be interpolated.
double yarn_extrapolation(const plan::Rope& rope, std::uint32_t pair) {
  const plan::Yarn& yarn = *rope.yarn;
  // The pair index at which a full context makes `turns` rotations.
  const auto index_of = [&](double turns) {
    return rope.n_rot * std::log(yarn.original_context / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(double{rope.theta}));
  };
  const double low = std::max(0.0, std::floor(index_of(yarn.beta_fast)));
  const double high = std::min(rope.n_rot - 1.0, std::ceil(index_of(yarn.beta_slow)));
  const double ramp = (pair - low) / std::max(0.001, high - low);
  return (1.0 - std::clamp(ramp, 0.0, 1.0)) * yarn.extrapolation_mix;
}

Rotation rotation_at(const plan::Rope& rope, const std::vector<float>& factors, std::uint32_t position) {
  Rotation rotation;
  for (std::uint32_t i = 0; i < rope.n_rot / 2; ++i) {
    double angle = position * std::pow(double{rope.theta}, -2.0 * i / rope.n_rot);
    if (!factors.empty()) angle /= factors[i];
    double turned = angle * rope.position_scale;
    double magnitude = 1.0;
    if (rope.yarn) {
      const double extrapolation = yarn_extrapolation(rope, i);
      turned = angle * rope.position_scale * (1.0 - extrapolation) + angle * extrapolation;
      magnitude = rope.yarn->attention_factor;
    }
    rotation.cosine.push_back(std::cos(turned) * magnitude);
    rotation.sine.push_back(std::sin(turned) * magnitude);
  }
  return rotation;
}

double activate(plan::Activation activation, double x) {
  switch (activation) {
    case plan::Activation::silu:
      return x / (1.0 + std::exp(-x));
    case plan::Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case plan::Activation::gelu_erf:
      return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case plan::Activation::relu:
      return x > 0 ? x : 0;
  }
  return 0;
}

class Cache final : public KvCache {
 public:
  Cache(const Plan* owner, std::uint64_t pool, std::uint32_t capacity, KvType type)
      : KvCache(pool, capacity),
        owner_(owner),
        type_(type),
        width_(std::uint64_t{owner->cache.n_kv_heads} * owner->cache.head_dim) {
    keys_.resize(owner->cache.n_layers);
    values_.resize(owner->cache.n_layers);
  }

  [[nodiscard]] const Plan* owner() const { return owner_; }
  void filled(std::uint32_t n) { extend(n); }

  void write(std::uint32_t layer, std::uint32_t position, const float* k, const float* v) {
    store(keys_[layer], position, k);
    store(values_[layer], position, v);
  }
  [[nodiscard]] const float* key(std::uint32_t layer, std::uint32_t position) const {
    return keys_[layer].data() + position * width_;
  }
  [[nodiscard]] const float* value(std::uint32_t layer, std::uint32_t position) const {
    return values_[layer].data() + position * width_;
  }

 private:
  void store(std::vector<float>& rows, std::uint32_t position, const float* row) const {
    if (rows.size() < (position + 1) * width_) rows.resize((position + 1) * width_);
    for (std::uint64_t i = 0; i < width_; ++i) {
      rows[position * width_ + i] = type_ == KvType::f16 ? f16_to_f32(f32_to_f16(row[i])) : row[i];
    }
  }

  const Plan* owner_;
  KvType type_;
  std::uint64_t width_;  // n_kv_heads * head_dim
  // [layer][position * width]; rounded to the cache's type, kept as float
  std::vector<std::vector<float>> keys_, values_;
};

class ReferenceExecutor final : public Executor {
 public:
  ReferenceExecutor(std::shared_ptr<const Plan> plan, Substitute substitute)
      : plan_(std::move(plan)), substitute_(std::move(substitute)), values_(plan_->values.size()) {}

  [[nodiscard]] const Plan& plan() const override { return *plan_; }

  [[nodiscard]] Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                         KvType type) override {
    ++n_pools_;
    std::vector<std::unique_ptr<KvCache>> caches(n);
    for (auto& cache : caches) cache = std::make_unique<Cache>(plan_.get(), n_pools_, capacity, type);
    return caches;
  }

  using Executor::run;
  Result<std::span<const float>> run(std::span<const Step> steps) override {
    caches_.clear();
    for (const Step& step : steps) {
      caches_.push_back(dynamic_cast<Cache*>(step.cache));
      if (caches_.back() == nullptr || caches_.back()->owner() != plan_.get()) {
        return fail("the step's KV cache belongs to another executor");
      }
    }
    PLUMB_TRY(batch_, make_batch(*plan_, steps, max_batch()));
    for (const plan::Op& op : plan_->ops) {
      std::visit([&](const auto& o) { execute(o); }, op);
      if (const auto out = plan::output(op)) show(*out);
    }
    for (std::size_t i = 0; i < steps.size(); ++i) caches_[i]->filled(static_cast<std::uint32_t>(steps[i].tokens.size()));
    return std::span<const float>(values_[plan_->logits.index]);
  }

 private:
  [[nodiscard]] std::uint32_t n_tokens() const { return batch_.n_rows(); }
  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const {
    return plan_->value(id).rows == plan::Rows::tokens ? n_tokens() : batch_.n_outputs;
  }
  [[nodiscard]] std::uint32_t position(std::uint64_t row) const { return batch_.rows[row].position; }
  [[nodiscard]] Cache& cache(std::uint64_t row) const { return *caches_[batch_.rows[row].sequence]; }
  [[nodiscard]] const float* in(plan::ValueId id) const { return values_[id.index].data(); }
  float* out(plan::ValueId id) {
    values_[id.index].assign(n_rows(id) * plan_->value(id).width, std::numeric_limits<float>::quiet_NaN());
    return values_[id.index].data();
  }
  void show(plan::ValueId id) {
    const plan::Value& value = plan_->value(id);
    if (substitute_) substitute_(value.name, n_rows(id), value.width, values_[id.index]);
    if (wants(value.name)) observer_(value.name, n_rows(id), value.width, values_[id.index]);
  }

  void execute(const plan::Embed& op) {
    const plan::Weight& table = plan_->weight(op.table);
    float* y = out(op.out);
    for (const Row& row : batch_.rows) {
      for (const float w : decode_row(table.tensor, static_cast<std::uint64_t>(row.token))) *y++ = w * op.scale;
    }
  }

  void execute(const plan::RmsNorm& op) {
    const std::vector<float> weight = decode_row(plan_->weight(op.weight).tensor, 0);
    const std::uint64_t group = weight.size();
    const std::uint64_t n = n_rows(op.x) * plan_->value(op.x).width;
    const float* x = in(op.x);
    float* y = out(op.out);
    for (std::uint64_t start = 0; start < n; start += group) {
      double sum = 0;
      for (std::uint64_t i = 0; i < group; ++i) sum += double{x[start + i]} * x[start + i];
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(group) + op.eps);
      for (std::uint64_t i = 0; i < group; ++i) y[start + i] = static_cast<float>(x[start + i] * scale * weight[i]);
    }
  }

  void execute(const plan::Linear& op) {
    const plan::Weight& weight = plan_->weight(op.weight);
    const std::uint64_t rows = n_rows(op.out);
    const std::uint64_t first_row = n_rows(op.x) - rows;
    const std::vector<float> bias =
        op.bias ? decode_row(plan_->weight(*op.bias).tensor, 0) : std::vector<float>(weight.out());
    const float* x = in(op.x) + first_row * weight.in();
    float* y = out(op.out);
    for (std::uint64_t j = 0; j < weight.out(); ++j) {
      const std::vector<float> w = decode_row(weight.tensor, j);
      for (std::uint64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (std::uint64_t i = 0; i < weight.in(); ++i) sum += double{w[i]} * x[r * weight.in() + i];
        y[r * weight.out() + j] = static_cast<float>(sum + bias[j]);
      }
    }
  }

  void execute(const plan::Rope& op) {
    const std::vector<float> factors = op.factors ? decode_row(plan_->weight(*op.factors).tensor, 0) : std::vector<float>();
    const std::uint64_t width = plan_->value(op.x).width;
    const float* x = in(op.x);
    float* y = out(op.out);
    std::copy(x, x + n_tokens() * width, y);
    for (std::uint32_t t = 0; t < n_tokens(); ++t) {
      const Rotation rotation = rotation_at(op, factors, position(t));
      for (std::uint64_t head = t * width; head < (t + 1) * width; head += op.head_dim) {
        for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
          const bool adjacent = op.pairing == plan::RopePairing::adjacent;
          const std::uint64_t a = head + (adjacent ? 2 * i : i);
          const std::uint64_t b = head + (adjacent ? 2 * i + 1 : i + op.n_rot / 2);
          y[a] = static_cast<float>(x[a] * rotation.cosine[i] - x[b] * rotation.sine[i]);
          y[b] = static_cast<float>(x[a] * rotation.sine[i] + x[b] * rotation.cosine[i]);
        }
      }
    }
  }

  void execute(const plan::KvWrite& op) {
    const std::uint64_t width = plan_->value(op.k).width;
    for (std::uint32_t t = 0; t < n_tokens(); ++t) {
      cache(t).write(op.layer, position(t), in(op.k) + t * width, in(op.v) + t * width);
    }
  }

  void execute(const plan::Attention& op) {
    const std::uint64_t n_positions = batch_.longest;
    const std::string probs_name = "blk." + std::to_string(op.layer) + ".attn_probs";
    std::vector<float> probs;
    if (wants(probs_name)) probs.assign(std::uint64_t{op.n_heads} * n_tokens() * n_positions, 0.0f);
    const std::vector<float> sinks = op.sinks ? decode_row(plan_->weight(*op.sinks).tensor, 0) : std::vector<float>();
    const float* q = in(op.q);
    float* y = out(op.out);
    for (std::uint64_t t = 0; t < n_tokens(); ++t) {
      const Cache& cache = this->cache(t);
      const std::uint64_t position = this->position(t);
      const std::uint64_t first = op.window > 0 && position + 1 > op.window ? position + 1 - op.window : 0;
      for (std::uint64_t h = 0; h < op.n_heads; ++h) {
        const std::uint64_t kv_offset = h * op.n_kv_heads / op.n_heads * op.head_dim;
        const float* query = q + (t * op.n_heads + h) * op.head_dim;
        std::vector<double> p(n_positions, 0.0);
        double largest = -std::numeric_limits<double>::infinity();
        for (std::uint64_t s = first; s <= position; ++s) {
          const float* key = cache.key(op.layer, static_cast<std::uint32_t>(s)) + kv_offset;
          double dot = 0;
          for (std::uint32_t i = 0; i < op.head_dim; ++i) dot += double{query[i]} * key[i];
          p[s] = dot * op.scale;
          if (op.soft_cap > 0) p[s] = op.soft_cap * std::tanh(p[s] / op.soft_cap);
          largest = std::max(largest, p[s]);
        }
        if (op.sinks) largest = std::max(largest, double{sinks[h]});
        double total = op.sinks ? std::exp(sinks[h] - largest) : 0;
        for (std::uint64_t s = first; s <= position; ++s) total += p[s] = std::exp(p[s] - largest);
        std::vector<double> context(op.head_dim, 0.0);
        for (std::uint64_t s = first; s <= position; ++s) {
          p[s] /= total;
          const float* value = cache.value(op.layer, static_cast<std::uint32_t>(s)) + kv_offset;
          for (std::uint32_t i = 0; i < op.head_dim; ++i) context[i] += p[s] * value[i];
          if (!probs.empty()) probs[(h * n_tokens() + t) * n_positions + s] = static_cast<float>(p[s]);
        }
        for (std::uint32_t i = 0; i < op.head_dim; ++i) {
          y[(t * op.n_heads + h) * op.head_dim + i] = static_cast<float>(context[i]);
        }
      }
    }
    if (!probs.empty()) observer_(probs_name, std::uint64_t{op.n_heads} * n_tokens(), n_positions, probs);
  }

  void execute(const plan::GatedActivation& op) {
    const float* gate = in(op.gate);
    const float* up = in(op.up);
    const std::uint64_t n = n_rows(op.gate) * plan_->value(op.gate).width;
    float* y = out(op.out);
    for (std::uint64_t i = 0; i < n; ++i) y[i] = static_cast<float>(activate(op.activation, gate[i]) * up[i]);
  }

  void execute(const plan::Add& op) {
    const float* a = in(op.a);
    const float* b = in(op.b);
    const std::uint64_t n = n_rows(op.a) * plan_->value(op.a).width;
    float* y = out(op.out);
    for (std::uint64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
  }

  void execute(const plan::SoftCap& op) {
    const float* x = in(op.x);
    const std::uint64_t n = n_rows(op.x) * plan_->value(op.x).width;
    float* y = out(op.out);
    for (std::uint64_t i = 0; i < n; ++i) y[i] = static_cast<float>(op.cap * std::tanh(double{x[i]} / op.cap));
  }

  void execute(const plan::TopK& op) {
    const std::uint64_t width = plan_->value(op.x).width;
    const float* x = in(op.x);
    float* y = out(op.out);
    for (std::uint64_t r = 0; r < n_rows(op.x); ++r) {
      for (const std::uint32_t i : largest_of({x + r * width, width}, op.k)) *y++ = static_cast<float>(i);
    }
  }

  void execute(const plan::ExpertWeights& op) {
    const std::uint64_t n = plan_->value(op.logits).width, k = plan_->value(op.experts).width;
    const float* logits = in(op.logits);
    const float* experts = in(op.experts);
    float* y = out(op.out);
    for (std::uint64_t r = 0; r < n_rows(op.experts); ++r, logits += n, experts += k, y += k) {
      const bool softmax = op.gating == plan::Gating::softmax || op.gating == plan::Gating::softmax_of_chosen;
      const double largest = *std::max_element(logits, logits + n);
      std::vector<double> gates;
      for (std::uint64_t e = 0; e < n; ++e) {
        gates.push_back(softmax ? std::exp(logits[e] - largest) : 1 / (1 + std::exp(-double{logits[e]})));
      }
      double total = op.gating == plan::Gating::softmax ? std::accumulate(gates.begin(), gates.end(), 0.0) : 0;
      for (std::uint64_t j = 0; op.gating != plan::Gating::softmax && j < k; ++j) total += gates[index(experts[j], n)];
      if (op.gating == plan::Gating::sigmoid) total = 1;
      for (std::uint64_t j = 0; j < k; ++j) y[j] = static_cast<float>(op.scale * gates[index(experts[j], n)] / total);
    }
  }

  void execute(const plan::ExpertLinear& op) {
    const plan::Weight& weight = plan_->weight(op.weight);
    const std::uint64_t k = plan_->value(op.experts).width;
    const std::uint64_t width = plan_->value(op.x).width;
    const bool in_parts = width != weight.in();
    const float* x = in(op.x);
    const float* experts = in(op.experts);
    float* y = out(op.out);
    for (std::uint64_t i = 0; i < n_rows(op.out) * k; ++i) {
      const float* part = x + i / k * width + (in_parts ? i % k * weight.in() : 0);
      const std::uint64_t expert = index(experts[i], weight.n_experts());
      const std::vector<float> bias =
          op.bias ? decode_row(plan_->weight(*op.bias).tensor, expert) : std::vector<float>(weight.out());
      for (std::uint64_t j = 0; j < weight.out(); ++j) {
        const std::vector<float> w = decode_row(weight.tensor, expert * weight.out() + j);
        double sum = bias[j];
        for (std::uint64_t c = 0; c < weight.in(); ++c) sum += double{w[c]} * part[c];
        *y++ = static_cast<float>(sum);
      }
    }
  }

  void execute(const plan::ExpertSum& op) {
    const std::uint64_t k = plan_->value(op.weights).width, width = plan_->value(op.out).width;
    const float* x = in(op.x);
    const float* weights = in(op.weights);
    float* y = out(op.out);
    for (std::uint64_t r = 0; r < n_rows(op.out); ++r, x += k * width, weights += k) {
      for (std::uint64_t i = 0; i < width; ++i) {
        double sum = 0;
        for (std::uint64_t j = 0; j < k; ++j) sum += double{weights[j]} * x[j * width + i];
        *y++ = static_cast<float>(sum);
      }
    }
  }

  // An expert of n as TopK gives it. Who substitutes values may give anything.
  static std::uint64_t index(float expert, std::uint64_t n) {
    return expert >= 0 && expert < static_cast<float>(n) ? static_cast<std::uint64_t>(expert) : 0;
  }

  std::shared_ptr<const Plan> plan_;
  Substitute substitute_;
  std::vector<std::vector<float>> values_;  // by ValueId, as the current step left them
  std::uint64_t n_pools_ = 0;
  std::vector<Cache*> caches_;  // by sequence
  Batch batch_;
};

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "reference"; }
  [[nodiscard]] std::string description() const override { return "plain loops in double precision, 1 thread"; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const Plan> plan, const LoadOptions&) override {
    return load_reference(std::move(plan), {});
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference() { return std::make_unique<ReferenceBackend>(); }

std::unique_ptr<Executor> load_reference(std::shared_ptr<const Plan> plan, Substitute substitute) {
  return std::make_unique<ReferenceExecutor>(std::move(plan), std::move(substitute));
}

}  // namespace plumb::backends
