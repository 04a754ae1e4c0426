// What executors share before an op runs: the rows of a step, and the check of tensors.
#include "backends/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "backends/batch.h"
#include "backends/reference/reference.h"
#include "backends/small_model.h"

namespace plumb::backends {
namespace {

using testing::HasSubstr;

// Two sequences whose next positions follow each other: 3 of the one, 4 of the other, which begins earlier and is longer.
TEST(Batch, ARunIsOfOneSequence) {
  const SmallModel model(ModelShape{});
  const auto reference = make_reference();
  const auto executor = load(model, *reference);
  const auto caches = executor->new_caches(2, 16, KvType::f32).value();
  const std::vector<TokenId> tokens{1, 2, 3, 4};
  const std::array<Step, 2> prompts{Step{caches[0].get(), std::span(tokens).first(3)}, Step{caches[1].get(), tokens}};
  ASSERT_TRUE(executor->run(prompts));
  const auto one = std::span(tokens).first(1);

  const std::array<Step, 2> rising{Step{caches[0].get(), one}, Step{caches[1].get(), one}};
  const auto batch = make_batch(*model.plan, rising, 8);
  ASSERT_TRUE(batch) << batch.error().message;
  ASSERT_EQ(batch->runs.size(), 2) << "positions 3 and 4 are of two sequences";
  EXPECT_EQ(batch->longest, 5);

  const std::array<Step, 2> falling{Step{caches[1].get(), one}, Step{caches[0].get(), one}};
  EXPECT_EQ(make_batch(*model.plan, falling, 8)->longest, 5) << "the longest sequence is the first";
}

TEST(Step, TensorsOfExpertsMustBeWhole) {
  const std::vector<std::byte> data(3 * 2 * 4 * sizeof(float));
  gguf::Tensor tensor{.name = "experts", .format = quants::Format::f32};
  tensor.n_dims = 3;
  tensor.dims = {4, 2, 3, 1};
  plan::Plan plan;
  plan.weights.resize(1);
  tensor.data = data;
  plan.weights[0].tensor = tensor;
  EXPECT_TRUE(check_tensors(plan));
  plan.weights[0].tensor.data = std::span(data).first(data.size() - 1);
  const auto checked = check_tensors(plan);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().message, HasSubstr("tensor 'experts' has 95 bytes; its shape needs 96"));
}

}  // namespace
}  // namespace plumb::backends
