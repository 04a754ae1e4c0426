// The promises of every encoder, over random blocks: an error within the format's bound; no NaN or infinity; encoding
// decoded weights again changes little; scaling by a power of two scales the result; no more error than other quantizers
// make.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "quants/format.h"
#include "quants/print.h"

namespace plumb::quants {
namespace {

std::vector<FormatInfo> encodable() {
  std::vector<FormatInfo> result;
  std::copy_if(formats().begin(), formats().end(), std::back_inserter(result),
               [](const FormatInfo& format) { return format.encode != nullptr; });
  return result;
}

std::vector<float> round_trip(const FormatInfo& format, const std::vector<float>& x) {
  const std::size_t n_blocks = x.size() / format.block_size;
  std::vector<std::byte> bytes(n_blocks * format.block_bytes);
  std::vector<float> y(x.size());
  format.encode(x.data(), bytes.data(), n_blocks);
  format.decode(bytes.data(), y.data(), n_blocks);
  return y;
}

double rms_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The standard normal distribution by Box and Muller: the same values with every standard library.
std::vector<float> gaussian(std::size_t n, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto uniform = [&random] { return (static_cast<double>(random()) + 0.5) * 0x1p-32; };
  std::vector<float> x(n);
  for (float& value : x) {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    value = static_cast<float>(radius * std::cos(2.0 * 3.14159265358979323846 * uniform()));
  }
  return x;
}

// 256 weights around 2^exponent: gaussian, with an outlier, of one sign, far from zero, sparse, or all equal.
std::vector<float> draw_weights(int lowest_exponent, int highest_exponent) {
  std::vector<float> x = gaussian(256, *rc::gen::arbitrary<std::uint32_t>());
  switch (*rc::gen::inRange(0, 7)) {
    case 0:
      x[*rc::gen::inRange<std::size_t>(0, 256)] *= 50.0f;
      break;
    case 1:
      std::for_each(x.begin(), x.end(), [](float& v) { v = std::fabs(v); });
      break;
    case 2:
      std::for_each(x.begin(), x.end(), [](float& v) { v = -std::fabs(v); });
      break;
    case 3:
      std::for_each(x.begin(), x.end(), [](float& v) { v = 8.0f + 0.25f * v; });
      break;
    case 4:
      std::for_each(x.begin(), x.end(), [](float& v) { v = v > 1.5f ? v : 0.0f; });
      break;
    case 5:
      std::fill(x.begin(), x.end(), x[0]);
      break;
    default:
      break;
  }
  const float scale = std::ldexp(1.0f, *rc::gen::inRange(lowest_exponent, highest_exponent + 1));
  for (float& value : x) value *= scale;
  return x;
}

// An upper bound of the RMS error over one block of x.
//
// A symmetric format with levels up to +-h can always use the scale max|x| / h, which clips nothing: errors are at most
// half a step, and least squares does no worse. An affine format spans the range with 2^bits - 1 steps. Rounding a scale to
// binary16 moves the largest value by 2^-11 of itself, or by its level times 2^-25 where the scale is subnormal. In a
// K-quant each group's scale is rounded too, and the weighting can raise the RMS by the square root of two.
double error_bound(Format format, const float* x, std::size_t n) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const double max = std::max(std::fabs(*low), std::fabs(*high));
  const double range = double{*high} - *low;
  const double range_with_zero = std::max(double{*high}, 0.0) - std::min(double{*low}, 0.0);
  constexpr double half_ulp = 0x1p-11;
  constexpr double half_quantum = 0x1p-25;
  const double root_2 = std::sqrt(2.0);
  switch (format) {
    case Format::f32:
      return 0;
    case Format::f16:
      return max * half_ulp + half_quantum;
    case Format::bf16:
      return max * 0x1p-8;
    case Format::q8_0:
      return max * (0.5 / 127 + half_ulp) * 1.0001 + 127 * half_quantum;
    case Format::q4_0:
      return max * (0.5 / 7 + half_ulp) * 1.0001 + 8 * half_quantum;
    case Format::q5_0:
      return max * (0.5 / 15 + half_ulp) * 1.0001 + 16 * half_quantum;
    case Format::q4_1:
      return range * (0.5 / 15) * 1.0001 + (range + max) * half_ulp + 16 * half_quantum;
    case Format::q5_1:
      return range * (0.5 / 31) * 1.0001 + (range + max) * half_ulp + 32 * half_quantum;
    case Format::q4_k:
      return root_2 * range_with_zero * (0.5 / 15 + 0.5 / 63 * 15.0 / 14 + 0.5 / 63) + 0x1p-20;
    case Format::q5_k:
      return root_2 * range_with_zero * (0.5 / 31 + 0.5 / 63 * 31.0 / 30 + 0.5 / 63) + 0x1p-19;
    case Format::q6_k:
      return root_2 * max * (0.5 / 31 + 0.5 / 127 * 32.0 / 31) + 0x1p-19;
    default:
      return -1;
  }
}

class Encode : public testing::TestWithParam<FormatInfo> {};

TEST_P(Encode, ErrorIsWithinTheBoundOfTheFormat) {
  const FormatInfo& format = GetParam();
  const bool held = rc::check(std::string(format.name), [&format] {
    const std::vector<float> x = draw_weights(-30, 10);
    const std::vector<float> y = round_trip(format, x);
    for (std::size_t i = 0; i < x.size(); i += format.block_size) {
      const std::vector<float> from(x.begin() + i, x.begin() + i + format.block_size);
      const std::vector<float> to(y.begin() + i, y.begin() + i + format.block_size);
      RC_ASSERT(rms_difference(from, to) <= error_bound(format.format, from.data(), from.size()));
    }
  });
  EXPECT_TRUE(held);
}

TEST_P(Encode, FiniteWeightsStayFinite) {
  const FormatInfo& format = GetParam();
  const bool held = rc::check(std::string(format.name), [&format] {
    std::vector<float> x = draw_weights(-140, 120);
    if (*rc::gen::arbitrary<bool>()) x[*rc::gen::inRange<std::size_t>(0, x.size())] = FLT_MAX;
    if (*rc::gen::arbitrary<bool>()) x[*rc::gen::inRange<std::size_t>(0, x.size())] = -FLT_MAX;
    if (*rc::gen::arbitrary<bool>()) x[*rc::gen::inRange<std::size_t>(0, x.size())] = FLT_TRUE_MIN;
    for (const float value : round_trip(format, x)) {
      const bool may_overflow = format.format == Format::f16 || format.format == Format::bf16;
      RC_ASSERT(!std::isnan(value) && (may_overflow || !std::isinf(value)));
    }
  });
  EXPECT_TRUE(held);
}

TEST_P(Encode, ZeroStaysZero) {
  for (const float zero : {0.0f, -0.0f}) {
    for (const float value : round_trip(GetParam(), std::vector<float>(512, zero))) ASSERT_EQ(value, 0.0f);
  }
}

TEST_P(Encode, PowersOfTwoCommute) {
  const FormatInfo& format = GetParam();
  const bool held = rc::check(std::string(format.name), [&format] {
    std::vector<float> x = gaussian(256, *rc::gen::arbitrary<std::uint32_t>());
    for (float& value : x) value = std::fabs(value) < 0x1p-10f ? 0.0f : value;  // would be subnormal in F16
    const float factor = std::ldexp(1.0f, *rc::gen::inRange(-2, 8));
    std::vector<float> scaled = x;
    for (float& value : scaled) value *= factor;
    std::vector<float> expected = round_trip(format, x);
    for (float& value : expected) value *= factor;
    RC_ASSERT(round_trip(format, scaled) == expected);
  });
  EXPECT_TRUE(held);
}

TEST_P(Encode, EncodingDecodedWeightsChangesLittle) {
  const FormatInfo& format = GetParam();
  const std::vector<float> x = gaussian(256 * 64, 7);
  const std::vector<float> once = round_trip(format, x);
  const std::vector<float> twice = round_trip(format, once);
  const double lost = rms_difference(once, twice);
  switch (format.format) {
    case Format::f32:
    case Format::f16:
    case Format::bf16:
    case Format::q8_0:
      EXPECT_EQ(once, twice);
      break;
    case Format::q4_k:
    case Format::q5_k:
      EXPECT_LE(lost, 0.3 * rms_difference(x, once));
      break;
    default:
      EXPECT_LE(lost, 0.06 * rms_difference(x, once));
      break;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Encode, testing::ValuesIn(encodable()), name_of);

struct Quality {
  Format format;
  double rmse;
};

// Compares with the errors of llama.cpp's quantizers on a standard normal distribution (ggml 0.25, no importance matrix).
TEST(Quality, NoWorseThanLlamaCpp) {
  constexpr Quality theirs[] = {
      {Format::q8_0, 5.3470e-3}, {Format::q6_k, 1.7725e-2}, {Format::q5_k, 3.6080e-2}, {Format::q4_k, 7.1264e-2},
      {Format::q5_1, 3.7793e-2}, {Format::q5_0, 4.2638e-2}, {Format::q4_1, 7.8150e-2}, {Format::q4_0, 8.5872e-2},
  };
  const std::vector<float> x = gaussian(256 * 512, 1);
  for (const Quality& other : theirs) {
    EXPECT_LE(rms_difference(x, round_trip(info(other.format), x)), other.rmse * 1.005) << info(other.format).name;
  }
}

// The scale of a super-block's scales is a binary16, which is coarse below 2^-14. Rounding it down would clip the largest
// group: its weights would be off by several of their steps.
TEST(Encode, TinyWeightsAreNotClipped) {
  const auto largest_error = [](std::string_view name, float n_steps) {
    const float step = 63 * 1.4f * 0x1p-24f;  // of the largest group: the scale lies between two numbers of binary16
    std::vector<float> x(256);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = step * n_steps * (static_cast<float>(i % 32) / 31) * (i < 32 ? 1.0f : 0.5f);
    }
    const std::vector<float> y = round_trip(*find(name), x);
    float largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::fabs(y[i] - x[i]));
    return largest / step;
  };
  EXPECT_LT(largest_error("Q4_K", 15), 1);
  EXPECT_LT(largest_error("Q5_K", 31), 1);
}

}  // namespace
}  // namespace plumb::quants
