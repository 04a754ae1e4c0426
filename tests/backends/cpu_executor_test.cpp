// The cpu backend's executor: random small plans against the reference, bits that do not depend on threads, watching,
// errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "backends/cpu/cpu.h"
#include "backends/reference/reference.h"
#include "quants/format.h"

namespace plumb::backends {
namespace {

using testing::HasSubstr;

struct Shape {
  std::uint32_t vocab = 40;
  std::uint32_t d = 48;
  std::uint32_t n_layers = 2;
  std::uint32_t n_heads = 6;
  std::uint32_t n_kv_heads = 2;
  std::uint32_t head_dim = 10;
  std::uint32_t n_rot = 6;
  std::uint32_t d_ff = 80;
  std::uint32_t window = 0;
  plan::RopePairing pairing = plan::RopePairing::adjacent;
  plan::Activation activation = plan::Activation::silu;
  bool bias = false;
  bool yarn = false;
  quants::Format format = quants::Format::f32;  // of the matrices
};

// A plan over weights of its own, of a transformer's shape but for what Shape varies.
class SmallModel {
 public:
  explicit SmallModel(const Shape& shape, std::uint32_t seed = 1) : random_(seed) {
    plan::Builder builder({shape.n_layers, shape.n_kv_heads, shape.head_dim});
    const std::uint32_t q_width = shape.n_heads * shape.head_dim;
    const std::uint32_t kv_width = shape.n_kv_heads * shape.head_dim;
    const auto matrix = [&](std::string name, std::uint32_t out, std::uint32_t in) {
      return builder.weight(tensor(std::move(name), shape.format, {in, out}, 1.0f / std::sqrt(static_cast<float>(in))));
    };
    const auto vector = [&](std::string name, std::uint32_t n) {
      return builder.weight(tensor(std::move(name), quants::Format::f32, {n}, 1.0f));
    };
    plan::ValueId x = builder.embed(
        "token_embd", builder.weight(tensor("token_embd.weight", quants::Format::f16, {shape.d, shape.vocab}, 1.0f)), 1.5f);
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
      const std::string blk = fmt::format("blk.{}.", layer);
      const auto bias = [&](const std::string& name, std::uint32_t n) {
        return shape.bias ? std::optional(vector(name, n)) : std::nullopt;
      };
      plan::Rope rope;
      rope.head_dim = shape.head_dim;
      rope.n_rot = shape.n_rot;
      rope.pairing = shape.pairing;
      rope.theta = 1000.0f;
      if (shape.yarn) {
        rope.position_scale = 0.25f;
        rope.yarn = plan::Yarn{.factor = 4, .original_context = 64, .attention_factor = 1.1f};
        rope.factors = builder.weight(tensor("rope_freqs.weight", quants::Format::f32, {shape.n_rot / 2}, 0.0f, 1.5f));
      }
      const auto norm = builder.rms_norm(blk + "attn_norm", x, vector(blk + "attn_norm.weight", shape.d), 1e-5f);
      const auto q = builder.linear(blk + "attn_q", norm, matrix(blk + "attn_q.weight", q_width, shape.d),
                                    bias(blk + "attn_q.bias", q_width));
      const auto k = builder.linear(blk + "attn_k", norm, matrix(blk + "attn_k.weight", kv_width, shape.d),
                                    bias(blk + "attn_k.bias", kv_width));
      const auto v = builder.linear(blk + "attn_v", norm, matrix(blk + "attn_v.weight", kv_width, shape.d));
      const auto q_norm = builder.rms_norm(blk + "attn_q_norm", q, vector(blk + "q_norm.weight", shape.head_dim), 1e-6f);
      const auto q_rope = builder.rope(blk + "attn_q_rope", q_norm, rope);
      const auto k_rope = builder.rope(blk + "attn_k_rope", k, rope);
      builder.kv_write(layer, k_rope, v);
      plan::Attention attention;
      attention.layer = layer;
      attention.n_heads = shape.n_heads;
      attention.n_kv_heads = shape.n_kv_heads;
      attention.head_dim = shape.head_dim;
      attention.scale = 0.3f;
      attention.window = shape.window;
      const auto ctx = builder.attention(blk + "attn_ctx", q_rope, attention);
      const auto out = builder.linear(blk + "attn_out", ctx, matrix(blk + "attn_output.weight", shape.d, q_width));
      x = builder.add(blk + "attn_resid", x, out);
      const auto ffn_norm = builder.rms_norm(blk + "ffn_norm", x, vector(blk + "ffn_norm.weight", shape.d), 1e-5f);
      const auto gate = builder.linear(blk + "ffn_gate", ffn_norm, matrix(blk + "ffn_gate.weight", shape.d_ff, shape.d));
      const auto up = builder.linear(blk + "ffn_up", ffn_norm, matrix(blk + "ffn_up.weight", shape.d_ff, shape.d));
      const auto act = builder.gated(blk + "ffn_act", gate, up, shape.activation);
      const auto down = builder.linear(blk + "ffn_down", act, matrix(blk + "ffn_down.weight", shape.d, shape.d_ff));
      x = builder.add(blk + "output", x, down);
    }
    const auto norm = builder.rms_norm("output_norm", x, vector("output_norm.weight", shape.d), 1e-5f);
    const auto logits =
        builder.linear("logits", norm, matrix("output.weight", shape.vocab, shape.d), {}, plan::Rows::outputs);
    auto made = builder.finish(logits, 512);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    plan = std::make_shared<plan::Plan>(std::move(*made));
  }

