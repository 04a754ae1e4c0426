// The cpu backend against the reference, op by op and as a whole, within what the number formats allow and no more.
//
// The reference recomputes each op from the cpu backend's own inputs, so that the difference at an op is that op's own
// error. The allowed difference follows from how the backend computes (cpu.h):
//   - A Linear whose weights have blocks of B > 1 rounds activations to steps of d = amax / activation_levels() in blocks
//   of
//     B. Such an error is uniform in [-d/2, d/2], so an output has the standard deviation sqrt(sum_i w_i^2 d_i^2 / 12). The
//     allowance is 8 standard deviations, and at most the worst case sum_i |w_i| d_i / 2. Over a whole model the errors'
//     root mean square must be the predicted one: a bias or a truncation would double it.
//   - float32 sums of n terms: n * 2^-24 * sum |terms|, the textbook bound.
//   - exp, sin and cos of float accuracy: a few units in the last place of the argument and of the result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "backends/cpu/cpu.h"
#include "backends/reference/reference.h"
#include "base/half.h"
#include "engine/quantized_canary.h"
#include "quants/format.h"

namespace plumb::engine {
namespace {

using backends::Activations;
using backends::KvType;
using backends::Outputs;
using plan::Plan;
using Matrix = std::vector<float>;

constexpr double unit = 0x1p-24;  // half a unit in the last place of a float in [1, 2)
constexpr double allowed_deviations = 8;

std::vector<double> decoded_row(const gguf::Tensor& tensor, std::uint64_t row) {
  const quants::FormatInfo& format = quants::info(tensor.format);
  std::vector<float> values(tensor.dims[0]);
  format.decode(tensor.data.data() + row * format.row_bytes(values.size()), values.data(),
                values.size() / format.block_size);
  return {values.begin(), values.end()};
}

// The values recorded from one run on the cpu backend.
struct Trace {
  std::map<std::string, Matrix, std::less<>> values;  // of the current step
  std::vector<Matrix> keys, values_cached;            // by layer: every position so far, rounded to the cache's type
};

struct Tally {
  double sum_squares = 0;  // of errors divided by their standard deviation
  std::uint64_t n = 0;
  void add(double deviations) {
    sum_squares += deviations * deviations;
    ++n;
  }
  [[nodiscard]] double rms() const { return n > 0 ? std::sqrt(sum_squares / static_cast<double>(n)) : 0; }
};

class OpChecker {
 public:
  OpChecker(const Plan& plan, const Trace& trace, int levels) : plan_(plan), trace_(trace), levels_(levels) {
    for (const plan::Op& op : plan.ops) {
      if (const auto out = plan::output(op)) producers_[plan.value(*out).name] = &op;
    }
  }

  // Compares the reference's value with the cpu's, then replaces it by the cpu's.
  void check(std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<float> computed) {
    const auto found = trace_.values.find(name);
    ASSERT_NE(found, trace_.values.end()) << name;
    const Matrix& actual = found->second;
    ASSERT_EQ(actual.size(), computed.size()) << name;
    const plan::Op& op = *producers_.at(std::string(name));
    std::vector<double> allowed(rows * width);
    std::visit([&](const auto& o) { allow(o, rows, width, computed, actual, allowed); }, op);
    std::uint64_t n_over = 0;
    double worst = 0;
    std::uint64_t worst_at = 0;
    for (std::uint64_t i = 0; i < actual.size(); ++i) {
      const double error = std::abs(double{actual[i]} - computed[i]);
      if (error <= allowed[i]) continue;
      ++n_over;
      const double ratio = allowed[i] > 0 ? error / allowed[i] : HUGE_VAL;
      if (!(ratio <= worst)) {
        worst = ratio;
        worst_at = i;
      }
    }
    EXPECT_EQ(n_over, 0) << name << " (" << plan::name(op) << "): " << n_over << " of " << actual.size()
                         << " differ by more than allowed; worst at row " << worst_at / width << ", column "
                         << worst_at % width << ": " << actual[worst_at] << " for " << computed[worst_at] << ", " << worst
                         << " times the allowance";
    std::copy(actual.begin(), actual.end(), computed.begin());
    ++n_checked_;
  }

  [[nodiscard]] const Tally& quantized_linears() const { return tally_; }
  [[nodiscard]] std::size_t n_checked() const { return n_checked_; }

 private:
  const Matrix& value(plan::ValueId id) const { return trace_.values.at(plan_.value(id).name); }

