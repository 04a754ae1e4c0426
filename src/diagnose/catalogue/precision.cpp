// Number formats: rounding, range, and results that are a function of the right result.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "base/half.h"
#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"

namespace plumb::diagnose::families {

namespace in_precision {
namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

float bf16_truncated(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xffff0000u); }
float bf16_rounded(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}
float f16_rounded(float x) { return f16_to_f32(f32_to_f16(x)); }
float f16_truncated(float x) {
  const float rounded = f16_rounded(x);
  if (std::abs(rounded) <= std::abs(x)) return rounded;
  return f16_to_f32(static_cast<std::uint16_t>(f32_to_f16(x) - 1));
}

void truncated(const Question&, Candidates& out) {
  out.with_each("to bfloat16", bf16_truncated);
  out.with_each("to float16", f16_truncated);
}

void rounded(const Question& q, Candidates& out) {
  out.with_each("to bfloat16", bf16_rounded);
  out.with_each("to float16", f16_rounded);
  out.with_each("to integers", [](float x) { return std::nearbyint(x); });
  for (const std::size_t size : {std::size_t{32}, std::size_t{256}, q.width()}) {
    out.afterwards(fmt::format("to 8 bits in blocks of {}", size), [size](const Site&, std::vector<float>& y) {
      for (std::size_t start = 0; start < y.size(); start += size) {
        const std::size_t end = std::min(start + size, y.size());
        float largest = 0;
        for (std::size_t i = start; i < end; ++i) largest = std::max(largest, std::abs(y[i]));
        const float step = largest / 127;
        for (std::size_t i = start; i < end && step > 0; ++i) y[i] = std::nearbyint(y[i] / step) * step;
      }
    });
  }
}

void overflow(const Question& q, Candidates& out) {
  out.with_each("above 65504 it is infinite",
                [](float x) { return std::abs(x) > 65504.0f ? std::copysign(infinite, x) : f16_rounded(x); });
  out.with_each("above 65504 it is infinite, else exact",
                [](float x) { return std::abs(x) > 65504.0f ? std::copysign(infinite, x) : x; });
  out.with_each("values are held at 65504", [](float x) { return std::clamp(x, -65504.0f, 65504.0f); });
  if (!is_overflow(q)) return;
  // Another limit, for instance of a scaled value: it is between the largest finite result and the smallest infinite one.
  // If the rows' limits differ there is no common one, and the same elements become infinite as in the rows that were
  // found.
  float largest = 0, least = infinite;
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    const float size = std::abs(q.expected[i]);
    if (std::isinf(q.found[i])) {
      least = std::min(least, size);
    } else {
      largest = std::max(largest, size);
    }
  }
  for (int power = -16; power <= 16; ++power) {
    const float scale = std::ldexp(1.0f, power);
    if (power == 0 || 65520 / scale < largest || 65520 / scale > least) continue;
    out.with_each(fmt::format("above 65504 / {:g} it is infinite", scale), [scale](float v) {
      const float scaled = v * scale;
      return std::abs(scaled) >= 65520 ? std::copysign(infinite, v) : f16_rounded(scaled) / scale;
    });
  }
  if (largest <= least) {
    out.with_each(fmt::format("above {:.4g} it is infinite", least), [limit = largest + (least - largest) / 2](float v) {
      return std::abs(v) > limit ? std::copysign(infinite, v) : v;
    });
    return;
  }
  std::set<std::pair<std::uint32_t, std::size_t>> infinities;  // row and column
  for (std::size_t i = 0; i < q.found.size(); ++i) {
    if (std::isinf(q.found[i])) infinities.emplace(q.rows[i / q.width()], i % q.width());
  }
  out.with_elements("the largest of a row are infinite", [infinities](std::uint32_t row, std::size_t column, float v) {
    return infinities.contains({row, column}) ? std::copysign(infinite, v) : v;
  });
}

// A limit that the suspect's largest elements share.
void clamped(const Question& q, Candidates& out) {
  float high = 0, low = 0;
  for (const float v : q.found) high = std::max(high, v), low = std::min(low, v);
  const auto add = [&](float from, float to) {
    // Elements beyond the limits must be at the limits: small elements are no evidence of a clamp.
    std::size_t n_beyond = 0, n_at = 0;
    for (std::size_t i = 0; i < std::min(q.found.size(), q.expected.size()); ++i) {
      n_beyond += q.expected[i] > 1.001f * to || q.expected[i] < 1.001f * from ? 1 : 0;
      n_at += (to > 0 && q.found[i] >= 0.99f * to) || (from < 0 && q.found[i] <= 0.99f * from) ? 1 : 0;
    }
    if (2 * n_at < n_beyond) return;
    out.with_each(
        from == -to ? fmt::format("at {:+g} and {:+g}", from, to) : fmt::format("between {:g} and {:g}", from, to),
        [from, to](float v) { return std::clamp(v, from, to); });
  };
  const float both = std::max(high, -low);
  if (both > 0) add(-both, both);
  if (low != -high && low < high) add(low, high);
  for (const float limit : {10.0f, 100.0f, 1000.0f}) {
    if (limit != both) add(-limit, limit);
  }
}

