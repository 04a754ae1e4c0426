#include "backends/reference/ops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <numbers>
#include <numeric>
#include <variant>

#include "base/in_parts.h"
#include "quants/format.h"

namespace plumb::backends::reference {

namespace {

// Sixteen sums side by side, which compilers turn into vector instructions. The order of the additions decides the last
// bits.
double dot(const float* w, const float* x, std::size_t n) {
  constexpr std::size_t n_sums = 16;
  double sums[n_sums] = {}, total = 0;
  std::size_t start = 0;
  for (; start + n_sums <= n; start += n_sums) {
    for (std::size_t i = 0; i < n_sums; ++i) sums[i] += double{w[start + i]} * x[start + i];
  }
  for (; start < n; ++start) total += double{w[start]} * x[start];
  return std::accumulate(std::begin(sums), std::end(sums), total);
}

// The indices of the k largest, in the order of plan::TopK.
std::vector<std::uint32_t> largest_of(std::span<const float> x, std::uint32_t k) {
  std::vector<std::uint32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto rank = [&](std::uint32_t i) { return std::isnan(x[i]) ? -std::numeric_limits<float>::infinity() : x[i]; };
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return rank(a) > rank(b); });
  order.resize(k);
  return order;
}

// What TopK ranks: scores with their bias, in which groups that are not among the best count as the smallest.
std::vector<float> ranked(const plan::TopK& op, std::span<const float> x, std::span<const float> bias) {
  std::vector<float> y(x.begin(), x.end());
  if (op.score == plan::Score::sigmoid) {
    for (float& v : y) v = static_cast<float>(1 / (1 + std::exp(-double{v})));
  } else if (op.score == plan::Score::softmax) {
    const double largest = *std::max_element(x.begin(), x.end());
    double total = 0;
    for (const float v : x) total += std::exp(v - largest);
    for (float& v : y) v = static_cast<float>(std::exp(v - largest) / total);
  }
  for (std::size_t i = 0; i < bias.size(); ++i) y[i] += bias[i];
  const std::size_t size = x.size() / op.n_groups;
  std::vector<float> of_group;
  for (std::size_t start = 0; start < y.size(); start += size) {
    const std::span<const float> group(y.data() + start, size);
    float sum = 0;
    for (const std::uint32_t i : largest_of(group, std::min<std::uint32_t>(2, static_cast<std::uint32_t>(size)))) {
      sum += group[i];
    }
    of_group.push_back(sum);
  }
  const std::vector<std::uint32_t> groups = largest_of(of_group, op.n_groups);
  for (std::uint32_t g = op.n_groups_used; g < op.n_groups; ++g) {
    std::fill_n(y.begin() + static_cast<std::ptrdiff_t>(groups[g] * size), size, -std::numeric_limits<float>::infinity());
  }
  return y;
}

// YaRN's ramp (section 3.2 of https://arxiv.org/abs/2309.00071): 1 for a dimension that turns often enough within the
// trained context to be extrapolated, 0 for one that must be interpolated, and a ramp in between.
double yarn_extrapolation(const plan::Rope& rope, std::uint32_t pair) {
  const plan::Yarn& yarn = *rope.yarn;
  // The pair index at which a full context makes `turns` rotations.
  const auto index_of = [&](double turns) {
    return rope.n_rot * std::log(yarn.original_context / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(double{rope.theta}));
  };
  const double first = index_of(yarn.beta_fast), last = index_of(yarn.beta_slow);
  const double low = std::max(0.0, yarn.whole_limits ? std::floor(first) : first);
  const double high = std::min(rope.n_rot - 1.0, yarn.whole_limits ? std::ceil(last) : last);
  const double ramp = (pair - low) / std::max(0.001, high - low);
  return (1.0 - std::clamp(ramp, 0.0, 1.0)) * yarn.extrapolation_mix;
}

// Computes one op's output, out_.
class Computation {
 public:
  Computation(const Scene& scene, const plan::Op& op) : scene_(scene), plan_(*scene.plan) {
    if (const auto id = plan::output(op)) {
      out_.assign(scene.n_rows(*id) * plan_.value(*id).width, std::numeric_limits<float>::quiet_NaN());
    }
    std::visit([&](const auto& o) { execute(o); }, op);
  }
  std::vector<float> take() { return std::move(out_); }

