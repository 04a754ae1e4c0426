#include "diagnose/arithmetic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <variant>

#include "quants/format.h"

namespace plumb::diagnose {

namespace {

using backends::reference::Scene;

constexpr double square(double x) { return x * x; }
// Variance of an error that is uniform in [-bound, bound].
constexpr double uniform(double bound) { return square(bound) / 3; }

// Of rounding x to a 16-bit format.
double rounded(double unit, double x) { return uniform(std::max(unit * std::abs(x), unit == unit_f16 ? least_f16 : 0.0)); }

constexpr Arithmetic table[] = {
    {.name = "float32"},
    {.name = "float32, 16-bit activations in blocks", .activations = 128},
    {.name = "float32, float16 cache", .cache = unit_f16},
    {.name = "float32, float16 cache, 16-bit activations in blocks", .cache = unit_f16, .activations = 128},
    {.name = "TF32 or float16 operands", .operand = unit_f16, .cache = unit_f16},
    {.name = "TF32 operands, cut off", .operand = unit_tf32, .cache = unit_f16, .drift = 2 * unit_tf32},
    {.name = "int8 activations in blocks", .cache = unit_f16, .activations = 1},
    {.name = "float16 results", .operand = unit_f16, .cache = unit_f16, .store = unit_f16},
    {.name = "8-bit cache", .operand = unit_f16, .cache = unit_f16, .eight_bit_cache = true},
    {.name = "float16 sums", .operand = unit_f16, .cache = unit_f16, .sum = unit_f16},
    {.name = "bfloat16 operands", .operand = unit_bf16, .cache = unit_bf16},
    {.name = "bfloat16 results", .operand = unit_bf16, .cache = unit_bf16, .store = unit_bf16},
};

// Weights that engines multiply with activations in blocks of 8 bits: those of 256 with blocks of 256, the others of 32
// (vec_dot_type of ggml's type traits: https://github.com/ggml-org/ggml/blob/master/src/ggml-cpu/ggml-cpu.c).
std::uint32_t activation_block(quants::Format format) {
  const std::uint32_t size = quants::info(format).block_size;
  return size == 1 ? 0 : size == 256 ? 256 : 32;
}

// Errors that float32 functions make besides rounding: exp, tanh and erf of a few units, faster ones of GPUs of some more
// (https://docs.nvidia.com/cuda/cuda-c-programming-guide/, "Mathematical Functions": __expf, __sinf).
constexpr double function_units = 16;
constexpr double fast_sine = 0x1p-22;

double derivative(plan::Activation activation, double x) {
  switch (activation) {
    case plan::Activation::silu: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    case plan::Activation::gelu_tanh:
    case plan::Activation::gelu_erf:
      return 0.5 * (1 + std::erf(x / std::numbers::sqrt2)) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case plan::Activation::relu:
      return x > 0 ? 1 : 0;
  }
  return 1;
}

class Variance {
 public:
  Variance(const Scene& scene, std::span<const float> y, const std::function<InputError(plan::ValueId)>& error,
           const std::function<std::pair<InputError, InputError>(std::uint32_t)>& cache_error, const ProductSums& sums,
           const Arithmetic& arithmetic)
      : scene_(scene),
        plan_(*scene.plan),
        y_(y),
        error_(error),
        cache_error_(cache_error),
        sums_(sums),
        a_(arithmetic),
        out_(y.size(), 0.0f) {}

  std::vector<float> of(const plan::Op& op) {
    std::visit([&](const auto& o) { add(o); }, op);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      out_[i] += static_cast<float>(uniform(unit_f32 * y_[i]) + rounded(a_.store, y_[i]));
    }
    return std::move(out_);
  }

 private:
  void add(const plan::Embed&) {
    for (std::size_t i = 0; i < out_.size(); ++i)
      out_[i] = static_cast<float>(square(4 * unit_f32 * y_[i]) + rounded(a_.operand, y_[i]));
  }

  void add(const plan::RmsNorm& op) {
    const std::vector<float> weight = scene_.vector(op.weight);
    const std::size_t n = weight.size();
    const auto x = scene_.value(op.x);
    const InputError error = error_(op.x);
    // A sum of n squares, one after the other, in float32; results rounded before and after the weight's factor.
    const double relative = square(unit_f32) * (function_units + static_cast<double>(n) / 8) + uniform(a_.store);
    for (std::size_t start = 0; start < out_.size(); start += n) {
      double mean = 0, common = 0;
      for (std::size_t i = start; i < start + n; ++i) {
        mean += square(x[i]) / static_cast<double>(n);
        common += square(x[i]) * error.at(i, x[i]);
      }
      // The sum of squares overflows in float32: engines give 0, infinity or no number.
      if (mean * static_cast<double>(n) > double{std::numeric_limits<float>::max()}) {
        std::fill_n(out_.begin() + static_cast<std::ptrdiff_t>(start), n, std::numeric_limits<float>::infinity());
        continue;
      }
      const double scale = 1 / std::sqrt(mean + op.eps);
      common *= square(square(scale) / static_cast<double>(n));
      for (std::size_t i = start; i < start + n; ++i) {
        out_[i] =
            static_cast<float>(square(scale * weight[i - start]) * error.at(i, x[i]) + square(y_[i]) * (common + relative));
      }
    }
  }

