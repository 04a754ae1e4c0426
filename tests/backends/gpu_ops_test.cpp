// One table of op tests for the kernels that all GPUs share, run on every device of this machine: the checker, which also
// sees stray accesses, races and outputs left unwritten, and a GPU where there is one. Expected values are computed here,
// in double, from the definitions in plan/plan.h; the allowance is what the number formats take, derived beside each.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>

#include "backends/checker/checker.h"
#include "backends/exact_attention.h"
#include "backends/gpu/operations.h"
#include "backends/random_rows.h"
#include "gguf/file.h"
#include "gguf/writer.h"
#ifdef PLUMB_WITH_CUDA
#include "backends/cuda/cuda.h"
#endif
#ifdef PLUMB_WITH_METAL
#include "backends/metal/metal.h"
#endif

namespace plumb::backends {
namespace {

using gpu::View;

constexpr double ulp = 0x1p-24;  // half a unit in the last place of 1

Result<std::unique_ptr<gpu::Device>> device_of(std::string_view name) {
  if (name == "checker") return make_checker_device();
#ifdef PLUMB_WITH_CUDA
  if (name == "cuda") return make_cuda_device();
#endif
#ifdef PLUMB_WITH_METAL
  if (name == "metal") return make_metal_device();
#endif
  return fail("{} is not part of this build", name);
}

std::vector<std::uint32_t> positions(std::uint32_t first, std::uint32_t n) {
  std::vector<std::uint32_t> rows(n);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

class GpuOps : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override {
    auto device = device_of(GetParam());
    if (!device) GTEST_SKIP() << device.error().message;
    device_ = std::move(*device);
  }
  // Of n tokens of the sequence in `slot`.
  gpu::RowPlaces places(std::uint32_t slot, std::uint32_t first, std::uint32_t n) {
    return {.slots = give(std::vector<std::uint32_t>(n, slot)), .positions = give(positions(first, n))};
  }
  // Room for loads of 4 bytes at multiples of 2 is left at the end, as executors leave it.
  template <class T>
  View give(const std::vector<T>& values) {
    const std::uint64_t bytes = values.size() * sizeof(T);
    memories_.push_back(*device_->allocate(bytes + 2, "an input"));
    std::vector<std::byte> padded(bytes + 2);
    if (bytes > 0) std::memcpy(padded.data(), values.data(), bytes);
    const auto uploaded = device_->upload({memories_.back().get(), 0, bytes + 2}, padded);
    EXPECT_TRUE(uploaded);
    return {memories_.back().get(), 0, bytes};
  }
  // Weights may be read by 4 bytes up to the end of that room (a compiler joins loads of 2 bytes too).
  View give_weight(const std::vector<std::byte>& rows) {
    View view = give(rows);
    view.bytes += 2;
    return view;
  }
  View room(std::size_t n_floats) {
    memories_.push_back(*device_->allocate(n_floats * sizeof(float), "an output"));
    return {memories_.back().get(), 0, n_floats * sizeof(float)};
  }
  template <class T = float>
  std::vector<T> run(const gpu::Launches& launches, View y) {
    std::vector<T> values(y.bytes / sizeof(T));
    const auto ran = device_->run(launches, 0);
    EXPECT_TRUE(ran) << ran.error().message;
    const auto downloaded = device_->download(y, std::as_writable_bytes(std::span(values)));
    EXPECT_TRUE(downloaded) << downloaded.error().message;
    return values;
  }
  // Mostly ordinary, some large, tiny, subnormal or negative zero.
  std::vector<float> activations(std::size_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float& v : values) {
      v = normal(random_);
      const unsigned kind = random_() % 64;
      if (kind == 0) v *= 1e4F;
      if (kind == 1) v *= 1e-20F;
      if (kind == 2) v *= 1e-39F;
      if (kind == 3) v = -0.0F;
    }
    return values;
  }

