#include "plan/parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace plumb::plan {
namespace {

using ::testing::Contains;
using ::testing::Not;

// The ops of two layers' attention, with what a test adds.
struct Layers {
  Plan plan;

  ValueId value(const std::string& name, std::uint64_t width) {
    plan.values.push_back({.name = name, .width = width});
    return {static_cast<std::uint32_t>(plan.values.size() - 1)};
  }
  void attention(std::uint32_t layer, std::uint32_t window, bool turns) {
    const ValueId x = value("q", 8);
    for (int i = 0; i < 2 && turns; ++i)
      plan.ops.emplace_back(Rope{.x = x, .out = {value("rope", 8)}, .head_dim = 4, .n_rot = 2});
    Attention op{.q = x, .out = {value("ctx", 8)}, .layer = layer, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4};
    op.window = window;
    plan.ops.emplace_back(op);
  }
};

TEST(PartsTest, LayersThatDifferAreSaidToDiffer) {
  Layers layers;
  layers.attention(0, 6, true);
  layers.attention(1, 0, false);
  const auto found = parts(layers.plan);
  EXPECT_THAT(found, Contains("sliding windows in some layers"));
  EXPECT_THAT(found, Contains("layers without rotary"));
  EXPECT_THAT(found, Contains("grouped-query attention"));
  EXPECT_THAT(found, Contains("rotary of adjacent pairs of a part of each head"));
}

TEST(PartsTest, LayersThatAreAlikeAreNot) {
  Layers layers;
  layers.attention(0, 6, true);
  layers.attention(1, 6, true);
  const auto found = parts(layers.plan);
  EXPECT_THAT(found, Contains("sliding windows in all layers"));
  EXPECT_THAT(found, Not(Contains("layers without rotary")));
}

}  // namespace
}  // namespace plumb::plan
