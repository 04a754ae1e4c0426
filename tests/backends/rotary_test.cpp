// Rotary angles against numbers from transformers. Comparing executors cannot find a mistake that all of them share.
#include "backends/rotary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "backends/reference/ops.h"

namespace plumb::backends {
namespace {

struct YarnCase {
  std::uint32_t n_rot;
  float theta, original_context, factor;
  std::vector<double> frequencies;  // of transformers 5.24.0, _compute_yarn_parameters, in float32
};

plan::Rope rope_of(const YarnCase& yarn) {
  plan::Rope rope;
  rope.head_dim = rope.n_rot = yarn.n_rot;
  rope.theta = yarn.theta;
  rope.position_scale = 1 / yarn.factor;
  rope.magnitude = 1.25f;
  rope.yarn = plan::Yarn{.factor = yarn.factor, .original_context = yarn.original_context};
  return rope;
}

const std::vector<YarnCase>& yarn_cases() {
  static const std::vector<YarnCase> cases{
      // A ramp from pair 5 to pair 12.
      {32,
       10000,
       4096,
       4,
       {1, 0.56234133, 0.31622776, 0.17782794, 0.1, 0.056234129, 0.028234623, 0.013972196, 0.0067857141, 0.0032133791,
        0.0014682005, 0.00063509983, 0.00025000001, 0.00014058533, 7.9056947e-05, 4.4456985e-05}},
      // The ramp would begin at pair -1, and begins at 0.
      {16, 10000, 128, 8, {1, 0.22399466, 0.041666664, 0.0039528473, 0.00125, 0.00039528473, 0.00012500001, 3.9528473e-05}},
      // The ramp would end at 19, and ends at n_rot - 1.
      {16, 5, 256, 4, {1, 0.81776541, 0.6329149, 0.48827922, 0.37533998, 0.28734815, 0.21896179, 0.16595747}},
  };
  return cases;
}

TEST(Rotary, YarnsFrequenciesAreThoseOfTransformers) {
  for (const YarnCase& yarn : yarn_cases()) {
    SCOPED_TRACE(yarn.original_context);
    plan::Plan plan;
    plan.ops.emplace_back(rope_of(yarn));
    const Rotations rotations = rotations_of(plan, {});
    ASSERT_EQ(rotations.angles.size(), 1);
    EXPECT_EQ(rotations.angles[0].magnitude, 1.25f);
    ASSERT_EQ(rotations.angles[0].frequency.size(), yarn.frequencies.size());
    for (std::size_t i = 0; i < yarn.frequencies.size(); ++i) {
      EXPECT_NEAR(rotations.angles[0].frequency[i], yarn.frequencies[i], 3e-7 * yarn.frequencies[i]) << i;
    }
  }
}

TEST(Rotary, TheReferencesYarnIsThatOfTransformers) {
  for (const YarnCase& yarn : yarn_cases()) {
    SCOPED_TRACE(yarn.original_context);
    const reference::Rotation rotation = reference::rotation_at(rope_of(yarn), {}, 1);
    ASSERT_EQ(rotation.cosine.size(), yarn.frequencies.size());
    for (std::size_t i = 0; i < yarn.frequencies.size(); ++i) {
      EXPECT_NEAR(std::atan2(rotation.sine[i], rotation.cosine[i]), yarn.frequencies[i], 3e-7 * yarn.frequencies[i]) << i;
      EXPECT_NEAR(std::hypot(rotation.sine[i], rotation.cosine[i]), 1.25, 1e-12);
    }
  }
}

// transformers has no such setting: at 0 all pairs are interpolated, in between both implementations must agree.
TEST(Rotary, YarnsExtrapolationIsMixedIn) {
  for (const YarnCase& yarn : yarn_cases()) {
    for (const float mix : {0.0f, 0.5f}) {
      plan::Rope rope = rope_of(yarn);
      rope.yarn->extrapolation_mix = mix;
      plan::Plan plan;
      plan.ops.emplace_back(rope);
      const std::vector<double> found = rotations_of(plan, {}).angles[0].frequency;
      const reference::Rotation reference = reference::rotation_at(rope, {}, 1);
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double interpolated =
            std::pow(double{yarn.theta}, -2.0 * static_cast<double>(i) / yarn.n_rot) / double{yarn.factor};
        const double expected = mix == 0 ? interpolated : std::atan2(reference.sine[i], reference.cosine[i]);
        EXPECT_NEAR(found[i], expected, 3e-7 * expected) << i << ", mix " << mix;
        if (mix == 0) {
          EXPECT_NEAR(std::atan2(reference.sine[i], reference.cosine[i]), interpolated, 3e-7 * interpolated);
        }
      }
    }
  }
}

TEST(Rotary, LongFactorsAreForCachesBeyondTheOriginalContext) {
  plan::Rope rope{.head_dim = 4, .n_rot = 4, .theta = 100, .original_context = 8};
  rope.factors.emplace().index = 0;
  rope.long_factors.emplace().index = 1;
  plan::Plan plan;
  plan.ops.emplace_back(rope);
  const Rotations rotations = rotations_of(plan, {{1, 2}, {4, 5}});
  ASSERT_EQ(rotations.angles.size(), 1);
  EXPECT_THAT(rotations.angles[0].frequency, testing::ElementsAre(1, testing::DoubleEq(0.05)));
  EXPECT_THAT(rotations.angles[0].long_frequency, testing::ElementsAre(0.25, testing::DoubleEq(0.02)));
  EXPECT_FALSE(rotations.angles[0].is_long(8));
  EXPECT_TRUE(rotations.angles[0].is_long(9));
}

TEST(Rotary, EqualAnglesAreOneTable) {
  plan::Rope rope{.head_dim = 8, .n_rot = 4, .theta = 100};
  plan::Plan plan;
  plan.ops.emplace_back(rope);
  plan.ops.emplace_back(plan::Add{});
  rope.head_dim = 16;
  plan.ops.emplace_back(rope);
  rope.factors.emplace();
  plan.ops.emplace_back(rope);
  const Rotations rotations = rotations_of(plan, {{1, 2}});
  EXPECT_THAT(rotations.of_op, testing::ElementsAre(0, 0, 0, 1));
  ASSERT_EQ(rotations.angles.size(), 2);
  EXPECT_THAT(rotations.angles[0].frequency, testing::ElementsAre(1, testing::DoubleEq(0.1)));
  EXPECT_THAT(rotations.angles[1].frequency, testing::ElementsAre(1, testing::DoubleEq(0.05)));
}

}  // namespace
}  // namespace plumb::backends