  std::unique_ptr<gpu::Device> device_;
  std::vector<std::unique_ptr<gpu::Memory>> memories_;
  std::mt19937 random_{11};
};

// The product that the seed's hunt passed its faulty engine by: [1 2 3; 4 5 6] [1 2; 3 4; 5 6]. A GGUF file holds the
// second factor as a weight of 2 rows of 3, the transposed of how it is written on paper; an engine that takes the bytes
// for [in, out] computes something else, though its own test of a product it laid out itself passes.
TEST_P(GpuOps, TheSeedsProductThroughTheLoader) {
  const std::vector<float> stored{1, 3, 5, 2, 4, 6};
  const std::array<std::uint64_t, 2> dims{3, 2};
  gguf::Writer writer;
  writer.add_tensor("weight", quants::Format::f32, dims, std::as_bytes(std::span(stored)));
  const auto bytes = writer.to_memory();
  ASSERT_TRUE(bytes) << bytes.error().message;
  const auto file = gguf::File::from_memory(*bytes, "a product");
  ASSERT_TRUE(file) << file.error().message;
  const gguf::Tensor* tensor = file->tensor("weight");
  ASSERT_NE(tensor, nullptr);
  gpu::WeightView w;
  w.view = give(std::vector<std::byte>(tensor->data.begin(), tensor->data.end()));
  w.format = tensor->format;
  w.n_in = static_cast<std::uint32_t>(tensor->dims[0]);
  w.n_out = static_cast<std::uint32_t>(tensor->dims[1]);
  const View y = room(4);
  gpu::Launches launches;
  gpu::linear(launches, w, {}, give(std::vector<float>{1, 2, 3, 4, 5, 6}), 2, y);
  EXPECT_EQ(run(launches, y), (std::vector<float>{22, 28, 49, 64}));

  // The same bytes as [in, out] would be [1 3; 5 2; 4 6], and the product another one: the test above can fail.
  const View wrong = room(4);
  launches.clear();
  w.view = give(std::vector<float>{1, 5, 4, 3, 2, 6});
  gpu::linear(launches, w, {}, give(std::vector<float>{1, 2, 3, 4, 5, 6}), 2, wrong);
  EXPECT_EQ(run(launches, wrong), (std::vector<float>{23, 25, 53, 58}));
}

TEST_P(GpuOps, ProductsInEveryFormat) {
  struct Shape {
    unsigned n_blocks, n_out, n_rows;
  };
  // Vectors and tiles (64 outputs by 32 rows), whole and partial.
  constexpr Shape shapes[] = {{1, 1, 1}, {3, 5, 1}, {2, 9, 4}, {1, 65, 5}, {2, 3, 33}};
  for (const quants::FormatInfo& info : quants::formats()) {
    for (const Shape& s : shapes) {
      // Float rows of any length: 37 and on.
      const unsigned n_in = info.block_size == 1 ? 37 * s.n_blocks : s.n_blocks * info.block_size;
      SCOPED_TRACE(std::string(info.name) + ": " + std::to_string(s.n_out) + " x " + std::to_string(n_in) + " by " +
                   std::to_string(s.n_rows) + " rows");
      const auto rows = random_rows(info, n_in, s.n_out, random_);
      std::vector<float> weights(std::size_t{n_in} * s.n_out);
      info.decode(rows.data(), weights.data(), weights.size() / info.block_size);
      const auto x = activations(std::size_t{n_in} * s.n_rows), bias = activations(s.n_out);
      for (const bool has_bias : {false, true}) {
        const View y = room(std::size_t{s.n_out} * s.n_rows);
        gpu::Launches launches;
        gpu::linear(launches, {.view = give_weight(rows), .format = info.format, .n_in = n_in, .n_out = s.n_out},
                    has_bias ? give(bias) : View{}, give(x), s.n_rows, y);
        const auto actual = run(launches, y);
        for (unsigned r = 0; r < s.n_rows; ++r) {
          for (unsigned o = 0; o < s.n_out; ++o) {
            double sum = has_bias ? bias[o] : 0, magnitude = std::abs(sum), largest = 0;
            for (unsigned i = 0; i < n_in; ++i) {
              const double w = weights[std::size_t{o} * n_in + i], v = x[std::size_t{r} * n_in + i];
              sum += w * v;
              magnitude += std::abs(w * v);
              largest = std::max(largest, std::abs(w));
            }
            // A sum of n_in floats in any order, and weights that a fused multiplication and subtraction gives to another
            // last bit, of up to four times the row's largest weight.
            double of_weights = 0;
            for (unsigned i = 0; i < n_in; ++i) of_weights += 4 * largest * std::abs(double{x[std::size_t{r} * n_in + i]});
            const double allowed = (n_in + 4) * ulp * magnitude + 2 * ulp * of_weights + 1e-37;
            ASSERT_NEAR(actual[std::size_t{r} * s.n_out + o], sum, allowed) << "row " << r << ", output " << o;
          }
        }
      }
    }
  }
}

TEST_P(GpuOps, EmbeddingsInEveryFormat) {
  for (const quants::FormatInfo& info : quants::formats()) {
    SCOPED_TRACE(info.name);
    const unsigned width = info.block_size == 1 ? 70 : 2 * info.block_size;
    constexpr unsigned n_vocab = 5;
    const auto rows = random_rows(info, width, n_vocab, random_);
    std::vector<float> weights(std::size_t{width} * n_vocab);
    info.decode(rows.data(), weights.data(), weights.size() / info.block_size);
    const std::vector<std::int32_t> tokens{4, 0, 4, 2};
    const View y = room(tokens.size() * width);
    gpu::Launches launches;
    gpu::embed(launches, {.view = give_weight(rows), .format = info.format, .n_in = width, .n_out = n_vocab}, give(tokens),
               4, 3.0F, y);
    const auto actual = run(launches, y);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      for (unsigned i = 0; i < width; ++i) {
        const unsigned block = i / 32 * 32;
        double most = 0;
        for (unsigned k = block; k < std::min(block + 32, width); ++k) {
          most = std::max<double>(most, std::abs(weights[static_cast<std::size_t>(tokens[t]) * width + k]));
        }
        const double expected = 3.0 * weights[static_cast<std::size_t>(tokens[t]) * width + i];
        ASSERT_NEAR(actual[t * width + i], expected, 3 * 8 * ulp * most) << "token " << t << ", element " << i;
      }
    }
  }
}

