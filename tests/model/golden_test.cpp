// Logits and inner values against Hugging Face transformers (tools/make_model_goldens.py), on every backend that runs on
// any machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <tuple>

#include "backends/backend.h"
#include "gguf/file.h"
#include "model/golden.h"
#include "model/model.h"

namespace plumb::model {
namespace {

using testing::Golden;

// The promise is 1e-4; float32 sums of this size differ by about 2e-6.
constexpr double tolerance = 1e-5;

// max|a - b| / max|b|
double relative_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0;
  double magnitude = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
    magnitude = std::max(magnitude, std::abs(double{b[i]}));
  }
  return difference / magnitude;
}

class GoldenTest : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    const auto& [backend_name, name] = GetParam();
    golden_ = testing::read_golden(name);
    auto file = gguf::File::open(testing::golden_path(name, ".gguf"));
    ASSERT_TRUE(file) << file.error().message;
    auto model = Model::load(std::move(*file));
    ASSERT_TRUE(model) << model.error().message;
    auto backend = backends::make(backend_name);
    ASSERT_TRUE(backend) << backend.error().message;
    auto executor = (*backend)->load(model->plan(), {.n_threads = 2});
    ASSERT_TRUE(executor) << executor.error().message;
    executor_ = std::move(*executor);
    auto cache = executor_->new_cache(static_cast<std::uint32_t>(golden_.tokens.size()), backends::KvType::f32);
    ASSERT_TRUE(cache) << cache.error().message;
    cache_ = std::move(*cache);
  }

  // Runs tokens [from, to) and compares the logits of all of them.
  void run_and_compare(std::size_t from, std::size_t to) {
    const std::span<const std::int32_t> tokens(golden_.tokens.data() + from, to - from);
    const auto logits = executor_->run({cache_.get(), tokens, backends::Outputs::all});
    ASSERT_TRUE(logits) << logits.error().message;
    const auto& expected = golden_.values.at("logits");
    const std::span<const float> rows(expected.data.data() + from * expected.width, (to - from) * expected.width);
    EXPECT_LE(relative_difference(*logits, rows), tolerance) << "tokens " << from << " to " << to;
  }

  Golden golden_;
  std::unique_ptr<backends::Executor> executor_;
  std::unique_ptr<backends::KvCache> cache_;
};

TEST_P(GoldenTest, EveryValueOfAPrompt) {
  std::set<std::string> seen;
  executor_->watch({}, [&](std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data) {
    const auto expected = golden_.values.find(std::string(name));
    if (expected == golden_.values.end()) return;
    seen.insert(expected->first);
    EXPECT_EQ(rows, expected->second.rows) << name;
    EXPECT_EQ(width, expected->second.width) << name;
    EXPECT_LE(relative_difference(data, expected->second.data), tolerance) << name;
  });
  run_and_compare(0, golden_.tokens.size());
  for (const auto& [name, matrix] : golden_.values) EXPECT_TRUE(seen.contains(name)) << name << " was never shown";
}

TEST_P(GoldenTest, TokenByToken) {
  for (std::size_t i = 0; i < golden_.tokens.size(); ++i) run_and_compare(i, i + 1);
}

TEST_P(GoldenTest, PromptInTwoBatches) {
  run_and_compare(0, 5);
  run_and_compare(5, golden_.tokens.size());
}

TEST_P(GoldenTest, PromptAndTenCachedSteps) {
  const std::size_t n = golden_.tokens.size() - 10;
  run_and_compare(0, n);
  for (std::size_t i = n; i < golden_.tokens.size(); ++i) run_and_compare(i, i + 1);
}

TEST_P(GoldenTest, LastOutputAloneIsTheLastRow) {
  const auto logits = executor_->run({cache_.get(), golden_.tokens, backends::Outputs::last});
  ASSERT_TRUE(logits) << logits.error().message;
  const auto& expected = golden_.values.at("logits");
  EXPECT_LE(relative_difference(*logits, std::span(expected.data).last(expected.width)), tolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         ::testing::Combine(::testing::Values("reference", "cpu", "checker"),
                                            ::testing::ValuesIn(testing::golden_cases)),
                         [](const auto& instance) {
                           std::string name = std::get<0>(instance.param) + "_" + std::get<1>(instance.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace plumb::model