  void allow(const plan::Embed&, std::uint64_t, std::uint64_t, std::span<const float>, const Matrix&,
             std::vector<double>&) {}
  // The canary has no such ops; tests/backends/cpu_executor_test.cpp tests them.
  template <class Op>
  void allow(const Op&, std::uint64_t, std::uint64_t, std::span<const float>, const Matrix&, std::vector<double>&) {}
  void allow(const plan::KvWrite&, std::uint64_t, std::uint64_t, std::span<const float>, const Matrix&,
             std::vector<double>&) {}
  void allow(const plan::Add&, std::uint64_t, std::uint64_t, std::span<const float>, const Matrix&, std::vector<double>&) {}

  void allow(const plan::Norm& op, std::uint64_t, std::uint64_t, std::span<const float> computed, const Matrix&,
             std::vector<double>& allowed) {
    // All terms of the sum of squares have one sign: its relative error is at most n units, and the square root halves it.
    const double n = static_cast<double>(plan_.weight(op.weight).in());
    for (std::size_t i = 0; i < allowed.size(); ++i) allowed[i] = (n / 2 + 4) * unit * std::abs(double{computed[i]});
  }

  void allow(const plan::Activate&, std::uint64_t, std::uint64_t, std::span<const float> computed, const Matrix&,
             std::vector<double>& allowed) {
    for (std::size_t i = 0; i < allowed.size(); ++i) allowed[i] = 16 * unit * std::abs(double{computed[i]}) + 1e-37;
  }

  void allow(const plan::Rope& op, std::uint64_t, std::uint64_t width, std::span<const float>, const Matrix&,
             std::vector<double>& allowed) {
    const Matrix& x = value(op.x);
    for (std::uint64_t start = 0; start < x.size(); start += op.head_dim) {
      for (std::uint32_t i = 0; i < op.n_rot; ++i) {
        const bool adjacent = op.pairing == plan::RopePairing::adjacent;
        const std::uint32_t partner = adjacent ? i ^ 1u : (i + op.n_rot / 2) % op.n_rot;
        allowed[start + i] = 4 * unit * (std::abs(double{x[start + i]}) + std::abs(double{x[start + partner]}));
      }
    }
    ASSERT_EQ(x.size() % width, 0);
  }

  void allow(const plan::Linear& op, std::uint64_t rows, std::uint64_t width, std::span<const float> computed,
             const Matrix& actual, std::vector<double>& allowed) {
    const plan::Weight& weight = plan_.weight(op.weight);
    const std::uint64_t n = weight.in();
    const std::uint64_t block = quants::info(weight.tensor.format).block_size;
    const Matrix& x = value(op.x);
    const float* first = x.data() + (x.size() / n - rows) * n;
    std::vector<double> step(rows * n, 0.0);
    for (std::uint64_t start = 0; block > 1 && start < step.size(); start += block) {
      double largest = 0;
      for (std::uint64_t i = 0; i < block; ++i) largest = std::max(largest, std::abs(double{first[start + i]}));
      std::fill_n(step.begin() + static_cast<std::ptrdiff_t>(start), block, largest / levels_);
    }
    for (std::uint64_t j = 0; j < width; ++j) {
      const std::vector<double> w = decoded_row(weight.tensor, j);
      for (std::uint64_t r = 0; r < rows; ++r) {
        double variance = 0, worst = 0, magnitude = 0;
        for (std::uint64_t i = 0; i < n; ++i) {
          const double d = step[r * n + i];
          variance += w[i] * w[i] * d * d / 12;
          worst += std::abs(w[i]) * d / 2;
          magnitude += std::abs(w[i] * first[r * n + i]);
        }
        const double deviation = std::sqrt(variance);
        const double rounding = (static_cast<double>(n) + 8) * unit * (magnitude + worst);
        const std::uint64_t at = r * width + j;
        allowed[at] = std::min(allowed_deviations * deviation, worst) + rounding;
        if (deviation > 0) tally_.add((double{actual[at]} - computed[at]) / deviation);
      }
    }
  }