 private:
  [[nodiscard]] const float* in(plan::ValueId id) const { return scene_.value(id).data(); }
  [[nodiscard]] std::uint64_t n_rows(plan::ValueId id) const { return scene_.n_rows(id); }
  [[nodiscard]] std::vector<float> vector(plan::WeightId id) const { return scene_.vector(id); }

  void execute(const plan::Embed& op) {
    const std::uint64_t width = plan_.weight(op.table).in();
    const RowSource table = scene_.weight(op.table);
    float* y = out_.data();
    for (const Row& row : scene_.rows) {
      table(op.row(row.token, row.position), {y, width});
      for (std::uint64_t i = 0; i < width; ++i) *y++ *= op.scale;
    }
  }

  void execute(const plan::Norm& op) {
    const std::uint64_t group = op.group;
    const std::vector<float> weight = op.weight ? vector(*op.weight) : std::vector<float>(group, 1.0f);
    const std::vector<float> bias = op.bias ? vector(*op.bias) : std::vector<float>(group, -0.0f);
    const float* x = in(op.x);
    float* y = out_.data();
    for (std::uint64_t start = 0; start < out_.size(); start += group) {
      double mean = 0, sum = 0;
      for (std::uint64_t i = 0; op.kind == plan::NormKind::layer && i < group; ++i) {
        mean += x[start + i] / static_cast<double>(group);
      }
      for (std::uint64_t i = 0; i < group; ++i) sum += (x[start + i] - mean) * (x[start + i] - mean);
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(group) + op.eps);
      for (std::uint64_t i = 0; i < group; ++i) {
        const std::uint64_t at = start + i;
        y[at] = static_cast<float>((x[at] - mean) * scale * weight[at % weight.size()] + bias[at % bias.size()]);
      }
    }
  }

  void execute(const plan::Linear& op) {
    const plan::Weight& weight = plan_.weight(op.weight);
    const std::uint64_t n_in = weight.in(), n_out = weight.out(), rows = n_rows(op.out);
    const RowSource matrix = scene_.weight(op.weight);
    const std::vector<float> bias = op.bias ? vector(*op.bias) : std::vector<float>(n_out, 0.0f);
    const float* x = in(op.x) + (n_rows(op.x) - rows) * n_in;
    in_parts(n_out, scene_.n_threads, [&](std::uint64_t begin, std::uint64_t end) {
      std::vector<float> w(n_in);
      for (std::uint64_t j = begin; j < end; ++j) {
        matrix(j, w);
        for (std::uint64_t r = 0; r < rows; ++r) {
          out_[r * n_out + j] = static_cast<float>(dot(w.data(), x + r * n_in, n_in) + bias[j]);
        }
      }
    });
  }

  void execute(const plan::Rope& op) {
    const std::vector<float> factors = rotary_factors(op, scene_);
    const std::uint64_t width = plan_.value(op.x).width;
    const float* x = in(op.x);
    for (std::uint64_t t = 0; t < n_rows(op.x); ++t) {
      const Rotation rotation = rotation_at(op, factors, scene_.rows[t].position);
      for (std::uint64_t head = t * width; head < (t + 1) * width; head += op.head_dim) {
        rotate(op, rotation, x + head, out_.data() + head);
      }
    }
  }

  void execute(const plan::KvWrite&) {}

  void execute(const plan::Attention& op) { out_ = attend(op, attention_rule(op, scene_), scene_); }

  void execute(const plan::Activate& op) {
    const float* gate = in(op.gate);
    const float* up = op.up ? in(*op.up) : nullptr;
    const std::uint64_t each = plan_.value(op.out).width / plan_.value(op.gate).width;
    for (std::uint64_t i = 0; i < out_.size(); ++i) {
      double x = gate[i / each], factor = up != nullptr ? up[i] : 1;
      if (op.limit > 0) {
        x = std::min(x, double{op.limit});
        factor = std::clamp(factor, -double{op.limit}, double{op.limit});
      }
      if (up != nullptr) factor += op.up_offset;
      out_[i] = static_cast<float>(activate(op, x) * factor);
    }
  }

  void execute(const plan::Add& op) {
    const float* a = in(op.a);
    const float* b = in(op.b);
    for (std::uint64_t i = 0; i < out_.size(); ++i) out_[i] = a[i] + b[i];
  }

  void execute(const plan::Scale& op) {
    const std::uint64_t n = plan_.value(op.x).width, width = plan_.value(op.out).width;
    const std::vector<float> weight = op.weight ? vector(*op.weight) : std::vector<float>{1.0f};
    const float* x = in(op.x) + op.first;
    for (std::uint64_t r = 0; r < n_rows(op.out); ++r) {
      double factor = op.factor;
      if (op.temperature) factor *= op.temperature->at(scene_.rows[r].position);
      for (std::uint64_t i = 0; i < width; ++i) {
        out_[r * width + i] = static_cast<float>(x[r * n + i] * factor * weight[i % weight.size()]);
      }
    }
  }

  void execute(const plan::SoftCap& op) {
    const float* x = in(op.x);
    for (std::uint64_t i = 0; i < out_.size(); ++i) {
      out_[i] = static_cast<float>(op.cap * std::tanh(double{x[i]} / op.cap));
    }
  }

  void execute(const plan::TopK& op) {
    const std::uint64_t width = plan_.value(op.x).width;
    const std::vector<float> bias = op.bias ? vector(*op.bias) : std::vector<float>();
    const float* x = in(op.x);
    float* y = out_.data();
    for (std::uint64_t r = 0; r < n_rows(op.x); ++r) {
      for (const std::uint32_t i : largest_of(ranked(op, {x + r * width, width}, bias), op.k)) *y++ = static_cast<float>(i);
    }
  }

  void execute(const plan::ExpertWeights& op) {
    const std::uint64_t n = plan_.value(op.logits).width, k = plan_.value(op.experts).width;
    const float* logits = in(op.logits);
    const float* experts = in(op.experts);
    float* y = out_.data();
    for (std::uint64_t r = 0; r < n_rows(op.experts); ++r, logits += n, experts += k, y += k) {
      const bool softmax = op.gating == plan::Gating::softmax || op.gating == plan::Gating::softmax_of_chosen;
      const double largest = *std::max_element(logits, logits + n);
      std::vector<double> gates;
      for (std::uint64_t e = 0; e < n; ++e) {
        gates.push_back(softmax ? std::exp(logits[e] - largest) : 1 / (1 + std::exp(-double{logits[e]})));
      }
      double total = op.gating == plan::Gating::softmax ? std::accumulate(gates.begin(), gates.end(), 0.0) : 0;
      for (std::uint64_t j = 0; op.gating != plan::Gating::softmax && j < k; ++j) {
        total += gates[expert_index(experts[j], n)];
      }
      if (op.gating == plan::Gating::sigmoid) total = 1;
      for (std::uint64_t j = 0; j < k; ++j) {
        y[j] = static_cast<float>(op.scale * gates[expert_index(experts[j], n)] / total);
      }
    }
  }

  void execute(const plan::ExpertLinear& op) {
    const plan::Weight& weight = plan_.weight(op.weight);
    const std::uint64_t k = plan_.value(op.experts).width;
    const std::uint64_t width = plan_.value(op.x).width;
    const bool x_has_parts = width != weight.in();  // of the experts chosen, one each
    const RowSource matrix = scene_.weight(op.weight);
    const RowSource biases = op.bias ? scene_.weight(*op.bias) : RowSource();
    const float* x = in(op.x);
    const float* experts = in(op.experts);
    float* y = out_.data();
    std::vector<float> w(weight.in()), bias(weight.out(), 0.0f);
    for (std::uint64_t i = 0; i < n_rows(op.out) * k; ++i) {
      const float* part = x + i / k * width + (x_has_parts ? i % k * weight.in() : 0);
      const std::uint64_t expert = expert_index(experts[i], weight.n_experts());
      if (biases) biases(expert, bias);
      for (std::uint64_t j = 0; j < weight.out(); ++j) {
        matrix(expert * weight.out() + j, w);
        *y++ = static_cast<float>(bias[j] + dot(w.data(), part, w.size()));
      }
    }
  }

  void execute(const plan::ExpertSum& op) {
    const std::uint64_t k = plan_.value(op.weights).width, width = plan_.value(op.out).width;
    const float* x = in(op.x);
    const float* weights = in(op.weights);
    float* y = out_.data();
    for (std::uint64_t r = 0; r < n_rows(op.out); ++r, x += k * width, weights += k) {
      for (std::uint64_t i = 0; i < width; ++i) {
        double sum = 0;
        for (std::uint64_t j = 0; j < k; ++j) sum += double{weights[j]} * x[j * width + i];
        *y++ = static_cast<float>(sum);
      }
    }
  }

  const Scene& scene_;
  const plan::Plan& plan_;
  std::vector<float> out_;
};

}  // namespace