  std::shared_ptr<const plan::Plan> plan;

 private:
  gguf::Tensor tensor(std::string name, quants::Format format, std::vector<std::uint64_t> dims, float deviation,
                      float mean = 0) {
    const quants::FormatInfo& info = quants::info(format);
    std::uint64_t n = 1;
    for (const std::uint64_t dim : dims) n *= dim;
    std::normal_distribution<float> normal(mean, deviation > 0 ? deviation : 0.1f);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    auto& bytes = bytes_.emplace_back(info.row_bytes(n));
    info.encode(values.data(), bytes.data(), n / info.block_size);
    gguf::Tensor result;
    result.name = names_.emplace_back(std::move(name));
    result.format = format;
    result.n_dims = static_cast<std::uint32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), result.dims.begin());
    result.data = bytes;
    return result;
  }

  std::mt19937 random_;
  std::deque<std::string> names_;
  std::deque<std::vector<std::byte>> bytes_;
};

std::unique_ptr<Executor> load(const SmallModel& model, Backend& backend, std::uint32_t n_threads = 2) {
  auto executor = backend.load(model.plan, {.n_threads = n_threads, .max_batch = 256});
  EXPECT_TRUE(executor) << (executor ? "" : executor.error().message);
  return std::move(*executor);
}

std::unique_ptr<KvCache> cache_for(Executor& executor, std::uint32_t capacity = 400, KvType type = KvType::f32) {
  return std::move(*executor.new_cache(capacity, type));
}

std::vector<TokenId> some_tokens(std::size_t n) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = static_cast<TokenId>((i * i + 3 * i + 1) % 40);
  return tokens;
}

// The logits of the tokens fed in steps of the given lengths, one row a token.
std::vector<float> logits_of(Executor& executor, KvCache& cache, std::span<const TokenId> tokens,
                             const std::vector<std::size_t>& steps) {
  std::vector<float> all;
  std::size_t at = 0;
  for (const std::size_t n : steps) {
    const auto logits = executor.run({&cache, tokens.subspan(at, n), Outputs::all});
    EXPECT_TRUE(logits) << (logits ? "" : logits.error().message);
    all.insert(all.end(), logits->begin(), logits->end());
    at += n;
  }
  return all;
}

void expect_close(const std::vector<float>& actual, const std::vector<float>& expected, double relative) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * largest) << i << " of " << actual.size();
  }
}

class CpuExecutor : public testing::TestWithParam<Isa> {
 protected:
  std::unique_ptr<Backend> cpu = make_cpu(GetParam());
  std::unique_ptr<Backend> reference = make_reference();

  void compare(const Shape& shape, const std::vector<std::size_t>& steps, KvType type = KvType::f32) {
    const SmallModel model(shape);
    std::size_t n = 0;
    for (const std::size_t step : steps) n += step;
    const std::vector<TokenId> tokens = some_tokens(n);
    const auto executor = load(model, *cpu);
    const auto cache = cache_for(*executor, 400, type);
    const auto expected_by = load(model, *reference);
    const auto expected_cache = cache_for(*expected_by, 400, type);
    const std::vector<float> actual = logits_of(*executor, *cache, tokens, steps);
    const std::vector<float> expected = logits_of(*expected_by, *expected_cache, tokens, steps);
    // Float32 weights: rounding of float32 sums only, through two layers. A cache of F16 rounds values that differ in the
    // last place to different halves now and then.
    expect_close(actual, expected, type == KvType::f32 ? 2e-5 : 5e-3);
    EXPECT_EQ(cache->length(), n);
  }
};