TEST_P(GpuOps, Norms) {
  for (const unsigned group : {1U, 33U, 64U, 1000U}) {
    for (const unsigned n_groups : {1U, 5U}) {
      SCOPED_TRACE(std::to_string(n_groups) + " groups of " + std::to_string(group));
      const auto x = activations(std::size_t{group} * n_groups), weight = activations(group);
      const View y = room(x.size());
      gpu::Launches launches;
      gpu::rms_norm(launches, give(x), give(weight), group, n_groups, 1e-5F, y);
      const auto actual = run(launches, y);
      for (unsigned g = 0; g < n_groups; ++g) {
        double squares = 0;
        for (unsigned i = 0; i < group; ++i) squares += std::pow(double{x[std::size_t{g} * group + i]}, 2);
        const double scale = 1 / std::sqrt(squares / group + double{1e-5F});
        for (unsigned i = 0; i < group; ++i) {
          const double expected = x[std::size_t{g} * group + i] * scale * weight[i];
          // A float sum of group squares, half of whose error remains under the root, and five roundings.
          ASSERT_NEAR(actual[std::size_t{g} * group + i], expected, (group / 2.0 + 8) * ulp * std::abs(expected) + 1e-37)
              << "group " << g << ", element " << i;
        }
      }
    }
  }
}