RowSource rows_of(const gguf::Tensor& tensor) {
  const quants::FormatInfo& format = quants::info(tensor.format);
  const std::uint64_t n = tensor.dims[0];
  return [decode = format.decode, bytes = tensor.data, row_bytes = format.row_bytes(n), n_blocks = n / format.block_size](
             std::uint64_t row, std::span<float> out) { decode(bytes.data() + row * row_bytes, out.data(), n_blocks); };
}

std::vector<float> Scene::vector(plan::WeightId id) const {
  std::vector<float> values(plan->weight(id).in());
  weight(id)(0, values);
  return values;
}

std::vector<float> compute(const plan::Op& op, const Scene& scene) { return Computation(scene, op).take(); }

double activate(const plan::Activate& op, double x) {
  switch (op.activation) {
    case plan::Activation::silu:
      return x / (1.0 + std::exp(-op.alpha * x));
    case plan::Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case plan::Activation::gelu_erf:
      return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case plan::Activation::relu:
      return x > 0 ? x : 0;
    case plan::Activation::relu_squared:
      return x > 0 ? x * x : 0;
    case plan::Activation::sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case plan::Activation::tanh:
      return std::tanh(x);
    case plan::Activation::identity:
      return x;
    case plan::Activation::xielu:
      return op.xielu.beta * x +
             (x > 0 ? op.xielu.positive * x * x : op.xielu.negative * (std::expm1(std::min(x, double{op.xielu.eps})) - x));
  }
  return 0;
}