  void add(const plan::Linear& op) {
    const double n = static_cast<double>(plan_.weight(op.weight).in());
    const InputError error = error_(op.x);
    const double of_squares = 2 * uniform(a_.operand) + square(a_.sum) * n + uniform(error.rounding);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      double v = of_squares * sums_.squares[i];
      if (a_.activations > 0 && !sums_.blocks.empty()) {
        v += sums_.blocks[i] / square(a_.activations) + uniform(unit_f16) * sums_.squares[i] / square(a_.activations);
      }
      if (!sums_.inputs.empty()) v += sums_.inputs[i];
      // Where terms add up to more than they are large, so do the prefixes that are rounded.
      v += square(y_[i]) * (square(a_.sum) * n / 9 + uniform(a_.drift));
      out_[i] = static_cast<float>(v);
    }
  }

  void add(const plan::Rope& op) {
    const auto x = scene_.value(op.x);
    const InputError error = error_(op.x);
    const std::vector<float> factors = op.factors ? scene_.vector(*op.factors) : std::vector<float>();
    const std::size_t width = plan_.value(op.x).width;
    const bool adjacent = op.pairing == plan::RopePairing::adjacent;
    for (std::size_t t = 0; t < scene_.rows.size(); ++t) {
      for (std::size_t head = t * width; head < (t + 1) * width; head += op.head_dim) {
        for (std::size_t i = head + op.n_rot; i < head + op.head_dim; ++i) out_[i] = static_cast<float>(error.at(i, x[i]));
        for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
          const std::size_t a = head + (adjacent ? 2 * i : i), b = head + (adjacent ? 2 * i + 1 : i + op.n_rot / 2);
          const double angle = scene_.rows[t].position * std::pow(double{op.theta}, -2.0 * i / op.n_rot);
          // Frequencies are often made by repeated multiplication: i roundings.
          const double of_angle = square(unit_f32 * angle) * (4 + i) + square(fast_sine);
          const double size = square(x[a]) + square(x[b]);
          const double both = size * (of_angle + square(2 * unit_f32) + 2 * uniform(a_.store)) +
                              std::max(error.at(a, x[a]), error.at(b, x[b]));
          out_[a] = out_[b] = static_cast<float>(both);
        }
      }
    }
  }

  void add(const plan::KvWrite&) {}

  void add(const plan::Attention& op) {
    using namespace backends::reference;
    const AttentionRule rule = attention_rule(op, scene_);
    const auto q = scene_.value(op.q);
    const InputError q_error = error_(op.q);
    const auto [k_error, v_error] = cache_error_(op.layer);
    const std::size_t kv_width = std::size_t{op.n_kv_heads} * op.head_dim;
    const double operands = uniform(a_.operand);  // of queries; that of keys is added by element
    std::vector<std::uint32_t> seen;
    std::vector<double> p, of_score;
    for (std::size_t t = 0; t < scene_.rows.size(); ++t) {
      seen.clear();
      for (std::uint32_t s = 0; s < scene_.cached(t); ++s) {
        if (rule.sees(t, s)) seen.push_back(s);
      }
      for (std::uint32_t h = 0; h < op.n_heads; ++h) {
        const std::size_t kv = std::size_t{rule.kv_head(h)} * op.head_dim;
        const std::size_t at = (t * op.n_heads + h) * op.head_dim;
        p.clear();
        of_score.clear();
        // Of blocks of 8 bits: keys and values in the cache, and queries that are multiplied with such keys.
        const auto block_step = [&](const float* head) {
          if (!a_.eight_bit_cache) return 0.0;
          double largest = 0;
          for (std::uint32_t i = 0; i < op.head_dim; ++i) largest = std::max(largest, std::abs(double{head[i]}));
          return square(largest / 127) / 12;
        };
        const double q_step = block_step(q.data() + at);
        for (const std::uint32_t s : seen) {
          const float* key = scene_.key(op.layer, t, s) + kv;
          double dot = 0, squares = 0, inputs = 0;
          const double step = block_step(key);
          for (std::uint32_t i = 0; i < op.head_dim; ++i) {
            const double x = q[at + i], k = key[i];
            dot += x * k;
            squares += square(x * k);
            inputs +=
                square(x) * (k_error.at(s * kv_width + kv + i, k) + rounded(std::max(a_.cache, a_.operand), k) + step) +
                square(k) * (q_error.at(at + i, x) + q_step);
          }
          double score = dot * op.scale, slope = 1;
          if (op.soft_cap > 0) {
            slope = 1 - square(std::tanh(score / op.soft_cap));
            score = op.soft_cap * std::tanh(score / op.soft_cap);
          }
          p.push_back(score);
          const double of_dot = squares * (operands + square(a_.sum) * op.head_dim) + inputs;
          of_score.push_back(square(slope * op.scale) * of_dot + square(2 * unit_f32) * (square(score) + function_units) +
                             uniform(a_.store * score));
        }
        if (p.empty()) continue;
        bool no_number_of_keys = false;
        for (std::uint32_t s = 0; s < scene_.cached(t); ++s) {
          const float* key = scene_.key(op.layer, t, s) + kv;
          no_number_of_keys =
              no_number_of_keys || !std::all_of(key, key + op.head_dim, [](float k) { return std::isfinite(k); });
        }
        rule.weigh(h, p);
        const double n = static_cast<double>(p.size());
        const double of_weight =
            uniform(a_.operand) + uniform(a_.store) + square(a_.sum) * n + square(unit_f32) * function_units;
        std::vector<double> value_step;
        value_step.reserve(seen.size());
        for (const std::uint32_t s : seen) value_step.push_back(block_step(scene_.cached_value(op.layer, t, s) + kv));
        for (std::uint32_t i = 0; i < op.head_dim; ++i) {
          double v = 0;
          for (std::size_t j = 0; j < seen.size(); ++j) {
            const double value = scene_.cached_value(op.layer, t, seen[j])[kv + i];
            const double of_value = rounded(std::max(a_.cache, a_.operand), value) +
                                    v_error.at(seen[j] * kv_width + kv + i, value) + value_step[j];
            v += square(p[j]) * (square(value - y_[at + i]) * std::expm1(std::min(of_score[j], 4.0)) +
                                 square(value) * of_weight + of_value);
          }
          // Engines that multiply by weights of 0, or add the mask to scores, make no number of what is none behind it.
          for (std::uint32_t s = 0; s < scene_.cached(t); ++s) {
            if (!std::isfinite(scene_.cached_value(op.layer, t, s)[kv + i])) v = std::numeric_limits<double>::infinity();
          }
          if (no_number_of_keys) v = std::numeric_limits<double>::infinity();
          out_[at + i] = static_cast<float>(v);
        }
      }
    }
  }

  void add(const plan::GatedActivation& op) {
    const auto gate = scene_.value(op.gate), up = scene_.value(op.up);
    const InputError gate_error = error_(op.gate), up_error = error_(op.up);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      const double g = gate[i], u = up[i];
      const double function =
          square(y_[i]) * (function_units * (function_units + square(g)) * square(unit_f32) + uniform(a_.store));
      const double absolute = square(unit_f32 * u * g);
      // Where the function is flat its curvature, at most 1/2, makes the error, and the product of both inputs' errors.
      const double g_variance = gate_error.at(i, g), u_variance = up_error.at(i, u);
      const double second = square(0.5 * g_variance * u) + g_variance * u_variance;
      out_[i] = static_cast<float>(square(derivative(op.activation, g) * u) * g_variance +
                                   square(backends::reference::activate(op.activation, g)) * u_variance + function +
                                   absolute + second);
    }
  }

  void add(const plan::Add& op) {
    const auto a = scene_.value(op.a), b = scene_.value(op.b);
    const InputError a_error = error_(op.a), b_error = error_(op.b);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      out_[i] =
          static_cast<float>(a_error.at(i, a[i]) + b_error.at(i, b[i]) + square(unit_f32) * (square(a[i]) + square(b[i])));
    }
  }

  void add(const plan::SoftCap& op) {
    const auto x = scene_.value(op.x);
    const InputError error = error_(op.x);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      const double slope = 1 - square(y_[i] / op.cap);
      out_[i] = static_cast<float>(square(slope) * error.at(i, x[i]) + square(function_units * unit_f32 * y_[i]));
    }
  }

  void add(const plan::TopK&) {}

  void add(const plan::ExpertWeights&) {
    for (std::size_t i = 0; i < out_.size(); ++i) out_[i] = static_cast<float>(square(function_units * unit_f32 * y_[i]));
  }

  // The weights' share of each output is not known without another product: the root mean square of the row stands for it.
  void add(const plan::ExpertLinear& op) {
    const std::size_t width = plan_.value(op.out).width;
    const double relative = uniform(a_.operand) * 2 + square(a_.sum) * static_cast<double>(plan_.weight(op.weight).in()) +
                            (a_.activations > 0 ? square(1 / (64 * a_.activations)) : 0);
    for (std::size_t start = 0; start < out_.size(); start += width) {
      double mean = 0;
      for (std::size_t i = start; i < start + width; ++i) mean += square(y_[i]) / static_cast<double>(width);
      for (std::size_t i = start; i < start + width; ++i) out_[i] = static_cast<float>(relative * mean);
    }
  }

  void add(const plan::ExpertSum& op) {
    const auto x = scene_.value(op.x), w = scene_.value(op.weights);
    const InputError x_error = error_(op.x), w_error = error_(op.weights);
    const std::size_t k = plan_.value(op.weights).width, width = plan_.value(op.out).width;
    for (std::size_t i = 0; i < out_.size(); ++i) {
      double v = 0;
      for (std::size_t j = 0; j < k; ++j) {
        const std::size_t r = i / width, at = (r * k + j) * width + i % width;
        v += square(w[r * k + j]) * (x_error.at(at, x[at]) + square(unit_f32 * 2 * x[at])) +
             square(x[at]) * w_error.at(r * k + j, w[r * k + j]);
      }
      out_[i] = static_cast<float>(v);
    }
  }

  const Scene& scene_;
  const plan::Plan& plan_;
  std::span<const float> y_;
  const std::function<InputError(plan::ValueId)>& error_;
  const std::function<std::pair<InputError, InputError>(std::uint32_t)>& cache_error_;
  const ProductSums& sums_;
  const Arithmetic& a_;
  std::vector<float> out_;
};

}  // namespace

