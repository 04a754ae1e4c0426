// The promises of every Executor besides its ops (op_test.cpp): sequences that run together, caches, memory, watching,
// errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/checker/checker.h"
#include "backends/cpu/cpu.h"
#include "backends/gpu/executor.h"
#include "backends/held.h"
#include "backends/reference/reference.h"
#include "backends/small_model.h"
#include "quants/format.h"

namespace plumb::backends {
namespace {

using quants::Format;
using testing::HasSubstr;

// Of sizes that tuned kernels and quantized formats take.
ModelShape shape_for(Format format, std::uint32_t d = 256) {
  ModelShape shape;
  shape.d = shape.d_ff = d;
  shape.n_heads = 4;
  shape.head_dim = shape.n_rot = 64;
  shape.format = format;
  return shape;
}

// Layers with heads of other numbers and sizes, the second of which reads the first's cache.
ModelShape heads_by_layer() {
  ModelShape shape;
  shape.layers = {{2, 10}, {}, {3, 16}};
  shape.n_layers = 3;
  return shape;
}

class Executors : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto made = way_.make();
    if (!made) GTEST_SKIP() << made.error().message;
    backend_ = std::move(*made);
  }
  [[nodiscard]] std::unique_ptr<Executor> load(const SmallModel& model, std::uint32_t n_threads = 2) const {
    LoadOptions options = way_.options;
    options.n_threads = n_threads;
    options.max_batch = 256;
    auto executor = backend_->load(model.plan, options);
    EXPECT_TRUE(executor) << (executor ? "" : executor.error().message);
    return std::move(*executor);
  }
  [[nodiscard]] bool is_emulated() const { return way_.name.starts_with("checker"); }
  // Formats that executors treat in their own ways; devices that are emulated take their time.
  [[nodiscard]] std::vector<Format> formats() const {
    return is_emulated() ? std::vector{Format::q8_0} : std::vector{Format::f32, Format::q8_0, Format::q6_k};
  }

  const Way& way_ = backends::way(GetParam());
  std::unique_ptr<Backend> backend_;
};

TEST_P(Executors, RunSequencesTogetherAsAlone) {
  const auto reference = make_reference();
  for (const KvType type : {KvType::f32, KvType::f16}) {
    ModelShape windowed, few;
    windowed.window = 20;
    few.d = few.d_ff = 64;
    for (const ModelShape& shape : {few, windowed, heads_by_layer(), shape_for(Format::q8_0, 64)}) {
      const SmallModel model(shape);
      const auto alone = backends::load(model, *reference);
      // Float sums may differ in the last place. Tuned kernels round activations, and an F16 cache sometimes rounds two
      // such values to different halves. The reference's sums have one order, so nothing differs.
      const bool exact = shape.format == Format::f32 && type == KvType::f32 && !way_.fused;
      expect_batches_as_alone(*load(model), *alone, type, way_.name == "reference" ? 0 : exact ? 2e-5 : 5e-3);
    }
  }
}

TEST_P(Executors, ReadTextsAsAWholeTogetherAsAlone) {
  const auto reference = make_reference();
  ModelShape shape;
  shape.causal = false;
  for (const std::uint32_t window : {0U, 8U}) {
    shape.window = window;
    const SmallModel model(shape);
    const auto executor = load(model), alone = backends::load(model, *reference);
    auto caches = *executor->new_caches(3, 60, KvType::f32);
    const auto tokens = some_tokens(60);
    std::vector<Step> steps;
    std::vector<float> expected;
    for (const std::size_t n : {std::size_t{7}, std::size_t{1}, std::size_t{30}}) {
      const std::size_t i = steps.size();
      steps.push_back({caches[i].get(), std::span(tokens).subspan(5 * i, n), i == 1 ? Outputs::last : Outputs::all});
      const auto cache = cache_for(*alone, 60);
      const auto one = logits_of(*alone, std::vector<Step>{{cache.get(), steps[i].tokens, steps[i].outputs}});
      expected.insert(expected.end(), one.begin(), one.end());
    }
    // Together, and one token each, which is recorded.
    expect_close(logits_of(*executor, steps), expected, way_.name == "reference" ? 0 : way_.fused ? 5e-3 : 2e-5);
    for (const auto& cache : caches) cache->truncate(0);
    const std::vector<Step> one_each{{caches[0].get(), std::span(tokens).subspan(5, 1)},
                                     {caches[2].get(), std::span(tokens).subspan(9, 1)}};
    EXPECT_EQ(logits_of(*executor, one_each).size(), 2 * shape.vocab);
    const auto more = executor->run({caches[0].get(), std::span(tokens).first(1), Outputs::last});
    ASSERT_FALSE(more);
    EXPECT_THAT(more.error().message, HasSubstr("its tokens come in one step"));
  }
}