std::vector<float> rotary_factors(const plan::Rope& rope, const Scene& scene) {
  const bool is_long = rope.long_factors && scene.capacity > rope.original_context;
  const std::optional<plan::VectorId> factors = is_long ? rope.long_factors : rope.factors;
  return factors ? scene.vector(*factors) : std::vector<float>();
}

Rotation rotation_at(const plan::Rope& rope, std::span<const float> factors, double position) {
  Rotation rotation;
  for (std::uint32_t i = 0; i < rope.n_rot / 2; ++i) {
    double angle = position * std::pow(double{rope.theta}, -2.0 * i / rope.n_rot);
    if (!factors.empty()) angle /= factors[i];
    double turned = angle * rope.position_scale;
    if (rope.yarn) {
      const double extrapolation = yarn_extrapolation(rope, i);
      turned = angle * rope.position_scale * (1.0 - extrapolation) + angle * extrapolation;
    }
    rotation.cosine.push_back(std::cos(turned) * rope.magnitude);
    rotation.sine.push_back(std::sin(turned) * rope.magnitude);
  }
  return rotation;
}

void rotate(const plan::Rope& rope, const Rotation& rotation, const float* x, float* y) {
  std::copy(x, x + rope.head_dim, y);
  const bool adjacent = rope.pairing == plan::RopePairing::adjacent;
  for (std::uint32_t i = 0; i < rope.n_rot / 2; ++i) {
    const std::uint32_t a = adjacent ? 2 * i : i;
    const std::uint32_t b = adjacent ? 2 * i + 1 : i + rope.n_rot / 2;
    y[a] = static_cast<float>(x[a] * rotation.cosine[i] - x[b] * rotation.sine[i]);
    y[b] = static_cast<float>(x[a] * rotation.sine[i] + x[b] * rotation.cosine[i]);
  }
}