TEST_P(CpuExecutor, AgreesWithTheReferenceOnSmallPlans) {
  compare({}, {1, 1, 2, 5, 17, 1, 3});
  compare({}, {200, 1, 1, 4, 100});
  Shape shape;
  shape.pairing = plan::RopePairing::halves;
  shape.window = 5;
  shape.bias = true;
  shape.activation = plan::Activation::gelu_tanh;
  compare(shape, {1, 9, 3, 40, 1});
  shape.window = 130;
  compare(shape, {150, 150, 1, 2});
  shape.n_kv_heads = 1;
  shape.head_dim = shape.n_rot = 16;
  shape.yarn = true;
  shape.activation = plan::Activation::relu;
  compare(shape, {33, 1});
  shape.n_kv_heads = shape.n_heads;
  shape.head_dim = 36;
  shape.activation = plan::Activation::gelu_erf;
  compare(shape, {2, 129, 1}, KvType::f16);
}

TEST_P(CpuExecutor, AgreesWithTheReferenceOnQuantizedWeightsWithinTheRoundingOfActivations) {
  for (const quants::FormatInfo& format : quants::formats()) {
    if (format.encode == nullptr) continue;
    SCOPED_TRACE(format.name);
    Shape shape;
    shape.d = shape.d_ff = 256;
    shape.n_heads = 4;
    shape.n_kv_heads = 2;
    shape.head_dim = 64;
    shape.n_rot = 64;
    shape.n_layers = 1;
    shape.format = format.format;
    const SmallModel model(shape);
    const std::vector<TokenId> tokens = some_tokens(25);
    const auto executor = load(model, *cpu);
    const auto cache = cache_for(*executor);
    const auto expected_by = load(model, *reference);
    const auto expected_cache = cache_for(*expected_by);
    const std::vector<std::size_t> steps{1, 20, 3, 1};
    // Steps of amax/127 have a standard deviation of amax/440, about 1 % of a normal variable's; seven products follow each
    // other, each adding to the variance.
    expect_close(logits_of(*executor, *cache, tokens, steps), logits_of(*expected_by, *expected_cache, tokens, steps),
                 0.06);
  }
}

TEST_P(CpuExecutor, BitsDoNotDependOnTheNumberOfThreads) {
  for (const quants::Format format : {quants::Format::f32, quants::Format::q8_0, quants::Format::q6_k}) {
    Shape shape;
    shape.d = shape.d_ff = 256;
    shape.n_heads = 4;
    shape.head_dim = 64;
    shape.n_rot = 64;
    shape.format = format;
    const SmallModel model(shape);
    const std::vector<TokenId> tokens = some_tokens(180);
    std::vector<float> expected;
    for (const std::uint32_t n_threads : {1u, 2u, 5u}) {
      const auto executor = load(model, *cpu, n_threads);
      for (int round = 0; round < 2; ++round) {
        const auto cache = cache_for(*executor);
        const std::vector<float> logits = logits_of(*executor, *cache, tokens, {1, 150, 1, 3, 24, 1});
        if (expected.empty()) expected = logits;
        ASSERT_EQ(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)), 0) << n_threads;
      }
    }
  }
}

TEST_P(CpuExecutor, TheLastRowOfAStepIsTheSameAskedForAlone) {
  for (const quants::Format format : {quants::Format::f32, quants::Format::q8_0, quants::Format::q6_k}) {
    Shape shape;
    shape.d = shape.d_ff = 256;
    shape.n_heads = 4;
    shape.head_dim = 64;
    shape.format = format;
    const SmallModel model(shape);
    const auto executor = load(model, *cpu);
    const auto cache = cache_for(*executor);
    const std::vector<TokenId> tokens = some_tokens(21);
    const std::vector<float> all = logits_of(*executor, *cache, tokens, {21});
    cache->truncate(0);
    const auto last = executor->run({cache.get(), tokens, Outputs::last});
    ASSERT_TRUE(last);
    ASSERT_EQ(last->size(), 40);
    expect_close({last->begin(), last->end()}, {all.end() - 40, all.end()}, 1e-5);
  }
}

TEST_P(CpuExecutor, ATruncatedCacheContinuesAsIfTheRestHadNotBeen) {
  const SmallModel model({});
  const auto executor = load(model, *cpu);
  const auto cache = cache_for(*executor);
  const std::vector<TokenId> tokens = some_tokens(140);
  const std::vector<float> expected = logits_of(*executor, *cache, tokens, {135, 1});
  cache->truncate(60);
  static_cast<void>(logits_of(*executor, *cache, tokens, {9}));
  cache->truncate(0);
  EXPECT_EQ(logits_of(*executor, *cache, tokens, {135, 1}), expected);
}

struct Seen {
  std::string name;
  std::uint64_t rows;
  std::uint64_t width;
  std::vector<float> data;
};