TEST_P(Executors, GiveTheSameBitsInPoisonedMemory) {
  for (const Format format : formats()) {
    ModelShape shape = shape_for(format, is_emulated() ? 64 : 256);
    shape.window = 5;
    const SmallModel model(shape);
    const auto executor = load(model);
    const auto tokens = some_tokens(200);
    const std::vector<std::size_t> steps =
        is_emulated() ? std::vector<std::size_t>{17, 1, 4, 1, 1} : std::vector<std::size_t>{170, 1, 1, 26, 1, 1};
    const auto once = logits_of(*executor, *cache_for(*executor), tokens, steps);
    executor->poison_memory(true);
    EXPECT_EQ(logits_of(*executor, *cache_for(*executor), tokens, steps), once);
  }
}

TEST_P(Executors, BitsDoNotDependOnTheNumberOfThreads) {
  for (const Format format : formats()) {
    const SmallModel model(shape_for(format, is_emulated() ? 64 : 256));
    const auto tokens = some_tokens(40);
    std::vector<float> expected;
    for (const std::uint32_t n_threads : is_emulated() ? std::vector{1U} : std::vector{1U, 2U, 5U}) {
      const auto executor = load(model, n_threads);
      for (int round = 0; round < 2; ++round) {
        const auto logits = logits_of(*executor, *cache_for(*executor), tokens, {1, 10, 1, 3, 24, 1});
        if (expected.empty()) expected = logits;
        ASSERT_EQ(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)), 0) << n_threads;
      }
    }
  }
}

TEST_P(Executors, TheLastRowOfAStepIsTheSameAskedForAlone) {
  for (const Format format : formats()) {
    const SmallModel model(shape_for(format, is_emulated() ? 64 : 256));
    const auto executor = load(model);
    const auto cache = cache_for(*executor);
    const auto tokens = some_tokens(21);
    const auto all = logits_of(*executor, *cache, tokens, {21});
    cache->truncate(0);
    const auto last = logits_of(*executor, std::vector<Step>{{cache.get(), tokens, Outputs::last}});
    ASSERT_EQ(last.size(), 40);
    expect_close(last, {all.end() - 40, all.end()}, way_.fused ? 2e-3 : 1e-5);
  }
}

TEST_P(Executors, ATruncatedCacheContinuesAsIfTheRestHadNotBeen) {
  const SmallModel model({});
  const auto executor = load(model);
  const auto cache = cache_for(*executor);
  const auto tokens = some_tokens(140);
  const auto expected = logits_of(*executor, *cache, tokens, {135, 1});
  cache->truncate(60);
  static_cast<void>(logits_of(*executor, *cache, tokens, {9}));
  cache->truncate(0);
  EXPECT_EQ(logits_of(*executor, *cache, tokens, {135, 1}), expected);
}

// Watching shows the same values as on the reference, in the same order. (op_test.cpp compares the numbers.)
TEST_P(Executors, ShowTheValuesThatTheReferenceShows) {
  using Seen = std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t, std::size_t>>;
  ModelShape shape = heads_by_layer();
  shape.window = 8;
  const SmallModel model(shape);
  const auto watch = [](Executor& executor, Outputs outputs) {
    Seen seen;
    const auto cache = cache_for(executor);
    const auto tokens = some_tokens(15);
    static_cast<void>(logits_of(executor, *cache, tokens, {3}));
    executor.watch({}, [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data) {
      seen.emplace_back(name, rows, width, data.size());
    });
    EXPECT_TRUE(executor.run({cache.get(), std::span(tokens).subspan(3), outputs}));
    return seen;
  };
  const auto reference = make_reference();
  for (const Outputs outputs : {Outputs::all, Outputs::last}) {
    EXPECT_EQ(watch(*load(model), outputs), watch(*backends::load(model, *reference), outputs));
  }
}

TEST_P(Executors, WatchingSelectsByNameAndChangesNoBits) {
  if (way_.fused) GTEST_SKIP() << "watching runs ops unfused";
  const SmallModel model({});
  const auto executor = load(model);
  const auto tokens = some_tokens(12);
  const auto expected = logits_of(*executor, *cache_for(*executor), tokens, {12});
  std::vector<std::string> names;
  std::vector<float> seen;
  executor->watch([](std::string_view name) { return name == "logits"; },
                  [&](std::string_view name, std::uint64_t, std::uint64_t, std::span<const float> data) {
                    names.emplace_back(name);
                    seen.assign(data.begin(), data.end());
                  });
  EXPECT_EQ(logits_of(*executor, *cache_for(*executor), tokens, {12}), expected);
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(names, std::vector<std::string>{"logits"});
}