TEST_P(GpuOps, RotationsOfPairs) {
  // A token at `first` + t turns pair i by position * frequency[i]; `turns` holds frequencies in turns a position.
  for (const bool halves : {false, true}) {
    for (const std::uint32_t n_rot : {64U, 20U}) {
      SCOPED_TRACE(std::string(halves ? "halves" : "neighbours") + ", " + std::to_string(n_rot) + " of 64 elements");
      plan::Rope op;
      op.head_dim = 64;
      op.n_rot = n_rot;
      op.pairing = halves ? plan::RopePairing::halves : plan::RopePairing::adjacent;
      constexpr std::uint32_t width = 128, n_tokens = 3, first = 100000;
      std::vector<float> turns;
      std::vector<double> exact;
      for (unsigned i = 0; i < n_rot / 2; ++i) {
        const double turn = std::pow(10000.0, -2.0 * i / n_rot) / (2 * 3.14159265358979323846);
        const auto high = static_cast<float>(turn);
        const auto low = static_cast<float>(turn - high);
        exact.push_back(turn);
        turns.insert(turns.end(), {high, low, 1.0F, 0.0F});
      }
      const auto x = activations(std::size_t{width} * n_tokens);
      const View y = room(x.size());
      gpu::Launches launches;
      gpu::rope(launches, give(positions(first, n_tokens)), give(turns), op, width, n_tokens, give(x), y);
      const auto actual = run(launches, y);
      for (std::size_t t = 0; t < n_tokens; ++t) {
        for (std::size_t at = 0; at < width; at += 64) {
          const std::size_t base = t * width + at;
          for (unsigned i = n_rot; i < 64; ++i) ASSERT_EQ(actual[base + i], x[base + i]);
          for (unsigned i = 0; i < n_rot / 2; ++i) {
            const std::size_t a = base + (halves ? i : 2 * i), b = base + (halves ? i + n_rot / 2 : 2 * i + 1);
            const double turn = exact[i] * static_cast<double>(first + t);
            const double angle = (turn - std::floor(turn)) * 2 * 3.14159265358979323846;
            const double expected_a = x[a] * std::cos(angle) - x[b] * std::sin(angle);
            const double expected_b = x[a] * std::sin(angle) + x[b] * std::cos(angle);
            // rotation.h: angles are right to about 1e-7 of a turn.
            const double allowed = (2 * 3.15 * 1e-7 + 4 * ulp) * (std::abs(x[a]) + std::abs(x[b])) + 1e-37;
            ASSERT_NEAR(actual[a], expected_a, allowed) << "token " << t << ", pair " << i;
            ASSERT_NEAR(actual[b], expected_b, allowed) << "token " << t << ", pair " << i;
          }
        }
      }
    }
  }
}

