#include "diagnose/arithmetic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <variant>

#include "base/in_parts.h"

namespace plumb::diagnose {

namespace {

using backends::reference::Scene;

constexpr double square(double x) { return x * x; }
// Variance of an error that is uniform in [-bound, bound].
constexpr double uniform(double bound) { return square(bound) / 3; }

// The variance of rounding x to a 16-bit format.
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

// Errors of float32 functions beyond rounding: a few units for exp, tanh and erf, some more for the fast ones of GPUs
// (https://docs.nvidia.com/cuda/cuda-c-programming-guide/, "Mathematical Functions": __expf, __sinf).
constexpr double function_units = 16;
constexpr double fast_sine = 0x1p-22;

double derivative(const plan::Activate& op, double x) {
  switch (op.activation) {
    case plan::Activation::silu: {
      const double s = 1 / (1 + std::exp(-op.alpha * x));
      return s * (1 + op.alpha * x * (1 - s));
    }
    case plan::Activation::gelu_tanh:
    case plan::Activation::gelu_erf:
      return 0.5 * (1 + std::erf(x / std::numbers::sqrt2)) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case plan::Activation::relu:
      return x > 0 ? 1 : 0;
    case plan::Activation::relu_squared:
      return x > 0 ? 2 * x : 0;
    case plan::Activation::sigmoid: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 - s);
    }
    case plan::Activation::tanh:
      return 1 - square(std::tanh(x));
    case plan::Activation::identity:
      return 1;
    case plan::Activation::xielu:
      return op.xielu.beta + (x > 0              ? 2 * op.xielu.positive * x
                              : x < op.xielu.eps ? op.xielu.negative * std::expm1(x)
                                                 : -op.xielu.negative);
  }
  return 1;
}

struct Variance {
  const Scene& scene;
  std::span<const float> y;
  const InputErrors& errors;
  const ProductSums& sums;
  const Arithmetic& engine;
  const plan::Plan& plan = *scene.plan;
  std::vector<float> out = std::vector<float>(y.size(), 0.0f);