TEST_P(Executors, ACacheThatIsReadAndFilledElsewhereGoesOnAlike) {
  for (const ModelShape& shape : {ModelShape{}, heads_by_layer()}) {
    const SmallModel model(shape);
    const auto executor = load(model);
    const std::uint32_t n = is_emulated() ? 20 : 150;  // more than a block of the cpu backend's cache
    const auto tokens = some_tokens(n), more = some_tokens(3);
    for (const KvType type : {KvType::f16, KvType::f32}) {
      auto caches = *executor->new_caches(2, 300, type);
      static_cast<void>(logits_of(*executor, *caches[1], tokens, {n}));
      const auto bytes = executor->read_cache(*caches[1]);
      ASSERT_TRUE(bytes) << bytes.error().message;
      const auto other = load(model);
      const auto copy = std::move(*other->new_cache(200, type));
      static_cast<void>(logits_of(*other, *copy, some_tokens(7), {7}));
      const auto filled = other->fill_cache(*copy, n, *bytes);
      ASSERT_TRUE(filled) << filled.error().message;
      EXPECT_EQ(other->read_cache(*copy).value(), *bytes);
      EXPECT_EQ(logits_of(*other, *copy, more, {3}), logits_of(*executor, *caches[1], more, {3}));
    }
  }
}

TEST_P(Executors, RefuseToFillACacheWithWhatDoesNotFitIt) {
  const SmallModel model({});
  const auto executor = load(model), other = load(model);
  const auto cache = cache_for(*executor, 100), foreign = cache_for(*other, 100);
  static_cast<void>(logits_of(*executor, *cache, some_tokens(9), {9}));
  std::vector<std::byte> bytes = executor->read_cache(*cache).value();
  const auto error_of = [](const auto& result) { return result ? std::string() : result.error().message; };
  EXPECT_THAT(error_of(executor->read_cache(*foreign)), HasSubstr("another executor"));
  EXPECT_THAT(error_of(executor->fill_cache(*foreign, 9, bytes)), HasSubstr("another executor"));
  EXPECT_THAT(error_of(executor->fill_cache(*cache, 10, bytes)), HasSubstr("cannot be filled"));
  bytes.resize(bytes.size() / 9 * 101);
  EXPECT_THAT(error_of(executor->fill_cache(*cache, 101, bytes)), HasSubstr("cannot be filled"));
  EXPECT_EQ(cache->length(), 9);
}

TEST_P(Executors, ErrorsLeaveTheCachesAsTheyWere) {
  const SmallModel model({});
  const auto executor = load(model), other = load(model);
  auto caches = *executor->new_caches(2, 300, KvType::f32);
  KvCache *a = caches[0].get(), *b = caches[1].get();
  const auto alone = cache_for(*executor, 100), foreign = cache_for(*other, 100);
  const auto tokens = some_tokens(90);
  const std::vector<TokenId> outside{40}, negative{-1};
  static_cast<void>(logits_of(*executor, std::vector<Step>{{a, some_tokens(8)}, {b, some_tokens(8)}}));
  const auto fails = [&](const std::vector<Step>& steps, std::string_view says) {
    const auto result = executor->run(steps);
    ASSERT_FALSE(result) << says;
    EXPECT_THAT(result.error().message, HasSubstr(says));
    for (const KvCache* cache : {a, b}) EXPECT_EQ(cache->length(), 8);
  };
  fails({}, "at least one sequence");
  fails({{a, {}}}, "at least one token");
  fails({{a, outside}}, "vocabulary");
  fails({{a, negative}}, "vocabulary");
  fails({{foreign.get(), tokens}}, "another executor");
  fails({{nullptr, tokens}}, "no KV cache");
  fails({{a, some_tokens(257)}}, "257 tokens is longer than the 256");
  fails({{alone.get(), some_tokens(101)}}, "fit");
  fails({{a, tokens}, {alone.get(), tokens}}, "made together");
  fails({{a, tokens}, {a, tokens}}, "the same KV cache");
  fails({{a, tokens}, {b, outside}}, "vocabulary");
  fails({{a, tokens}, {b, some_tokens(293)}}, "fit");
  fails({{a, tokens}, {b, {}}}, "at least one token");
  fails({{a, tokens}, {b, some_tokens(180)}}, "270 tokens is longer than the 256");
  static_cast<void>(logits_of(*executor, *a, tokens, {2}));
}

TEST(GpuExecutor, RefusesHeadsThatAreTooLong) {
  ModelShape shape;
  shape.head_dim = 513;
  const auto executor = make("checker").value()->load(SmallModel(shape).plan, {});
  ASSERT_FALSE(executor);
  EXPECT_THAT(executor.error().message, HasSubstr("heads of 513 elements are longer than the 512"));
}