TEST_P(GpuOps, AttentionOverACache) {
  struct Shape {
    std::uint32_t n_heads, n_kv_heads, head_dim, first, n_tokens, window, n_splits;
    float soft_cap = 0;
    bool sinks = false;
  };
  constexpr Shape shapes[] = {
      {1, 1, 64, 0, 1, 0, 1},        {4, 2, 80, 7, 3, 0, 2},           {3, 3, 96, 0, 9, 4, 1},
      {6, 2, 128, 30, 1, 0, 8},      {2, 1, 256, 20, 2, 5, 4},         {2, 1, 64, 300, 1, 0, 8},
      {4, 2, 64, 10, 3, 0, 2, 1.5F}, {4, 2, 64, 20, 1, 6, 4, 0, true}, {2, 2, 96, 3, 2, 0, 1, 30, true}};
  for (const Shape& s : shapes) {
    for (const KvType type : {KvType::f16, KvType::f32}) {
      SCOPED_TRACE(std::to_string(s.n_heads) + " heads of " + std::to_string(s.head_dim) + " after " +
                   std::to_string(s.first));
      const std::uint32_t capacity = s.first + s.n_tokens + 3, width = s.n_kv_heads * s.head_dim;
      std::normal_distribution<float> normal;
      const auto make = [&](std::size_t n) {
        std::vector<float> values(n);
        for (float& v : values) v = normal(random_);
        return values;
      };
      const auto q = make(std::size_t{s.n_tokens} * s.n_heads * s.head_dim);
      const auto k = make(std::size_t{capacity} * width), v = make(std::size_t{capacity} * width);
      const std::size_t element = type == KvType::f16 ? 2 : 4;
      const auto cache_memory = [&] {
        memories_.push_back(*device_->allocate(2 * element * capacity * width, "caches of two"));
        return View{memories_.back().get(), 0, 2 * element * capacity * width};
      };
      const gpu::CacheView cache{.keys = cache_memory(), .values = cache_memory(), .type = type, .capacity = capacity};
      plan::Attention op;
      op.n_heads = s.n_heads;
      op.n_kv_heads = s.n_kv_heads;
      op.head_dim = s.head_dim;
      op.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
      op.window = s.window;
      op.soft_cap = s.soft_cap;
      if (s.sinks) op.sinks = plan::VectorId{0};
      const auto sinks = make(s.n_heads);
      const View y = room(q.size());
      const View partial = room(gpu::attention_partial_bytes(op, s.n_tokens, s.n_splits) / 4);
      gpu::Launches launches;
      // What came before is written as a step of its own; positions after the step are never written.
      if (s.first > 0) {
        gpu::kv_write(launches, places(1, 0, s.first), give(k), give(v), width, s.head_dim, s.first, cache);
      }
      const gpu::RowPlaces rows = places(1, s.first, s.n_tokens);
      const auto from = [&](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(std::size_t{s.first} * width), all.end());
      };
      gpu::kv_write(launches, rows, give(from(k)), give(from(v)), width, s.head_dim, s.n_tokens, cache);
      gpu::attention(launches, rows, op, s.n_tokens, s.n_splits, give(q), cache, s.sinks ? give(sinks) : View{}, partial,
                     y);
      const auto actual = run(launches, y);
      const auto cached = [&](float x) { return double{type == KvType::f16 ? f16_to_f32(f32_to_f16(x)) : x}; };
      for (std::uint32_t t = 0; t < s.n_tokens; ++t) {
        const std::uint32_t position = s.first + t;
        for (std::uint32_t h = 0; h < s.n_heads; ++h) {
          const std::size_t row = (std::size_t{t} * s.n_heads + h) * s.head_dim;
          const std::size_t head = std::size_t{h / (s.n_heads / s.n_kv_heads)} * s.head_dim;
          const auto of = [&](const std::vector<float>& all) {
            return [&, head](std::size_t at, std::size_t i) { return cached(all[at * width + head + i]); };
          };
          const ExactAttention exact = exact_attention(std::span(q).subspan(row, s.head_dim), position, s.window, op.scale,
                                                       of(k), of(v), s.soft_cap, s.sinks ? sinks[h] : -HUGE_VAL);
          for (std::uint32_t i = 0; i < s.head_dim; ++i) {
            ASSERT_NEAR(actual[row + i], exact.out[i], exact.of_float() * exact.absolute[i] + 1e-37)
                << "token " << t << ", head " << h << ", element " << i;
          }
        }
      }
    }
  }
}

TEST_P(GpuOps, GatedActivations) {
  struct Kind {
    plan::Activation activation;
    std::function<double(double)> value;
  };
  const Kind kinds[] = {
      {plan::Activation::silu, [](double x) { return x / (1 + std::exp(-x)); }},
      {plan::Activation::gelu_tanh,
       [](double x) { return 0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))); }},
      {plan::Activation::gelu_erf, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }},
      {plan::Activation::relu, [](double x) { return std::max(x, 0.0); }}};
  for (const Kind& kind : kinds) {
    for (const unsigned n : {1U, 129U, 1000U}) {
      SCOPED_TRACE("activation " + std::to_string(static_cast<int>(kind.activation)) + ", " + std::to_string(n));
      auto gate = activations(n);
      const auto up = activations(n);
      for (unsigned i = 0; i < n; i += 7) gate[i] *= 5;
      const View y = room(n);
      gpu::Launches launches;
      gpu::gated(launches, give(gate), give(up), n, kind.activation, y);
      const auto actual = run(launches, y);
      for (unsigned i = 0; i < n; ++i) {
        const double expected = kind.value(gate[i]) * up[i];
        // An exponent of x is off by |x| ulp where x is rounded before; where a kernel adds to 1 what cancels, by an ulp of
        // the argument.
        const double x = std::abs(double{gate[i]});
        const double allowed = (16 + 4 * std::min(x, 100.0)) * ulp * std::abs(expected) +
                               8 * ulp * std::min(x, 10.0) * std::abs(up[i]) + 1e-37;
        ASSERT_NEAR(actual[i], expected, allowed) << "element " << i << ", gate " << gate[i];
      }
    }
  }
}

