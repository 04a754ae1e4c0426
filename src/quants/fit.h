// Least squares for the encoders: finds the scale (and offset) with which integer levels come nearest to a group of
// weights.
//
// For fixed levels q_i the best scale has a closed form: d = sum(w x q) / sum(w q^2) minimises sum(w (x - d q)^2). With an
// offset m, scale and offset solve a two-by-two normal equation. For a fixed scale the best levels are the nearest ones.
// So a fit tries several scales. For each it takes the nearest levels, then the best scale for these levels, and it keeps
// the result with the least error. The trial scales span slightly more and slightly less than the range of the weights:
// with less, the outermost weights are clipped and all others become more exact.
//
// Sums run in four lanes, in a fixed order: the same bits on every machine.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "base/half.h"

namespace plumb::quants::fit {

inline constexpr float largest_half = 65504.0f;

// Four floats computed at once: a vector register of SSE or NEON (GCC's and Clang's vector extension).
using Lanes [[gnu::vector_size(16)]] = float;
inline constexpr std::size_t n_lanes = 4;

inline Lanes lanes_at(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof(lanes));
  return lanes;
}

inline Lanes lanes_of(float value) { return Lanes{value, value, value, value}; }

inline float total(Lanes lanes) { return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]); }

// For a float or for Lanes. NaN becomes low.
template <class T>
T clamp(T x, T low, T high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}

// Rounds a float or Lanes to the nearest integer, ties to even; exact for |x| < 2^22.
template <class T>
T round_small(T x) {
  return (x + 0x1.8p23f) - 0x1.8p23f;
}

// 1 / x, or zero where x is too small for it: every level is then the one nearest to zero.
inline float reciprocal(float x) { return std::fabs(x) < 0x1p-120f ? 0.0f : 1.0f / x; }

// The finite binary16 nearest to x.
inline float to_half(float x) { return f16_to_f32(f32_to_f16(clamp(x, -largest_half, largest_half))); }

// A group's levels are the integers low..high.
struct Range {
  float low;
  float high;
};

// The sums that do not depend on the levels.
struct Moments {
  float w = 0.0f;   // sum(w)
  float wx = 0.0f;  // sum(w x)
};

template <std::size_t n>
Moments moments_of(const float* x, const float* w) {
  Lanes sum_w{};
  Lanes sum_wx{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    sum_w += lanes_at(w + i);
    sum_wx += lanes_at(w + i) * lanes_at(x + i);
  }
  return {total(sum_w), total(sum_wx)};
}

// Whether the determinant aa * bb - ab * ab of a normal equation is zero but for rounding, as where all levels are equal.
inline bool is_singular(float aa, float ab, float bb) { return aa * bb - ab * ab <= 1e-6f * aa * bb; }

// The trial scales: `each_side` of them on either side of the one that spans the weights' range, `step` levels apart.
struct Trials {
  int each_side;
  float step;
};

struct Scale {
  float scale = 0.0f;
  float offset = 0.0f;
};

// The level for which scale * level + offset is nearest to x; inverse is 1 / scale. For floats or Lanes.
template <class T>
T level_of(T x, T offset, T inverse, T low, T high) {
  return round_small(clamp((x - offset) * inverse, low, high));
}

inline float level_of(float x, Scale s, Range range) {
  return level_of(x, s.offset, reciprocal(s.scale), range.low, range.high);
}

// sum(w (x - scale * level - offset)^2) over n weights, each with its nearest level.
template <std::size_t n>
float error_of(const float* x, const float* w, Scale s, Range range) {
  static_assert(n % n_lanes == 0);
  const Lanes scale = lanes_of(s.scale);
  const Lanes offset = lanes_of(s.offset);
  const Lanes inverse = lanes_of(reciprocal(s.scale));
  const Lanes low = lanes_of(range.low);
  const Lanes high = lanes_of(range.high);
  Lanes sum{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    const Lanes value = lanes_at(x + i);
    const Lanes miss = value - offset - scale * level_of(value, offset, inverse, low, high);
    sum += lanes_at(w + i) * miss * miss;
  }
  return total(sum);
}

// Weighted sums over the levels q, where q = (x - offset) * inverse, rounded.
struct Sums {
  float q = 0.0f;   // sum(w q)
  float qq = 0.0f;  // sum(w q^2)
  float xq = 0.0f;  // sum(w x q)
};

template <std::size_t n>
Sums sums_of(const float* x, const float* w, float offset, float inverse, Range range) {
  static_assert(n % n_lanes == 0);
  const Lanes offsets = lanes_of(offset);
  const Lanes inverses = lanes_of(inverse);
  const Lanes low = lanes_of(range.low);
  const Lanes high = lanes_of(range.high);
  Lanes q{};
  Lanes qq{};
  Lanes xq{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    const Lanes value = lanes_at(x + i);
    const Lanes level = level_of(value, offsets, inverses, low, high);
    const Lanes weighted = lanes_at(w + i) * level;
    q += weighted;
    qq += weighted * level;
    xq += weighted * value;
  }
  return {total(q), total(qq), total(xq)};
}