void scaled(const Question& q, Candidates& out) {
  const double yy = squares(q.expected), yf = dot(q.expected, q.found), ff = squares(q.found);
  const double factor = yf / yy;
  // Whatever is small is near to what is scaled by little: it has to go with it too.
  const bool goes_with = yf * yf > 0.9 * yy * ff;
  if (!std::isfinite(factor) || factor == 0 || std::abs(factor - 1) < 1e-9 || !goes_with) return;
  out.with_each(fmt::format("by {:.6g}", factor), [factor](float v) { return static_cast<float>(v * factor); });
}

void offset(const Question& q, Candidates& out) {
  double sum = 0;
  for (std::size_t i = 0; i < q.found.size(); ++i) sum += double{q.found[i]} - q.expected[i];
  const double by = sum / static_cast<double>(q.found.size());
  if (!std::isfinite(by) || by == 0) return;
  out.with_each(fmt::format("{:+.6g} everywhere", by), [by](float v) { return static_cast<float>(v + by); });
}

void negated(const Question&, Candidates& out) {
  out.with_each("the sign is exchanged", [](float x) { return -x; });
  out.with_each("the absolute value is taken", [](float x) { return std::abs(x); });
}

void twice(const Question& q, Candidates& out) {
  const bool gated = q.as<plan::Activate>() != nullptr;
  const auto inputs = plan::inputs(q.op);
  if (gated || inputs.empty() || q.plan().value(inputs[0]).width != q.width() || q.as<plan::Attention>() != nullptr) return;
  // Not by column: it reads the whole output.
  out.with_input(
      "", inputs[0], [](const Site& site) { return site.compute(); }, false);
}

// Weights in a coarser type than the file's.
void coarse_weights(const Question&, const plan::Linear& op, Candidates& out) {
  const auto add = [&](std::string detail, float (*f)(float)) {
    out.with_changed_weight(std::move(detail), op.weight,
                            [f](std::span<float> w) { std::transform(w.begin(), w.end(), w.begin(), f); });
  };
  add("to bfloat16, truncated", bf16_truncated);
  add("to bfloat16", bf16_rounded);
  add("to float16, truncated", f16_truncated);
}

constexpr Hypothesis table[] = {
    {"precision-truncated", Kind::op, of<truncated>, Meaning::rounding, R"(results are truncated instead of rounded
The lower half of a float32 is cut off: errors all point towards zero.
round to nearest even)"},
    {"precision-rounded", Kind::op, of<rounded>, Meaning::rounding,
     R"(results of this op alone are rounded to a coarser type
The op stores its result in another type than its neighbours.
store the result as the others are)"},
    {"precision-overflow", Kind::op, of<overflow>, Meaning::rounding, R"(results overflow to infinity
float16 ends at 65504; massive activations pass it, and earlier where they are scaled or summed first.
keep this value in float32 or bfloat16)"},
    {"value-clamped", Kind::op, of_both<clamped>, R"(results are clamped
A limit that was put in to hide something else; it changes every value beyond it.
remove the clamp, and find what it hides)"},
    {"weight-converted", Kind::weight, of<coarse_weights>, Meaning::rounding, R"(the weight was converted to a coarser type
Converting twice adds a second rounding to the file's.
use the file's own type)"},
    {"op-twice", Kind::op, of<twice>, R"(the op is applied twice
It is run in place and run again.
apply it once)"},
    {"value-negated", Kind::op, of<negated>, R"(results have the wrong sign
A sign is lost or added.
check the sign)"},
    {"value-scaled", Kind::op, of_both<scaled>, Meaning::cutting_off, R"(results are scaled by a constant
All elements are the right ones times one factor.
find the factor: a scale applied twice, or left out)"},
    {"value-offset", Kind::op, of_both<offset>, Meaning::rounding, R"(a constant is added to the results
All elements are the right ones plus one number.
find the constant)"},
};

}  // namespace
}  // namespace in_precision

std::span<const Hypothesis> precision() { return in_precision::table; }

}  // namespace plumb::diagnose::families