TEST_P(GpuOps, Sums) {
  for (const unsigned n : {1U, 31U, 128U, 1000U}) {
    SCOPED_TRACE(n);
    const auto a = activations(n), b = activations(n);
    const View y = room(n);
    gpu::Launches launches;
    gpu::add(launches, give(a), give(b), n, y);
    const auto actual = run(launches, y);
    for (unsigned i = 0; i < n; ++i) ASSERT_EQ(actual[i], a[i] + b[i]) << "element " << i;
  }
}

TEST_P(GpuOps, SoftCaps) {
  for (const float cap : {0.5F, 30.0F, 1e4F}) {
    const auto x = activations(1000);
    const View y = room(x.size());
    gpu::Launches launches;
    gpu::soft_cap(launches, give(x), static_cast<std::uint32_t>(x.size()), cap, y);
    const auto actual = run(launches, y);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = double{cap} * std::tanh(double{x[i]} / cap);
      ASSERT_NEAR(actual[i], expected, 16 * ulp * std::abs(expected) + 1e-37) << "element " << i << ", " << x[i];
    }
  }
}

TEST_P(GpuOps, TheLargestOfRows) {
  for (const unsigned n : {1U, 8U, 60U, 1000U}) {
    for (const unsigned k : {1U, 4U, 40U}) {
      if (k > n) continue;
      SCOPED_TRACE(std::to_string(k) + " of " + std::to_string(n));
      constexpr unsigned n_rows = 5;
      auto x = activations(std::size_t{n} * n_rows);
      for (unsigned i = 0; i < n; ++i) x[i] = static_cast<float>(i % 3);  // equals
      for (unsigned i = n; i < 2 * n; ++i) x[i] = -HUGE_VALF;
      for (unsigned i = 2 * n; i < 3 * n; i += 2) x[i] = NAN;
      const View indices = room(std::size_t{k} * n_rows);
      gpu::Launches launches;
      gpu::top_k(launches, give(x), n, n_rows, k, indices);
      const auto actual = run(launches, indices);
      for (unsigned r = 0; r < n_rows; ++r) {
        std::vector<unsigned> order(n);
        std::iota(order.begin(), order.end(), 0U);
        const auto rank = [&](unsigned i) {
          const float v = x[std::size_t{r} * n + i];
          return v > -HUGE_VALF ? v : -HUGE_VALF;
        };
        std::stable_sort(order.begin(), order.end(), [&](unsigned a, unsigned b) { return rank(a) > rank(b); });
        for (unsigned j = 0; j < k; ++j) ASSERT_EQ(actual[std::size_t{r} * k + j], static_cast<float>(order[j])) << r;
      }
    }
  }
}

TEST_P(GpuOps, WeightsOfExperts) {
  constexpr unsigned n = 40, k = 6, n_rows = 3;
  std::vector<float> logits(std::size_t{n} * n_rows), experts;
  std::normal_distribution<float> normal;
  for (float& x : logits) x = 5 * normal(random_);
  for (unsigned i = 0; i < k * n_rows; ++i) experts.push_back(static_cast<float>(i * 7 % n));
  for (const auto gating :
       {plan::Gating::softmax, plan::Gating::softmax_of_chosen, plan::Gating::sigmoid, plan::Gating::sigmoid_normalized}) {
    SCOPED_TRACE(static_cast<int>(gating));
    const View y = room(experts.size());
    gpu::Launches launches;
    gpu::expert_weights(launches, give(logits), n, give(experts), k, n_rows, gating, 2.5F, y);
    const auto actual = run(launches, y);
    const bool softmax = gating == plan::Gating::softmax || gating == plan::Gating::softmax_of_chosen;
    const auto gate = [&](double x) { return softmax ? std::exp(x) : 1 / (1 + std::exp(-x)); };
    for (unsigned r = 0; r < n_rows; ++r) {
      const auto logit = [&](unsigned j) { return logits[r * n + static_cast<unsigned>(experts[r * k + j])]; };
      double total = gating == plan::Gating::sigmoid ? 1 : 0;
      if (gating == plan::Gating::softmax) {
        for (unsigned e = 0; e < n; ++e) total += gate(logits[r * n + e]);
      } else if (gating != plan::Gating::sigmoid) {
        for (unsigned j = 0; j < k; ++j) total += gate(logit(j));
      }
      for (unsigned j = 0; j < k; ++j) {
        const double expected = 2.5 * gate(logit(j)) / total;
        // Logits up to some 20 apart: exp of a difference is off by that many units, twice.
        ASSERT_NEAR(actual[r * k + j], expected, 100 * ulp * expected) << "row " << r << ", expert " << j;
      }
    }
  }
}

