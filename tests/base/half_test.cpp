#include "base/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace plumb {
namespace {

TEST(Half, EveryF16SurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_f32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      EXPECT_EQ(f32_to_f16(value), half) << bits;
    }
  }
}

TEST(Half, EveryBf16SurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (!std::isnan(bf16_to_f32(half))) {
      EXPECT_EQ(f32_to_bf16(bf16_to_f32(half)), half) << bits;
    }
  }
}

// IEEE 754's definition, in double: the nearest multiple of the spacing at this magnitude, ties to even.
std::uint16_t f16_by_definition(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(static_cast<double>(value));
  if (std::isinf(value)) return sign | 0x7c00;
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : -14, -14);
  const double steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  // Rounding up may carry, from the largest subnormal to 2^-14 or into the next exponent: this sum is right in both cases.
  const double bits = (exponent + 14) * 1024 + steps;
  return sign | static_cast<std::uint16_t>(std::min(bits, 31744.0));
}

TEST(Half, RoundsByDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 1'000'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(value)) continue;
    ASSERT_EQ(f32_to_f16(value), f16_by_definition(value)) << value;
  }
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)), 1);
}

// NaNs stay NaNs with their sign, become quiet, and keep the upper bits of their payload.
TEST(Half, NansStayNans) {
  const struct {
    std::uint32_t f32;
    std::uint16_t f16, bf16;
  } cases[] = {{0x7f800001, 0x7e00, 0x7fc0}, {0xff800001, 0xfe00, 0xffc0}, {0x7fc00000, 0x7e00, 0x7fc0},
               {0x7fffffff, 0x7fff, 0x7fff}, {0xffa02000, 0xff01, 0xffe0}, {0x7f812000, 0x7e09, 0x7fc1}};
  for (const auto& [f32, f16, bf16] : cases) {
    EXPECT_EQ(f32_to_f16(std::bit_cast<float>(f32)), f16) << std::hex << f32;
    EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(f32)), bf16) << std::hex << f32;
  }
  EXPECT_TRUE(std::isnan(f16_to_f32(0xfc01)) && std::signbit(f16_to_f32(0xfc01)));
  EXPECT_EQ(f16_to_f32(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(f32_to_bf16(-std::numeric_limits<float>::infinity()), 0xff80);
}

TEST(Half, Bf16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

}  // namespace
}  // namespace plumb
