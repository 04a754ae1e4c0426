// The cpu backend's executor: random small plans against the reference, bits that do not depend on threads, watching,
// errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/cpu.h"
#include "backends/reference/reference.h"
#include "backends/small_model.h"
#include "quants/format.h"

namespace plumb::backends {
namespace {

using testing::HasSubstr;

class CpuExecutor : public testing::TestWithParam<Isa> {
 protected:
  std::unique_ptr<Backend> cpu = make_cpu(GetParam());
  std::unique_ptr<Backend> reference = make_reference();

  void compare(const ModelShape& shape, const std::vector<std::size_t>& steps, KvType type = KvType::f32) {
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
  ModelShape shape;
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

TEST_P(CpuExecutor, AgreesWithTheReferenceOnSoftCapsSinksAndExperts) {
  ModelShape shape;
  shape.soft_cap = 2;
  compare(shape, {1, 9, 3, 140, 1});
  shape.sinks = true;
  shape.window = 40;
  compare(shape, {1, 9, 3, 140, 1});
  shape.soft_cap = 0;
  compare(shape, {1, 9, 3, 140, 1});
  shape.n_experts = 8;
  shape.n_used = 3;
  for (const auto gating :
       {plan::Gating::softmax, plan::Gating::softmax_of_chosen, plan::Gating::sigmoid, plan::Gating::sigmoid_normalized}) {
    shape.gating = gating;
    shape.bias = !shape.bias;
    compare(shape, {1, 9, 3, 20, 1});
  }
}

TEST_P(CpuExecutor, AgreesWithTheReferenceOnQuantizedWeightsWithinTheRoundingOfActivations) {
  for (const quants::FormatInfo& format : quants::formats()) {
    if (format.encode == nullptr) continue;
    for (const std::uint32_t n_experts : {0U, 4U}) {
      SCOPED_TRACE(std::string(format.name) + (n_experts > 0 ? " with experts" : ""));
      ModelShape shape;
      shape.n_experts = n_experts;
      shape.n_used = 2;
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
      // Steps of amax/127 have a standard deviation of amax/440, about 1 % of a normal variable's; seven products follow
      // each other, each adding to the variance.
      expect_close(logits_of(*executor, *cache, tokens, steps), logits_of(*expected_by, *expected_cache, tokens, steps),
                   0.06);
    }
  }
}

TEST_P(CpuExecutor, BitsDoNotDependOnTheNumberOfThreads) {
  for (const quants::Format format : {quants::Format::f32, quants::Format::q8_0, quants::Format::q6_k}) {
    ModelShape shape;
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
    ModelShape shape;
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
  ModelShape shape;
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

TEST_P(CpuExecutor, RunsSequencesTogetherAsAlone) {
  ModelShape shape;
  for (const KvType type : {KvType::f32, KvType::f16}) {
    for (const std::uint32_t window : {0u, 20u}) {
      shape.window = window;
      const SmallModel model(shape);
      const auto executor = load(model, *cpu);
      expect_batches_as_alone(*executor, *load(model, *reference), type, type == KvType::f32 ? 2e-5 : 5e-3);
    }
  }
}

// What sequences share is the weights: rows meet nowhere else, and the reference's sums have one order.
TEST(Reference, RunsSequencesTogetherAsAlone) {
  const SmallModel model({});
  const auto reference = make_reference();
  expect_batches_as_alone(*load(model, *reference), *load(model, *reference), KvType::f16, 0);
}

TEST_P(CpuExecutor, RefusesBatchesThatCannotBe) {
  const SmallModel model({});
  const auto executor = load(model, *cpu);
  auto caches = *executor->new_caches(2, 100, KvType::f32);
  const auto other = cache_for(*executor, 100);
  const std::vector<TokenId> tokens = some_tokens(90);
  const std::vector<TokenId> outside{40};
  KvCache* a = caches[0].get();
  KvCache* b = caches[1].get();
  const auto fails = [&](const std::vector<Step>& steps, std::string_view says) {
    const auto result = executor->run(steps);
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message, HasSubstr(says));
    for (const KvCache* cache : {a, b}) EXPECT_EQ(cache->length(), 0);
  };
  fails({}, "at least one sequence");
  fails({{a, tokens}, {other.get(), tokens}}, "made together");
  fails({{a, tokens}, {a, tokens}}, "the same KV cache");
  fails({{a, tokens}, {b, outside}}, "vocabulary");
  fails({{a, tokens}, {b, some_tokens(101)}}, "fit");
  fails({{a, tokens}, {b, {}}}, "at least one token");
  auto more = *executor->new_caches(3, 100, KvType::f32);
  fails({{more[0].get(), tokens}, {more[1].get(), tokens}, {more[2].get(), tokens}}, "270 tokens is longer than the 256");
}

TEST_P(CpuExecutor, GivesTheSameBitsInPoisonedMemory) {
  for (const quants::Format format : {quants::Format::f32, quants::Format::q8_0}) {
    ModelShape shape;
    shape.d = shape.d_ff = 64;
    shape.format = format;
    shape.window = 5;
    const SmallModel model(shape);
    const auto executor = load(model, *cpu);
    const auto tokens = some_tokens(200);
    const std::vector<std::size_t> steps{170, 1, 1, 26, 1, 1};
    const auto once = logits_of(*executor, *cache_for(*executor), tokens, steps);
    executor->poison_memory(true);
    EXPECT_EQ(logits_of(*executor, *cache_for(*executor), tokens, steps), once);
  }
}

TEST(ReferenceExecutor, TakesOnlyCachesOfItsOwnAndBatchesAsLoaded) {
  const SmallModel model({});
  const auto executor = load_reference(model.plan, {}, {.max_batch = 3});
  const auto foreign = cache_for(*load_reference(model.plan, {}));
  const auto ran = executor->run({foreign.get(), some_tokens(2), Outputs::last});
  ASSERT_FALSE(ran);
  EXPECT_THAT(ran.error().message, HasSubstr("another executor"));
  EXPECT_EQ(executor->max_batch(), 3);
  EXPECT_FALSE(executor->run({cache_for(*executor).get(), some_tokens(4), Outputs::last}));
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