TEST_P(GpuOps, ProductsWithExpertsAndTheirSum) {
  constexpr unsigned n_experts = 5, k = 3, n_rows = 4, n_out = 9;
  for (const quants::FormatInfo& info : quants::formats()) {
    for (const bool in_parts : {false, true}) {
      SCOPED_TRACE(std::string(info.name) + (in_parts ? ", a part of x for each" : ", one x for all"));
      const unsigned n_in = info.block_size == 1 ? 45 : 2 * info.block_size;
      const auto rows = random_rows(info, n_in, n_out * n_experts, random_);
      std::vector<float> weights(std::size_t{n_in} * n_out * n_experts);
      info.decode(rows.data(), weights.data(), weights.size() / info.block_size);
      std::normal_distribution<float> normal;
      const auto make = [&](std::size_t n) {
        std::vector<float> values(n);
        for (float& v : values) v = normal(random_);
        return values;
      };
      const auto x = make(std::size_t{n_rows} * n_in * (in_parts ? k : 1)), bias = make(n_experts * n_out);
      const auto shares = make(n_rows * k);
      std::vector<float> experts;
      for (unsigned i = 0; i < n_rows * k; ++i) experts.push_back(static_cast<float>((3 * i + i / k) % n_experts));
      const View y = room(n_rows * k * n_out), sum = room(n_rows * n_out);
      gpu::Launches launches;
      const gpu::WeightView w{
          .view = give_weight(rows), .format = info.format, .n_in = n_in, .n_out = n_out, .n_experts = n_experts};
      gpu::expert_linear(launches, w, give(bias), give(experts), give(x), in_parts ? 1 : k, n_rows * k, y);
      gpu::expert_sum(launches, y, give(shares), n_out, k, n_rows, sum);
      const auto summed = run(launches, sum);
      const auto actual = run({}, y);
      for (unsigned i = 0; i < n_rows * k; ++i) {
        const auto expert = static_cast<unsigned>(experts[i]);
        const float* of_row = x.data() + std::size_t{in_parts ? i : i / k} * n_in;
        for (unsigned o = 0; o < n_out; ++o) {
          double expected = bias[expert * n_out + o], magnitude = std::abs(expected), largest = 0, of_x = 0;
          for (unsigned c = 0; c < n_in; ++c) {
            const double weight = weights[(std::size_t{expert} * n_out + o) * n_in + c];
            expected += weight * of_row[c];
            magnitude += std::abs(weight * of_row[c]);
            largest = std::max(largest, std::abs(weight));
            of_x += std::abs(of_row[c]);
          }
          ASSERT_NEAR(actual[i * n_out + o], expected, (n_in + 4) * ulp * magnitude + 8 * ulp * largest * of_x + 1e-37)
              << "product " << i << ", output " << o;
        }
      }
      for (unsigned r = 0; r < n_rows; ++r) {
        for (unsigned o = 0; o < n_out; ++o) {
          double expected = 0, magnitude = 0;
          for (unsigned j = 0; j < k; ++j) {
            const double term = double{shares[r * k + j]} * actual[(r * k + j) * n_out + o];
            expected += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(summed[r * n_out + o], expected, (k + 2) * ulp * magnitude + 1e-37) << "row " << r << ", " << o;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, GpuOps, testing::Values("checker", "cuda", "metal"),
                         [](const auto& device) { return std::string(device.param); });

}  // namespace
}  // namespace plumb::backends
