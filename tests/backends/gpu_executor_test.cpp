// Plans on GPU devices against the reference: whole steps of small models, so that what an executor makes of ops (memory,
// which kernel, batches, recordings) is held too. "tuned" is the CUDA backend's tuned path on the checker.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backends/checker/checker.h"
#include "backends/checker/cuda_checker.h"
#include "backends/gpu/executor.h"
#include "backends/reference/reference.h"
#include "backends/small_model.h"
#ifdef PLUMB_WITH_CUDA
#include "backends/cuda/cuda.h"
#endif
#ifdef PLUMB_WITH_METAL
#include "backends/metal/metal.h"
#endif

namespace plumb::backends {
namespace {

Result<std::unique_ptr<gpu::Device>> make_device(std::string_view name) {
  if (name == "checker") return make_checker_device();
  if (name == "tuned") return make_cuda_checker_device();
#ifdef PLUMB_WITH_CUDA
  if (name == "cuda") return make_cuda_device();
#endif
#ifdef PLUMB_WITH_METAL
  if (name == "metal") return make_metal_device();
#endif
  return fail("this build has no {}", name);
}

class GpuExecutor : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const auto device = make_device(GetParam()); !device) GTEST_SKIP() << device.error().message;
  }

  void compare(const ModelShape& shape, const std::vector<std::size_t>& steps, KvType type = KvType::f32) {
    const SmallModel model(shape);
    auto device = make_device(GetParam());
    ASSERT_TRUE(device) << device.error().message;
    auto executor = gpu::load(model.plan, std::move(*device), {.max_batch = 256});
    ASSERT_TRUE(executor) << executor.error().message;
    std::size_t n = 0;
    for (const std::size_t step : steps) n += step;
    const std::vector<TokenId> tokens = some_tokens(n);
    const auto cache = cache_for(**executor, 400, type);
    const auto reference = make_reference();
    const auto expected_by = load(model, *reference);
    const auto expected_cache = cache_for(*expected_by, 400, type);
    const auto actual = logits_of(**executor, *cache, tokens, steps);
    const auto expected = logits_of(*expected_by, *expected_cache, tokens, steps);
    // Float sums through two layers; tuned kernels also round activations to 16 bits and, in prompts, to halves. A cache of
    // F16 rounds values that differ in the last place to different halves now and then.
    expect_close(actual, expected, std::string_view(GetParam()) == "checker" && type == KvType::f32 ? 2e-5 : 2e-3);
  }
};

TEST_P(GpuExecutor, AgreesWithTheReferenceOnSmallPlans) {
  compare({}, {1, 1, 2, 5, 17, 1});
  ModelShape shape;
  shape.pairing = plan::RopePairing::halves;
  shape.window = 5;
  shape.bias = true;
  shape.activation = plan::Activation::gelu_tanh;
  compare(shape, {1, 9, 3, 1});
}

// Of sizes that the tuned kernels take.
TEST_P(GpuExecutor, AgreesWithTheReferenceOnPlansForTunedKernels) {
  for (const quants::Format format : {quants::Format::f16, quants::Format::q8_0}) {
    ModelShape shape;
    shape.d = shape.d_ff = 64;
    shape.n_heads = 4;
    shape.head_dim = shape.n_rot = 64;
    shape.format = format;
    compare(shape, {1, 1, 2, 5, 17, 1}, KvType::f16);
  }
}

TEST_P(GpuExecutor, AgreesWithTheReferenceOnSoftCapsSinksAndExperts) {
  ModelShape shape;
  shape.soft_cap = 2;
  compare(shape, {1, 9, 3, 1});
  shape.sinks = true;
  shape.window = 8;
  compare(shape, {1, 9, 3, 1});
  shape.soft_cap = 0;
  compare(shape, {9, 1, 20, 1});
  shape.n_experts = 8;
  shape.n_used = 3;
  for (const auto gating :
       {plan::Gating::softmax, plan::Gating::softmax_of_chosen, plan::Gating::sigmoid, plan::Gating::sigmoid_normalized}) {
    shape.gating = gating;
    shape.bias = !shape.bias;
    compare(shape, {1, 9, 3, 1});
  }
}

TEST_P(GpuExecutor, RunsSequencesTogetherAsAlone) {
  for (const KvType type : {KvType::f32, KvType::f16}) {
    for (const bool tuned_shape : {false, true}) {
      ModelShape shape;
      shape.window = tuned_shape ? 0 : 20;
      if (tuned_shape) {
        shape.d = shape.d_ff = 64;
        shape.n_heads = 4;
        shape.head_dim = shape.n_rot = 64;
        shape.format = quants::Format::q8_0;
      }
      const SmallModel model(shape);
      auto executor = gpu::load(model.plan, std::move(*make_device(GetParam())), {.max_batch = 256});
      ASSERT_TRUE(executor) << executor.error().message;
      const auto reference = make_reference();
      const bool exact = std::string_view(GetParam()) == "checker" && type == KvType::f32;
      expect_batches_as_alone(**executor, *load(model, *reference), type, exact ? 2e-5 : 5e-3);
    }
  }
}

TEST_P(GpuExecutor, GivesTheSameBitsInPoisonedMemory) {
  ModelShape shape;
  shape.window = 5;
  const SmallModel model(shape);
  auto executor = gpu::load(model.plan, std::move(*make_device(GetParam())), {.max_batch = 64, .guard_zones = false});
  ASSERT_TRUE(executor) << executor.error().message;
  const auto tokens = some_tokens(24);
  const auto once = logits_of(**executor, *cache_for(**executor), tokens, {17, 1, 4, 1, 1});
  (*executor)->poison_memory(true);
  EXPECT_EQ(logits_of(**executor, *cache_for(**executor), tokens, {17, 1, 4, 1, 1}), once);
}

TEST_P(GpuExecutor, TakesOnlyCachesOfItsOwn) {
  const SmallModel model({});
  const auto executor = gpu::load(model.plan, std::move(*make_device(GetParam())), {.max_batch = 64});
  const auto other = gpu::load(model.plan, std::move(*make_device(GetParam())), {.max_batch = 64});
  ASSERT_TRUE(executor && other);
  const auto foreign = cache_for(**other);
  const auto ran = (*executor)->run({foreign.get(), some_tokens(2), Outputs::last});
  ASSERT_FALSE(ran);
  EXPECT_THAT(ran.error().message, testing::HasSubstr("another executor"));
}

// The checker, with kernels that write on before or after their last argument once asked to.
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

INSTANTIATE_TEST_SUITE_P(Devices, GpuExecutor, testing::Values("checker", "tuned", "cuda", "metal"),
                         [](const auto& device) { return std::string(device.param); });

}  // namespace
}  // namespace plumb::backends