std::span<const Arithmetic> arithmetics() { return table; }

double InputError::at(std::size_t i, double x) const {
  return (variance.empty() ? 0.0 : double{variance[i]}) + uniform(std::max(rounding * std::abs(x), least));
}

std::vector<float> product(const plan::Linear& op, const Scene& scene, std::span<const float> variance_of_x,
                           ProductSums& sums) {
  const plan::Weight& weight = scene.plan->weight(op.weight);
  const auto x = scene.value(op.x);
  const std::size_t n_in = weight.in();
  const std::size_t n_out = x.size() / n_in * weight.out();
  std::vector<float> y(n_out), squares(x.size()), blocks;
  sums.squares.resize(n_out);
  std::transform(x.begin(), x.end(), squares.begin(), [](float v) { return v * v; });
  std::vector<backends::reference::Spread> spreads{{squares.data(), sums.squares.data()}};
  if (const std::uint32_t size = activation_block(weight.tensor.format); size > 0) {
    blocks.resize(x.size());
    for (std::size_t start = 0; start < x.size(); start += size) {
      const std::size_t end = std::min<std::size_t>(start + size, x.size());
      float largest = 0;
      for (std::size_t i = start; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
      std::fill(blocks.begin() + static_cast<std::ptrdiff_t>(start), blocks.begin() + static_cast<std::ptrdiff_t>(end),
                static_cast<float>(square(largest / 127.0) / 12));
    }
    sums.blocks.resize(n_out);
    spreads.push_back({blocks.data(), sums.blocks.data()});
  }
  if (!variance_of_x.empty()) {
    sums.inputs.resize(n_out);
    spreads.push_back({variance_of_x.data(), sums.inputs.data()});
  }
  const std::vector<float> bias = op.bias ? scene.vector(*op.bias) : std::vector<float>();
  backends::reference::linear(x, n_in, scene.weight(op.weight), weight.out(), bias, y, spreads, scene.n_threads);
  return y;
}

std::vector<float> variance(const plan::Op& op, const Scene& scene, std::span<const float> y,
                            const std::function<InputError(plan::ValueId)>& error,
                            const std::function<std::pair<InputError, InputError>(std::uint32_t layer)>& cache_error,
                            const ProductSums& sums, const Arithmetic& arithmetic) {
  return Variance(scene, y, error, cache_error, sums, arithmetic).of(op);
}

double rounding_of(trace::Dtype dtype) {
  return dtype == trace::Dtype::f32 ? 0 : dtype == trace::Dtype::f16 ? unit_f16 : unit_bf16;
}
double least_of(trace::Dtype dtype) { return dtype == trace::Dtype::f16 ? least_f16 : 0; }

}  // namespace plumb::diagnose