AttentionRule attention_rule(const plan::Attention& op, const Scene& scene) {
  AttentionRule rule;
  rule.kv_head = [n_heads = op.n_heads, n_kv_heads = op.n_kv_heads](std::uint32_t h) { return h * n_kv_heads / n_heads; };
  rule.sees = [rows = scene.rows, op](std::uint64_t row, std::uint32_t position) {
    const std::uint32_t own = rows[row].position;
    if (op.causal && position > own) return false;
    if (op.window == 0) return true;
    if (op.window_kind == plan::WindowKind::chunked) return position / op.window == own / op.window;
    const std::uint32_t distance = position > own ? position - own : own - position;
    return op.causal ? distance < op.window : distance <= op.window / 2;
  };
  if (op.alibi_max_bias > 0) {
    rule.bias = [rows = scene.rows, op](std::uint64_t row, std::uint32_t head, std::uint32_t position) {
      return -alibi_slope(op, head) * static_cast<double>(std::int64_t{rows[row].position} - std::int64_t{position});
    };
  }
  std::vector<float> sinks = op.sinks ? scene.vector(*op.sinks) : std::vector<float>();
  rule.weigh = [sinks = std::move(sinks)](std::uint32_t h, std::span<double> scores) {
    double largest = *std::max_element(scores.begin(), scores.end());
    if (!sinks.empty()) largest = std::max(largest, double{sinks[h]});
    double total = sinks.empty() ? 0 : std::exp(sinks[h] - largest);
    for (double& score : scores) total += score = std::exp(score - largest);
    for (double& score : scores) score /= total;
  };
  return rule;
}

double score_of(const plan::Attention& op, const AttentionRule& rule, double dot, std::uint64_t row, std::uint32_t head,
                std::uint32_t position) {
  double score = dot * op.scale;
  if (op.soft_cap > 0) score = op.soft_cap * std::tanh(score / op.soft_cap);
  return rule.bias ? score + rule.bias(row, head, position) : score;
}

double alibi_slope(const plan::Attention& op, std::uint32_t head) {
  const std::uint32_t n = std::bit_floor(op.n_heads);
  const double exponent = head < n ? (head + 1.0) / n : (2.0 * (head - n) + 1) / (2.0 * n);
  return std::exp2(-op.alibi_max_bias * exponent);
}

std::vector<float> attend(const plan::Attention& op, const AttentionRule& rule, const Scene& scene,
                          std::vector<float>* probs, std::uint64_t n_positions) {
  const std::uint64_t n_rows = scene.rows.size();
  const float* q = scene.value(op.q).data();
  std::vector<float> y(n_rows * op.n_heads * op.head_dim);
  if (probs != nullptr) probs->assign(op.n_heads * n_rows * n_positions, 0.0f);
  in_parts(n_rows, scene.n_threads, [&](std::uint64_t begin, std::uint64_t end) {
    std::vector<std::uint32_t> seen;
    std::vector<double> p;
    for (std::uint64_t t = begin; t < end; ++t) {
      seen.clear();
      for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
        if (rule.sees(t, s)) seen.push_back(s);
      }
      for (std::uint32_t h = 0; h < op.n_heads; ++h) {
        const std::uint64_t kv_offset = std::uint64_t{rule.kv_head(h)} * op.head_dim;
        const float* query = q + (t * op.n_heads + h) * op.head_dim;
        float* context = y.data() + (t * op.n_heads + h) * op.head_dim;
        if (seen.empty()) continue;
        p.clear();
        for (const std::uint32_t s : seen) {
          p.push_back(score_of(op, rule, dot(query, scene.key(op.layer, t, s) + kv_offset, op.head_dim), t, h, s));
        }
        rule.weigh(h, p);
        std::vector<double> sum(op.head_dim, 0.0);
        for (std::size_t i = 0; i < seen.size(); ++i) {
          const float* value = scene.cached_value(op.layer, t, seen[i]) + kv_offset;
          for (std::uint32_t c = 0; c < op.head_dim; ++c) sum[c] += p[i] * value[c];
          if (probs != nullptr) (*probs)[(h * n_rows + t) * n_positions + seen[i]] = static_cast<float>(p[i]);
        }
        std::transform(sum.begin(), sum.end(), context, [](double s) { return static_cast<float>(s); });
      }
    }
  });
  return y;
}

std::uint64_t expert_index(float expert, std::uint64_t n) {
  return expert >= 0 && expert < static_cast<float>(n) ? static_cast<std::uint64_t>(expert) : 0;
}

}  // namespace plumb::backends::reference