std::vector<Seen> watch(Executor& executor, std::span<const TokenId> tokens, Outputs outputs, const Wanted& wanted) {
  std::vector<Seen> seen;
  executor.watch(wanted, [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data) {
    seen.push_back({std::string(name), rows, width, {data.begin(), data.end()}});
  });
  const auto cache = cache_for(executor);
  EXPECT_TRUE(executor.run({cache.get(), tokens.first(3), outputs}));
  seen.clear();
  EXPECT_TRUE(executor.run({cache.get(), tokens.subspan(3), outputs}));
  executor.unwatch();
  return seen;
}

TEST_P(CpuExecutor, ShowsTheValuesThatTheReferenceShows) {
  Shape shape;
  shape.window = 8;
  const SmallModel model(shape);
  const auto executor = load(model, *cpu);
  const auto expected_by = load(model, *reference);
  const std::vector<TokenId> tokens = some_tokens(15);
  for (const Outputs outputs : {Outputs::all, Outputs::last}) {
    const std::vector<Seen> actual = watch(*executor, tokens, outputs, {});
    const std::vector<Seen> expected = watch(*expected_by, tokens, outputs, {});
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      SCOPED_TRACE(expected[i].name);
      EXPECT_EQ(actual[i].name, expected[i].name);
      EXPECT_EQ(actual[i].rows, expected[i].rows);
      EXPECT_EQ(actual[i].width, expected[i].width);
      expect_close(actual[i].data, expected[i].data, 2e-5);
    }
  }
}

TEST_P(CpuExecutor, WatchingSelectsByNameAndChangesNoBits) {
  const SmallModel model({});
  const auto executor = load(model, *cpu);
  const std::vector<TokenId> tokens = some_tokens(12);
  const auto cache = cache_for(*executor);
  const std::vector<float> expected = logits_of(*executor, *cache, tokens, {3, 9});
  const std::vector<Seen> seen =
      watch(*executor, tokens, Outputs::all, [](std::string_view name) { return name == "logits"; });
  ASSERT_EQ(seen.size(), 1);
  EXPECT_EQ(seen[0].data, std::vector<float>(expected.end() - 9 * 40, expected.end()));
}

TEST_P(CpuExecutor, ErrorsLeaveTheCacheAsItWas) {
  const SmallModel model({});
  const auto executor = load(model, *cpu);
  const auto other = load(model, *cpu);
  const auto cache = cache_for(*executor, 10);
  const auto foreign = cache_for(*other, 10);
  const std::vector<TokenId> tokens = some_tokens(8);
  ASSERT_TRUE(executor->run({cache.get(), tokens, Outputs::last}));
  const auto fails = [&](const Step& step, std::string_view says) {
    const auto result = executor->run(step);
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message, HasSubstr(says));
    EXPECT_EQ(cache->length(), 8);
  };
  const std::vector<TokenId> outside{40};
  const std::vector<TokenId> negative{-1};
  fails({cache.get(), {}, Outputs::last}, "at least one token");
  fails({cache.get(), outside, Outputs::last}, "vocabulary");
  fails({cache.get(), negative, Outputs::last}, "vocabulary");
  fails({cache.get(), std::span(tokens).first(3), Outputs::last}, "fit");
  fails({foreign.get(), std::span(tokens).first(1), Outputs::last}, "another executor");
  fails({nullptr, std::span(tokens).first(1), Outputs::last}, "another executor");
  const auto long_cache = cache_for(*executor, 1000);
  fails({long_cache.get(), some_tokens(257), Outputs::last}, "256");
  EXPECT_EQ(long_cache->length(), 0);
  ASSERT_TRUE(executor->run({cache.get(), std::span(tokens).first(2), Outputs::last}));
}

std::string isa_name(const testing::TestParamInfo<Isa>& info) {
  return info.param == Isa::scalar ? "scalar" : info.param == Isa::avx2 ? "avx2" : "avx512";
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuExecutor, testing::ValuesIn(cpu_isas()), isa_name);

TEST(CpuBackend, RefusesAnAbsurdNumberOfThreads) {
  const SmallModel model({});
  const auto executor = make_cpu()->load(model.plan, {.n_threads = 1'000'000});
  ASSERT_FALSE(executor);
  EXPECT_THAT(executor.error().message, HasSubstr("1000000 threads"));
}

TEST(CpuBackend, DescribesItself) {
  EXPECT_EQ(make_cpu()->name(), "cpu");
  EXPECT_THAT(make_cpu(Isa::scalar)->description(), HasSubstr("scalar, "));
  EXPECT_THAT(make_cpu()->description(), HasSubstr(" thread"));
}

}  // namespace
}  // namespace plumb::backends