TEST_P(Executors, RefuseATokenWithoutARowOfItsTable) {
  Maker m;
  const auto small = m.builder.embed("small", m.matrix_of(m.normals(std::size_t{8} * 40), {8, 40}));
  const auto executor = backend_->load(m.finish(m.builder.add("sum", m.in(8), small), 8), way_.options);
  ASSERT_TRUE(executor) << executor.error().message;
  const auto cache = (*executor)->new_cache(8, KvType::f32).value();
  const std::vector<TokenId> tokens{39, 40};
  const auto ran = (*executor)->run({cache.get(), tokens, Outputs::all});
  ASSERT_FALSE(ran);
  EXPECT_THAT(ran.error().message, HasSubstr("token 40 at position 1 asks for row 40"));
  EXPECT_TRUE((*executor)->run({cache.get(), std::span(tokens).first(1), Outputs::all}));
}

std::vector<std::string> executors() {
  std::vector<std::string> names;
  for (const Way& way : ways()) {
    if (way.options.activations == Activations::int16) names.push_back(way.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Ways, Executors, testing::ValuesIn(executors()), [](const auto& way) { return way.param; });

TEST(ReferenceExecutor, BatchesAsLoaded) {
  const SmallModel model({});
  const auto executor = load_reference(model.plan, {}, {.max_batch = 3});
  EXPECT_EQ(executor->max_batch(), 3);
  EXPECT_FALSE(executor->run({cache_for(*executor).get(), some_tokens(4), Outputs::last}));
}

TEST(CpuBackend, RefusesAnAbsurdNumberOfThreads) {
  const SmallModel model({});
  const auto executor = make_cpu()->load(model.plan, {.n_threads = 1'000'000});
  ASSERT_FALSE(executor);
  EXPECT_THAT(executor.error().message, HasSubstr("1000000 threads"));
}

TEST(CpuBackend, DescribesItself) {
  EXPECT_EQ(make_cpu()->name(), "cpu");
  EXPECT_THAT(make_cpu(Isa::scalar)->description(0), HasSubstr("scalar, "));
  EXPECT_THAT(make_cpu()->description(3), HasSubstr(", 3 threads"));
}

// The checker, with kernels that write before or after their last argument if asked to.
class StrayDevice final : public gpu::Device {
 public:
  [[nodiscard]] std::string_view name() const override { return "stray"; }
  [[nodiscard]] std::string description() const override { return "for a test"; }
  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    return checker_->allocate(bytes, what);
  }
  Result<void> upload(const gpu::View& to, std::span<const std::byte> from) override { return checker_->upload(to, from); }
  Result<void> download(const gpu::View& from, std::span<std::byte> to) override { return checker_->download(from, to); }
  Result<void> run(std::span<const gpu::Launch> launches, std::uint64_t tag) override {
    PLUMB_CHECK(checker_->run(launches, tag));
    if (stray == 0) return {};
    gpu::View view = launches.back().arguments.back().view;
    view.offset += stray > 0 ? view.bytes + static_cast<std::uint64_t>(stray) : static_cast<std::uint64_t>(stray);
    return checker_->upload({view.memory, view.offset, 1}, std::array{std::byte{7}});
  }
  [[nodiscard]] std::uint32_t preferred_batch() const override { return 64; }

  int stray = 0;  // bytes: before the argument if negative, else after its end

 private:
  std::unique_ptr<gpu::Device> checker_ = make_checker_device();
};

TEST(GuardZones, FindWhatIsWrittenBesideAValue) {
  const SmallModel model({});
  auto device = std::make_unique<StrayDevice>();
  StrayDevice& stray = *device;
  auto executor = gpu::load(model.plan, std::move(device), {.guard_zones = true});
  ASSERT_TRUE(executor) << executor.error().message;
  const auto cache = cache_for(**executor);
  const auto tokens = some_tokens(5);
  const auto fails = [&](int bytes, std::string_view says) {
    stray.stray = bytes;
    const auto ran = (*executor)->run({cache.get(), tokens, Outputs::all});
    ASSERT_FALSE(ran);
    EXPECT_THAT(ran.error().message, testing::HasSubstr(says));
    EXPECT_EQ(cache->length(), 0);
  };
  fails(3, "wrote 3 bytes past the end of value 'logits'");
  fails(-4, "wrote 4 bytes before value 'logits'");
  stray.stray = 0;
  EXPECT_TRUE((*executor)->run({cache.get(), tokens, Outputs::all}));
}

}  // namespace
}  // namespace plumb::backends
