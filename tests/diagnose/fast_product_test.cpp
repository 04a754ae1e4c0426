// Diagnosis' products equal the reference's, and their sums are right.
#include "diagnose/fast_product.h"

#include <gtest/gtest.h>

#include <cmath>

#include "diagnose/committed_run.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

TEST(FastProduct, IsTheReferencesToTheLastBit) {
  const auto model = model::Model::load(*gguf::File::open(model::testing::golden_path("qwen2", ".gguf")));
  ASSERT_TRUE(model.has_value());
  const std::vector<backends::Row> rows = testing::rows_of({1, 5, 9, 5}, 4);
  Replay replay(*model, rows, nullptr, {3}, 2);
  std::size_t n = 0;
  for (std::size_t op = 0; op < replay.plan().ops.size(); ++op) {
    const auto* linear = std::get_if<plan::Linear>(&replay.plan().ops[op]);
    if (linear == nullptr) continue;
    ++n;
    const Site site(replay, op, {3, 0, 1});
    const std::vector<float> right = backends::reference::compute(site.op, site.scene);
    const plan::Weight& weight = replay.plan().weight(linear->weight);
    EXPECT_EQ(product(*linear, site.scene), right);
    const std::vector<float> every_third = product(*linear, site.scene, 3);
    for (std::size_t i = 0; i < right.size(); ++i) {
      const bool is_computed = i % weight.out() % 3 == 0;
      EXPECT_TRUE(is_computed ? every_third[i] == right[i] : std::isnan(every_third[i])) << i;
    }

    ProductSums sums;
    const auto x = site.scene.value(linear->x);
    const std::vector<float> variance(x.size(), 0.25f);
    EXPECT_EQ(product(*linear, site.scene, variance, sums), right);
    std::vector<float> w(weight.in());
    for (std::size_t i = 0; i < right.size(); ++i) {
      site.scene.weight(linear->weight)(i % weight.out(), w);
      double squares = 0, inputs = 0;
      for (std::size_t k = 0; k < w.size(); ++k) {
        squares += std::pow(double{w[k]} * x[i / weight.out() * w.size() + k], 2);
        inputs += 0.25 * w[k] * w[k];
      }
      EXPECT_NEAR(sums.squares[i], squares, 1e-5 * squares);
      EXPECT_NEAR(sums.inputs[i], inputs, 1e-5 * inputs);
    }
  }
  EXPECT_GE(n, 14u);
}

}  // namespace
}  // namespace plumb::diagnose