// The cost of an error in each weight: (sigma + |x|) / sigma. Equal costs would give the least RMSE, which is best for
// activations that do not depend on the weights. Higher costs for large weights make the weights that dominate a product
// more exact, for 1% more RMSE.
template <std::size_t n>
void importance_of(const float* x, float* w) {
  Lanes squares{};
  for (std::size_t i = 0; i < n; i += n_lanes) squares += lanes_at(x + i) * lanes_at(x + i);
  const float per_sigma = std::sqrt(reciprocal(total(squares) / static_cast<float>(n)));
  for (std::size_t i = 0; i < n; ++i) w[i] = 1.0f + std::fabs(x[i]) * per_sigma;
}

// Copies n weights, clamped to +-limit, the range that the format can represent.
template <std::size_t n>
void load(const float* values, float limit, float* x) {
  for (std::size_t i = 0; i < n; ++i) x[i] = clamp(values[i], -limit, limit);
}

// The scale d for which d * q, q in range (low <= 0 < high), comes nearest to x. Its sign is such that the longer side of
// the range covers the weight of largest magnitude. Zero where all weights are zero.
template <std::size_t n>
float fit_scale(const float* x, const float* w, Range range, Trials trials) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  const float per_largest = reciprocal(largest);
  float best_gain = 0.0f;
  float best = 0.0f;
  const auto try_inverse = [&](float inverse) {
    const Sums sums = sums_of<n>(x, w, 0.0f, inverse, range);
    // The error is sum(w x^2) - gain.
    const float gain = sums.qq > 0.0f ? sums.xq * sums.xq / sums.qq : 0.0f;
    if (gain <= best_gain) return false;
    best_gain = gain;
    best = sums.xq / sums.qq;
    return true;
  };
  for (const float end : {range.high, range.low}) {
    if (end == 0.0f) continue;
    for (int k = -trials.each_side; k <= trials.each_side; ++k) {
      try_inverse((end + static_cast<float>(k) * trials.step) * per_largest);
    }
  }
  for (int i = 0; i < 2 && try_inverse(reciprocal(best)); ++i) {
  }
  return best;
}

// The scale d >= 0 and offset m for which d * q + m, q in 0..high, comes nearest to x; m <= 0 if `offset_below_zero`.
template <std::size_t n>
Scale fit_scale_offset(const float* x, const float* w, float high, Trials trials, bool offset_below_zero) {
  const Range range{0.0f, high};
  float low_x = x[0];
  float high_x = x[0];
  for (std::size_t i = 1; i < n; ++i) {
    low_x = x[i] < low_x ? x[i] : low_x;
    high_x = x[i] > high_x ? x[i] : high_x;
  }
  if (offset_below_zero && low_x > 0.0f) low_x = 0.0f;
  const float width = high_x - low_x;
  const float per_width = reciprocal(width);
  if (per_width == 0.0f) return {0.0f, low_x};

  // Weights relative to low_x: in sums of weights far from zero, digits would cancel.
  std::array<float, n> u;
  for (std::size_t i = 0; i < n; ++i) u[i] = x[i] - low_x;
  const Moments moments = moments_of<n>(u.data(), w);
  const float sum_w = moments.w;
  const float sum_wu = moments.wx;

  float best_gain = 0.0f;
  Scale best{};  // relative to low_x
  const auto try_levels = [&](float offset, float inverse) {
    const Sums sums = sums_of<n>(u.data(), w, offset, inverse, range);
    if (!(sums.qq > 0.0f)) return false;
    Scale s;
    if (is_singular(sum_w, sums.q, sums.qq)) {
      s.scale = sums.xq / sums.qq;
    } else {
      s.scale = (sum_w * sums.xq - sum_wu * sums.q) / (sum_w * sums.qq - sums.q * sums.q);
      s.offset = (sum_wu - s.scale * sums.q) / sum_w;
    }
    if (offset_below_zero && s.offset > -low_x) {
      s.offset = -low_x;
      s.scale = (sums.xq + low_x * sums.q) / sums.qq;
    }
    if (!(s.scale > 0.0f)) return false;
    // sum(w u^2) less the error, for any scale and offset.
    const float gain = 2.0f * (s.scale * sums.xq + s.offset * sum_wu) - s.scale * s.scale * sums.qq -
                       2.0f * s.scale * s.offset * sums.q - s.offset * s.offset * sum_w;
    if (gain <= best_gain) return false;
    best_gain = gain;
    best = s;
    return true;
  };
  try_levels(0.0f, high * per_width);
  for (int k = -trials.each_side; k <= trials.each_side; ++k) {
    if (k == 0) continue;
    const float inverse = (high + static_cast<float>(k) * trials.step) * per_width;
    const float spare = width - high / inverse;  // the part of the range that the levels do not span
    for (const float share : {0.0f, 0.5f, 1.0f}) try_levels(share * spare, inverse);
  }
  for (int i = 0; i < 2 && try_levels(best.offset, reciprocal(best.scale)); ++i) {
  }
  return {best.scale, best.offset + low_x};
}

}  // namespace plumb::quants::fit