  void allow(const plan::Attention& op, std::uint64_t rows, std::uint64_t width, std::span<const float>, const Matrix&,
             std::vector<double>& allowed) {
    const Matrix& q = value(op.q);
    const Matrix& keys = trace_.keys[op.layer];
    const Matrix& cached = trace_.values_cached[op.layer];
    const std::uint64_t kv_width = std::uint64_t{op.n_kv_heads} * op.head_dim;
    const std::uint64_t n_positions = keys.size() / kv_width;
    for (std::uint64_t t = 0; t < rows; ++t) {
      const std::uint64_t last = n_positions - rows + t;
      const std::uint64_t from = op.window > 0 && last + 1 > op.window ? last + 1 - op.window : 0;
      for (std::uint64_t h = 0; h < op.n_heads; ++h) {
        const std::uint64_t kv = h * op.n_kv_heads / op.n_heads * op.head_dim;
        std::vector<double> p(last + 1, 0.0);
        double largest = -HUGE_VAL, magnitude = 0, total = 0;
        for (std::uint64_t s = from; s <= last; ++s) {
          double dot = 0, absolute = 0;
          for (std::uint32_t i = 0; i < op.head_dim; ++i) {
            const double product = double{q[t * width + h * op.head_dim + i]} * keys[s * kv_width + kv + i];
            dot += product;
            absolute += std::abs(product);
          }
          p[s] = dot * op.scale;
          largest = std::max(largest, p[s]);
          magnitude = std::max(magnitude, absolute * op.scale);
        }
        for (std::uint64_t s = from; s <= last; ++s) total += p[s] = std::exp(p[s] - largest);
        // A score has its dot product's rounding error; exp makes it a relative error, both of the weight and of the sum.
        const double relative = 2 * (op.head_dim + 8) * unit * magnitude + (static_cast<double>(last) + 16) * 2 * unit;
        for (std::uint32_t i = 0; i < op.head_dim; ++i) {
          double sum = 0;
          for (std::uint64_t s = from; s <= last; ++s)
            sum += p[s] / total * std::abs(double{cached[s * kv_width + kv + i]});
          allowed[t * width + h * op.head_dim + i] = relative * sum + 1e-37;
        }
      }
    }
  }

  const Plan& plan_;
  const Trace& trace_;
  int levels_;  // a rounded activation is at most this many steps
  std::map<std::string, const plan::Op*> producers_;
  Tally tally_;
  std::size_t n_checked_ = 0;
};

// A prompt pass and two decode steps.
std::vector<std::vector<text::TokenId>> steps_for(const text::Tokenizer& tokenizer) {
  const auto prompt = tokenizer.encode("<|user|>\nupper hello</s>\n<|assistant|>\nHE", {.parse_special = true});
  std::vector<std::vector<text::TokenId>> steps{*prompt};
  for (const char* piece : {"L", "O"}) steps.push_back({*tokenizer.find(piece)});
  return steps;
}

class BackendAgreement : public testing::TestWithParam<std::tuple<model::FileType, backends::Isa, KvType, Activations>> {
 protected:
  void SetUp() override {
    const auto [type, isa, kv_type, activations] = GetParam();
    auto loaded = quantized_canary(type);
    ASSERT_TRUE(loaded) << loaded.error().message;
    loaded_ = std::move(*loaded);
    auto cpu = backends::make_cpu(isa)->load(loaded_->model.plan(), {.n_threads = 2, .activations = activations});
    ASSERT_TRUE(cpu) << cpu.error().message;
    cpu_ = std::move(*cpu);
    cpu_cache_ = std::move(*cpu_->new_cache(128, kv_type));
  }