  std::vector<float> of(const plan::Op& op) {
    std::visit([&](const auto& o) { add(o); }, op);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] += static_cast<float>(uniform(unit_f32 * y[i]) + rounded(engine.store, y[i]));
    }
    return std::move(out);
  }

  void add(const plan::Embed&) {
    each([&](std::size_t i) { return square(4 * unit_f32 * y[i]) + rounded(engine.operand, y[i]); });
  }

  void add(const plan::Norm& op) {
    const std::size_t n = op.group;
    const std::vector<float> weight = op.weight ? scene.vector(*op.weight) : std::vector<float>(n, 1.0f);
    const std::vector<float> bias = op.bias ? scene.vector(*op.bias) : std::vector<float>(n);
    const bool is_layer = op.kind == plan::NormKind::layer;
    const auto x = scene.value(op.x);
    const InputError error = errors.of(op.x);
    // A sum of n squares in float32, added one after the other. The result is rounded before and after the weight's factor.
    const double of_sum = square(unit_f32) * (function_units + static_cast<double>(n) / 8);
    for (std::size_t start = 0; start < out.size(); start += n) {
      double mean = 0, squares = 0, variance = 0, common = 0, of_mean = 0;
      for (std::size_t i = start; is_layer && i < start + n; ++i) {
        mean += x[i] / static_cast<double>(n);
        of_mean += error.at(i, x[i]) / square(static_cast<double>(n));
      }
      for (std::size_t i = start; i < start + n; ++i) {
        squares += square(x[i]) / static_cast<double>(n);
        variance += square(x[i] - mean) / static_cast<double>(n);
        common += square(x[i] - mean) * error.at(i, x[i]);
      }
      // The sum of squares overflows in float32: engines give 0, infinity or no number.
      if (squares * static_cast<double>(n) > double{std::numeric_limits<float>::max()}) {
        std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(start), n, std::numeric_limits<float>::infinity());
        continue;
      }
      const double scale = 1 / std::sqrt(variance + op.eps);
      common *= square(square(scale) / static_cast<double>(n));
      double relative = of_sum + uniform(engine.store);
      if (is_layer) {
        of_mean += of_sum * squares;
        // An engine may compute the variance as the mean of squares minus the square of the mean.
        relative += of_sum * square(squares * square(scale));
      }
      for (std::size_t i = start; i < start + n; ++i) {
        const double before_bias = y[i] - bias[i % bias.size()];
        out[i] = static_cast<float>(square(scale * weight[i % weight.size()]) * (error.at(i, x[i]) + of_mean) +
                                    square(before_bias) * (common + relative) +
                                    (op.bias ? uniform(unit_f32 * before_bias) : 0.0));
      }
    }
  }

  void add(const plan::Linear& op) {
    const double n = static_cast<double>(plan.weight(op.weight).in());
    const InputError error = errors.of(op.x);
    const double of_squares = 2 * uniform(engine.operand) + square(engine.sum) * n + uniform(error.rounding);
    for (std::size_t i = 0; i < out.size(); ++i) {
      double v = of_squares * sums.squares[i];
      if (engine.activations > 0 && !sums.blocks.empty()) {
        v += sums.blocks[i] / square(engine.activations) + uniform(unit_f16) * sums.squares[i] / square(engine.activations);
      }
      if (!sums.inputs.empty()) v += sums.inputs[i];
      // Terms of one sign add up to more than independent terms. The same holds for the sum's prefixes, each of which is
      // rounded.
      v += square(y[i]) * (square(engine.sum) * n / 9 + uniform(engine.drift));
      out[i] = static_cast<float>(v);
    }
  }

  void add(const plan::Rope& op) {
    const auto x = scene.value(op.x);
    const InputError error = errors.of(op.x);
    const std::vector<float> factors = op.factors ? scene.vector(*op.factors) : std::vector<float>();
    const std::size_t width = plan.value(op.x).width;
    const bool adjacent = op.pairing == plan::RopePairing::adjacent;
    for (std::size_t t = 0; t < scene.rows.size(); ++t) {
      for (std::size_t head = t * width; head < (t + 1) * width; head += op.head_dim) {
        for (std::size_t i = head + op.n_rot; i < head + op.head_dim; ++i) out[i] = static_cast<float>(error.at(i, x[i]));
        for (std::uint32_t i = 0; i < op.n_rot / 2; ++i) {
          const std::size_t a = head + (adjacent ? 2 * i : i), b = head + (adjacent ? 2 * i + 1 : i + op.n_rot / 2);
          const double angle = scene.rows[t].position * std::pow(double{op.theta}, -2.0 * i / op.n_rot);
          // Frequencies are often computed by repeated multiplication, which rounds i times.
          const double of_angle = square(unit_f32 * angle) * (4 + i) + square(fast_sine);
          const double size = square(x[a]) + square(x[b]);
          const double both = size * (of_angle + square(2 * unit_f32) + 2 * uniform(engine.store)) +
                              std::max(error.at(a, x[a]), error.at(b, x[b]));
          out[a] = out[b] = static_cast<float>(both);
        }
      }
    }
  }

  void add(const plan::KvWrite&) {}

  template <class Of>
  void each(Of of) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(of(i));
  }

  // The variance of rounding a head to 8 bits. Caches round keys and values so, and engines the queries for such keys.
  [[nodiscard]] double block_step(std::span<const float> head) const {
    if (!engine.eight_bit_cache) return 0;
    double largest = 0;
    for (const float x : head) largest = std::max(largest, std::abs(double{x}));
    return square(largest / 127) / 12;
  }

  // A cache's keys or values of all heads, by position.
  struct Cached {
    std::vector<const float*> rows;
    std::vector<double> variance;          // [positions, width]: variance of the values that attention reads
    std::vector<std::uint32_t> first_bad;  // by column: the first position whose number is not finite
  };
  template <class Row>
  [[nodiscard]] Cached cached(const plan::Attention& op, std::uint32_t n, const InputError& error, const Row& row) const {
    const std::size_t width = std::size_t{op.n_kv_heads} * op.head_dim;
    Cached result;
    result.variance.resize(n * width);
    result.first_bad.resize(width, n);
    for (std::uint32_t s = 0; s < n; ++s) {
      const float* x = row(s);
      result.rows.push_back(x);
      for (std::size_t c = 0; c < width; c += op.head_dim) {
        const double step = block_step({x + c, op.head_dim});
        for (std::size_t i = c; i < c + op.head_dim; ++i) {
          result.variance[s * width + i] =
              error.at(s * width + i, x[i]) + rounded(std::max(engine.cache, engine.operand), x[i]) + step;
          if (!std::isfinite(x[i])) result.first_bad[i] = std::min(result.first_bad[i], s);
        }
      }
    }
    return result;
  }

  // Groups positions whose values, in n columns, are equal up to rounding, as for a token that occurs several times: their
  // rounding errors add up instead of averaging out. The result gives one position of its group for each position.
  [[nodiscard]] std::vector<std::uint32_t> rounded_alike(const std::vector<const float*>& rows, std::size_t column,
                                                         std::size_t n, const InputError& error) const {
    const double unit = std::max({engine.cache, engine.operand, error.rounding, engine.eight_bit_cache ? 1.0 / 254 : 0.0});
    std::vector<std::uint32_t> order(rows.size()), result(rows.size());
    std::iota(order.begin(), order.end(), 0u);
    result = order;
    const auto key = [&](std::uint32_t s) { return std::isnan(rows[s][column]) ? 0.0f : rows[s][column]; };
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
    for (std::size_t i = 1; i < order.size(); ++i) {
      const float *a = rows[order[i - 1]] + column, *b = rows[order[i]] + column;
      double difference = 0, size = 0;
      for (std::size_t c = 0; c < n; ++c) {
        difference += square(double{a[c]} - b[c]);
        size += square(b[c]);
      }
      if (difference <= square(unit) * size) result[order[i]] = result[order[i - 1]];
    }
    return result;
  }

  void add(const plan::Attention& op) {
    using namespace backends::reference;
    const AttentionRule rule = attention_rule(op, scene);
    const auto q = scene.value(op.q);
    const InputError q_error = errors.of(op.q);
    const auto [k_error, v_error] = errors.of_cache(op.layer);
    std::uint32_t n_cached = 0;
    for (std::size_t t = 0; t < scene.rows.size(); ++t) n_cached = std::max(n_cached, scene.cached(t));
    // There is one sequence, so a position's key is the same for all rows.
    const Cached keys = cached(op, n_cached, k_error, [&](std::uint32_t s) { return scene.key(op.layer, 0, s); });
    const Cached values =
        cached(op, n_cached, v_error, [&](std::uint32_t s) { return scene.cached_value(op.layer, 0, s); });
    std::vector<std::vector<std::uint32_t>> alike;  // by head of the values, then position
    for (std::size_t kv = 0; kv < op.n_kv_heads; ++kv)
      alike.push_back(rounded_alike(values.rows, kv * op.head_dim, op.head_dim, v_error));
    in_parts(op.n_heads, scene.n_threads, [&](std::uint64_t begin, std::uint64_t end) {
      for (auto h = static_cast<std::uint32_t>(begin); h < end; ++h)
        add_head(op, rule, h, q, q_error, keys, values, alike[rule.kv_head(h)]);
    });
  }

  void add_head(const plan::Attention& op, const backends::reference::AttentionRule& rule, std::uint32_t h,
                std::span<const float> q, const InputError& q_error, const Cached& keys, const Cached& values,
                const std::vector<std::uint32_t>& alike) {
    const std::size_t d = op.head_dim, width = op.n_kv_heads * d, kv = rule.kv_head(h) * d;
    const double operands = uniform(engine.operand);  // for queries; Cached::variance includes it for keys
    const std::uint32_t first_bad_key = *std::min_element(keys.first_bad.begin() + static_cast<std::ptrdiff_t>(kv),
                                                          keys.first_bad.begin() + static_cast<std::ptrdiff_t>(kv + d));
    std::vector<std::uint32_t> seen;
    std::vector<double> p, of_score, x_squared(d), of_x(d), sum(d), together(values.rows.size());
    for (std::size_t t = 0; t < scene.rows.size(); ++t) {
      seen.clear();
      for (std::uint32_t s = 0; s < scene.cached(t); ++s) {
        if (rule.sees(t, s)) seen.push_back(s);
      }
      if (seen.empty()) continue;
      const std::size_t at = (t * op.n_heads + h) * d;
      const float* x = q.data() + at;
      const double q_step = block_step({x, d});
      for (std::size_t i = 0; i < d; ++i) {
        x_squared[i] = square(x[i]);
        of_x[i] = q_error.at(at + i, x[i]) + q_step;
      }
      p.clear();
      of_score.clear();
      // Engines may count ALiBi's distances from either end of the cache, since only differences matter.
      const double largest_bias = op.alibi_max_bias > 0 ? backends::reference::alibi_slope(op, h) * scene.cached(t) : 0;
      const double of_bias = square(2 * unit_f32 * largest_bias) + uniform(engine.store * largest_bias);
      for (const std::uint32_t s : seen) {
        const float* key = keys.rows[s] + kv;
        const double* of_key = keys.variance.data() + s * width + kv;
        double dot = 0, squares = 0, inputs = 0;
        for (std::size_t i = 0; i < d; ++i) {
          const double k = key[i], product = x[i] * k;
          dot += product;
          squares += square(product);
          inputs += x_squared[i] * of_key[i] + square(k) * of_x[i];
        }
        const double score = score_of(op, rule, dot, t, h, s);
        const double slope = op.soft_cap > 0 ? 1 - square(std::tanh(dot * op.scale / op.soft_cap)) : 1;
        p.push_back(score);
        const double of_dot = squares * (operands + square(engine.sum) * static_cast<double>(d)) + inputs;
        of_score.push_back(square(slope * op.scale) * of_dot + square(2 * unit_f32) * (square(score) + function_units) +
                           uniform(engine.store * score) + of_bias);
      }
      rule.weigh(h, p);
      const double n = static_cast<double>(p.size());
      const double of_weight =
          uniform(engine.operand) + uniform(engine.store) + square(engine.sum) * n + square(unit_f32) * function_units;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (const std::uint32_t s : seen) together[alike[s]] = 0;
      for (std::size_t j = 0; j < seen.size(); ++j) together[alike[seen[j]]] += p[j];
      for (std::size_t j = 0; j < seen.size(); ++j) {
        const float* value = values.rows[seen[j]] + kv;
        const double* of_value = values.variance.data() + seen[j] * width + kv;
        const double share = square(p[j]), spread = std::expm1(std::min(of_score[j], 4.0));
        const double of_group = p[j] * together[alike[seen[j]]];  // over a group, these add up to the square of its sum
        for (std::size_t i = 0; i < d; ++i) {
          const double v = value[i];
          sum[i] += share * (square(v - y[at + i]) * spread + square(v) * of_weight) + of_group * of_value[i];
        }
      }
      // A NaN or infinity at a masked position may still spoil the sum: some engines multiply it by a weight of 0, or add
      // the mask to its score.
      for (std::size_t i = 0; i < d; ++i) {
        const bool is_bad = std::min(first_bad_key, values.first_bad[kv + i]) < scene.cached(t);
        out[at + i] = is_bad ? std::numeric_limits<float>::infinity() : static_cast<float>(sum[i]);
      }
    }
  }

  void add(const plan::Activate& op) {
    const auto gate = scene.value(op.gate), up = op.up ? scene.value(*op.up) : gate;
    const InputError gate_error = errors.of(op.gate), up_error = op.up ? errors.of(*op.up) : gate_error;
    const std::size_t each = plan.value(op.out).width / plan.value(op.gate).width;
    for (std::size_t i = 0; i < out.size(); ++i) {
      double g = gate[i / each], u = op.up ? up[i] + op.up_offset : 1;
      if (op.limit > 0) {
        g = std::min(g, double{op.limit});
        u = std::clamp(double{up[i]}, -double{op.limit}, double{op.limit}) + op.up_offset;
      }
      const double function =
          square(y[i]) * (function_units * (function_units + square(g)) * square(unit_f32) + uniform(engine.store));
      const double absolute = square(unit_f32 * u * g);
      // The second order of the error, which matters where the function is flat. Its curvature is at most 1/2, and the
      // errors of both inputs are multiplied.
      const double g_variance = gate_error.at(i / each, g), u_variance = op.up ? up_error.at(i, u) : 0;
      const double second = square(0.5 * g_variance * u) + g_variance * u_variance;
      out[i] = static_cast<float>(square(derivative(op, g) * u) * g_variance +
                                  square(backends::reference::activate(op, g)) * u_variance + function + absolute + second);
    }
  }

  void add(const plan::Add& op) {
    const auto a = scene.value(op.a), b = scene.value(op.b);
    const InputError a_error = errors.of(op.a), b_error = errors.of(op.b);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] =
          static_cast<float>(a_error.at(i, a[i]) + b_error.at(i, b[i]) + square(unit_f32) * (square(a[i]) + square(b[i])));
    }
  }

  void add(const plan::Scale& op) {
    const auto x = scene.value(op.x);
    const InputError error = errors.of(op.x);
    const std::size_t n = plan.value(op.x).width, width = plan.value(op.out).width;
    const std::vector<float> weight = op.weight ? scene.vector(*op.weight) : std::vector<float>{1.0f};
    each([&](std::size_t i) {
      const std::size_t row = i / width, at = row * n + op.first + i % width;
      double factor = op.factor * weight[i % width % weight.size()], units = 4;
      if (op.temperature) {
        factor *= op.temperature->at(scene.rows[row].position);
        units = function_units;  // of a logarithm
      }
      return square(factor) * error.at(at, x[at]) + square(units * unit_f32 * y[i]);
    });
  }

  void add(const plan::SoftCap& op) {
    const auto x = scene.value(op.x);
    const InputError error = errors.of(op.x);
    each([&](std::size_t i) {
      const double slope = 1 - square(y[i] / op.cap);
      return square(slope) * error.at(i, x[i]) + square(function_units * unit_f32 * y[i]);
    });
  }

  void add(const plan::TopK&) {}

  void add(const plan::ExpertWeights&) {
    each([&](std::size_t i) { return square(function_units * unit_f32 * y[i]); });
  }

  // A Linear has ProductSums; here the row's root mean square stands in for them.
  void add(const plan::ExpertLinear& op) {
    const std::size_t width = plan.value(op.out).width;
    const double relative = uniform(engine.operand) * 2 +
                            square(engine.sum) * static_cast<double>(plan.weight(op.weight).in()) +
                            (engine.activations > 0 ? square(1 / (64 * engine.activations)) : 0);
    for (std::size_t start = 0; start < out.size(); start += width) {
      double mean = 0;
      for (std::size_t i = start; i < start + width; ++i) mean += square(y[i]) / static_cast<double>(width);
      for (std::size_t i = start; i < start + width; ++i) out[i] = static_cast<float>(relative * mean);
    }
  }

  void add(const plan::ExpertSum& op) {
    const auto x = scene.value(op.x), w = scene.value(op.weights);
    const InputError x_error = errors.of(op.x), w_error = errors.of(op.weights);
    const std::size_t k = plan.value(op.weights).width, width = plan.value(op.out).width;
    for (std::size_t i = 0; i < out.size(); ++i) {
      double v = 0;
      for (std::size_t j = 0; j < k; ++j) {
        const std::size_t r = i / width, at = (r * k + j) * width + i % width;
        v += square(w[r * k + j]) * (x_error.at(at, x[at]) + square(unit_f32 * 2 * x[at])) +
             square(x[at]) * w_error.at(r * k + j, w[r * k + j]);
      }
      out[i] = static_cast<float>(v);
    }
  }
};

}  // namespace

std::span<const Arithmetic> arithmetics() { return table; }

double InputError::at(std::size_t i, double x) const {
  return (variance.empty() ? 0.0 : double{variance[i]}) + uniform(std::max(rounding * std::abs(x), least));
}

std::vector<float> variance(const plan::Op& op, const Scene& scene, std::span<const float> y, const InputErrors& errors,
                            const ProductSums& sums, const Arithmetic& arithmetic) {
  return Variance{scene, y, errors, sums, arithmetic}.of(op);
}

double rounding_of(trace::Dtype dtype) {
  return dtype == trace::Dtype::f32 ? 0 : dtype == trace::Dtype::f16 ? unit_f16 : unit_bf16;
}
double least_of(trace::Dtype dtype) { return dtype == trace::Dtype::f16 ? least_f16 : 0; }

}  // namespace plumb::diagnose