  std::unique_ptr<Loaded> loaded_;
  std::unique_ptr<backends::Executor> cpu_;
  std::unique_ptr<backends::KvCache> cpu_cache_;
};

TEST_P(BackendAgreement, EachOpFollowsFromItsInputs) {
  const KvType kv_type = std::get<2>(GetParam());
  const Plan& plan = *loaded_->model.plan();
  Trace trace;
  trace.keys.resize(plan.cache.n_layers);
  trace.values_cached.resize(plan.cache.n_layers);
  cpu_->watch([](std::string_view name) { return !name.ends_with("attn_probs"); },
              [&](std::string_view name, std::uint64_t, std::uint64_t, std::span<const float> data) {
                trace.values[std::string(name)] = Matrix(data.begin(), data.end());
              });
  OpChecker checker(plan, trace, backends::activation_levels(std::get<3>(GetParam())));
  const auto reference = backends::load_reference(
      loaded_->model.plan(), [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<float> data) {
        checker.check(name, rows, width, data);
      });
  const auto cache = std::move(*reference->new_cache(128, kv_type));
  for (const auto& tokens : steps_for(loaded_->tokenizer)) {
    ASSERT_TRUE(cpu_->run({.cache = cpu_cache_.get(), .tokens = tokens, .outputs = Outputs::all}));
    for (const plan::Op& op : plan.ops) {
      const auto* write = std::get_if<plan::KvWrite>(&op);
      if (write == nullptr) continue;
      const auto append = [&](Matrix& rows, plan::ValueId id) {
        for (const float x : trace.values.at(plan.value(id).name))
          rows.push_back(kv_type == KvType::f16 ? f16_to_f32(f32_to_f16(x)) : x);
      };
      append(trace.keys[write->layer], write->k);
      append(trace.values_cached[write->layer], write->v);
    }
    ASSERT_TRUE(reference->run({.cache = cache.get(), .tokens = tokens, .outputs = Outputs::all}));
  }
  EXPECT_GT(checker.n_checked(), 3 * 10 * plan.cache.n_layers);
  if (checker.quantized_linears().n > 0) {
    EXPECT_THAT(checker.quantized_linears().rms(), testing::AllOf(testing::Gt(0.7), testing::Lt(1.3)));
  }
}

// The whole run: the logits differ from the reference's by about as much as the same rounding of activations changes the
// reference's own logits.
TEST_P(BackendAgreement, LogitsStayWithinTheNoiseOfTheirFormats) {
  const KvType kv_type = std::get<2>(GetParam());
  const Plan& plan = *loaded_->model.plan();
  std::map<std::string, std::uint64_t, std::less<>> rounded;  // inputs of quantized Linears, with the weight's block size
  for (const plan::Op& op : plan.ops) {
    const auto* linear = std::get_if<plan::Linear>(&op);
    if (linear == nullptr) continue;
    const std::uint64_t block = quants::info(plan.weight(linear->weight).tensor.format).block_size;
    if (block > 1) rounded[plan.value(linear->x).name] = block;
  }
  const auto levels = static_cast<float>(backends::activation_levels(std::get<3>(GetParam())));
  const auto rounding = backends::load_reference(
      loaded_->model.plan(), [&](std::string_view name, std::uint64_t, std::uint64_t, std::span<float> data) {
        const auto found = rounded.find(name);
        if (found == rounded.end()) return;
        for (std::size_t start = 0; start < data.size(); start += found->second) {
          const auto block = data.subspan(start, found->second);
          float largest = 0;
          for (const float x : block) largest = std::max(largest, std::abs(x));
          const float step = largest / levels;
          for (float& x : block) x = step > 0 ? step * std::nearbyint(x / step) : 0;
        }
      });
  const auto reference = backends::load_reference(loaded_->model.plan(), {});
  // The F16 cache adds noise too. This run has an F32 cache, so that the difference includes both kinds.
  const auto rounding_cache = std::move(*rounding->new_cache(128, KvType::f32));
  const auto reference_cache = std::move(*reference->new_cache(128, kv_type));
  double noise = 0, difference = 0, power = 0;
  for (const auto& tokens : steps_for(loaded_->tokenizer)) {
    const auto a = cpu_->run({.cache = cpu_cache_.get(), .tokens = tokens, .outputs = Outputs::all});
    const auto b = rounding->run({.cache = rounding_cache.get(), .tokens = tokens, .outputs = Outputs::all});
    const auto c = reference->run({.cache = reference_cache.get(), .tokens = tokens, .outputs = Outputs::all});
    ASSERT_TRUE(a && b && c);
    for (std::size_t i = 0; i < c->size(); ++i) {
      noise += std::pow(double{(*b)[i]} - (*c)[i], 2);
      difference += std::pow(double{(*a)[i]} - (*c)[i], 2);
      power += std::pow(double{(*c)[i]}, 2);
    }
  }
  // Twice the noise, since two equally good roundings differ; plus float32's own noise, for files in which nothing is
  // rounded.
  EXPECT_LE(std::sqrt(difference), 2 * std::sqrt(noise) + 1e-5 * std::sqrt(power));
}

std::string test_name(const testing::TestParamInfo<BackendAgreement::ParamType>& info) {
  const auto [type, isa, kv_type, activations] = info.param;
  constexpr const char* isas[] = {"scalar", "avx2", "avx512"};
  return std::string(model::name(type)) + "_" + isas[static_cast<int>(isa)] + (kv_type == KvType::f16 ? "_kv16" : "_kv32") +
         (activations == Activations::int8 ? "_int8" : "_int16");
}

INSTANTIATE_TEST_SUITE_P(Canary, BackendAgreement,
                         testing::Combine(testing::ValuesIn(model::file_types().begin(), model::file_types().end()),
                                          testing::ValuesIn(backends::cpu_isas()), testing::Values(KvType::f16),
                                          testing::Values(Activations::int16)),
                         test_name);
// The kernel tests cover both roundings of activations in each format; here one file of each family of blocks is enough.
INSTANTIATE_TEST_SUITE_P(CanaryInt8, BackendAgreement,
                         testing::Combine(testing::Values(*model::parse_file_type("Q8_0"), *model::parse_file_type("Q4_1"),
                                                          *model::parse_file_type("Q4_K_M")),
                                          testing::ValuesIn(backends::cpu_isas()), testing::Values(KvType::f16),
                                          testing::Values(Activations::int8)),
                         test_name);
INSTANTIATE_TEST_SUITE_P(CanaryF32Cache, BackendAgreement,
                         testing::Combine(testing::Values(*model::parse_file_type("Q4_K_M")),
                                          testing::ValuesIn(backends::cpu_isas()), testing::Values(KvType::f32),
                                          testing::Values(Activations::int16)),
                         test_name);

}  // namespace
}  // namespace plumb::engine
