// Least squares for the encoders: which scale (and offset) lets integer levels come nearest to a group of weights.
//
// For fixed levels q_i the best scale is in closed form: d = sum(w x q) / sum(w q^2) minimises sum(w (x - d q)^2), and with
// an offset m it is the two-by-two normal equation. For a fixed scale the best levels are the nearest ones. So a
// fit tries a row of trial scales, takes for each the nearest levels and the scale that suits them best, and keeps the
// least error. The trials stretch the levels a little beyond the range of the weights (the outermost are clipped, all
// others gain) and a little short of it.
//
// Sums run in eight lanes, in a fixed order: vectorizable, and the same bits on every machine.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "base/half.h"

namespace plumb::quants::fit {

inline constexpr std::size_t n_lanes = 8;
inline constexpr float largest_half = 65504.0f;

using Lanes = std::array<float, n_lanes>;

inline float total(const Lanes& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// NaN becomes low.
inline float clamp(float x, float low, float high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}

// To the nearest integer, ties to even; exact for |x| < 2^22.
inline float round_small(float x) {
  constexpr float magic = 0x1.8p23f;
  return (x + magic) - magic;
}

// The reciprocal, or zero where there is none: every level is then the one nearest to zero.
inline float reciprocal(float x) { return std::fabs(x) < 0x1p-120f ? 0.0f : 1.0f / x; }

// A finite binary16 next to x.
inline float to_half(float x) { return f16_to_f32(f32_to_f16(clamp(x, -largest_half, largest_half))); }

// The integers that a group's levels may be: low..high.
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
  Lanes w_lanes{};
  Lanes wx_lanes{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    for (std::size_t lane = 0; lane < n_lanes; ++lane) {
      w_lanes[lane] += w[i + lane];
      wx_lanes[lane] += w[i + lane] * x[i + lane];
    }
  }
  return {total(w_lanes), total(wx_lanes)};
}

// Trial scales stretch the levels to steps of `step` levels beyond and short of the range of the weights.
struct Trials {
  int each_side;
  float step;
};

struct Scale {
  float scale = 0.0f;
  float offset = 0.0f;
};

// The level nearest to x of scale * level + offset; inverse is 1 / scale.
inline float level_of(float x, float offset, float inverse, Range range) {
  return round_small(clamp((x - offset) * inverse, range.low, range.high));
}

// sum(w (x - scale * level - offset)^2) over n weights, each on its nearest level.
template <std::size_t n>
float error_of(const float* x, const float* w, Scale s, Range range) {
  static_assert(n % n_lanes == 0);
  const float inverse = reciprocal(s.scale);
  Lanes sum{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    for (std::size_t lane = 0; lane < n_lanes; ++lane) {
      const float value = x[i + lane];
      const float miss = value - s.offset - s.scale * level_of(value, s.offset, inverse, range);
      sum[lane] += w[i + lane] * miss * miss;
    }
  }
  return total(sum);
}

// Weighted sums over the levels q that (x - offset) * inverse rounds to.
struct Sums {
  float q = 0.0f;   // sum(w q)
  float qq = 0.0f;  // sum(w q^2)
  float xq = 0.0f;  // sum(w x q)
};

template <std::size_t n>
Sums sums_of(const float* x, const float* w, float offset, float inverse, Range range) {
  static_assert(n % n_lanes == 0);
  Lanes q{};
  Lanes qq{};
  Lanes xq{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    for (std::size_t lane = 0; lane < n_lanes; ++lane) {
      const float value = x[i + lane];
      const float level = level_of(value, offset, inverse, range);
      const float weighted = w[i + lane] * level;
      q[lane] += weighted;
      qq[lane] += weighted * level;
      xq[lane] += weighted * value;
    }
  }
  return {total(q), total(qq), total(xq)};
}

// Weights of the squared errors: a miss on a large weight costs more, as it moves the products it takes part in by more
// than its share. On average about 2 for gaussian values; never 0.
template <std::size_t n>
void importance_of(const float* x, float* w) {
  Lanes squares{};
  for (std::size_t i = 0; i < n; i += n_lanes) {
    for (std::size_t lane = 0; lane < n_lanes; ++lane) squares[lane] += x[i + lane] * x[i + lane];
  }
  const float per_variance = reciprocal(total(squares) / static_cast<float>(n));
  for (std::size_t i = 0; i < n; ++i) w[i] = 1.0f + x[i] * x[i] * per_variance;
}

// Copies n weights, clamped to +-limit: what the format can represent.
template <std::size_t n>
void load(const float* values, float limit, float* x) {
  for (std::size_t i = 0; i < n; ++i) x[i] = clamp(values[i], -limit, limit);
}

// The scale d for which d * q, q in range (low < 0 < high), comes nearest to x. Its sign lets the longer side of the
// range serve the side of the larger weights. Zero for weights that are all zero.
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
  for (const float end : {range.low, range.high}) {
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

  // Relative to low_x: sums of weights far from zero would cancel.
  std::array<float, n> u;
  for (std::size_t i = 0; i < n; ++i) u[i] = x[i] - low_x;
  const Moments moments = moments_of<n>(u.data(), w);
  const float sum_w = moments.w;
  const float sum_wu = moments.wx;

  float best_gain = 0.0f;
  Scale best{};  // relative to low_x
  const auto try_levels = [&](float offset, float inverse) {
    const Sums sums = sums_of<n>(u.data(), w, offset, inverse, range);
    const float determinant = sum_w * sums.qq - sums.q * sums.q;
    if (!(determinant > 0.0f)) return false;
    Scale s;
    s.scale = (sum_w * sums.xq - sum_wu * sums.q) / determinant;
    s.offset = (sum_wu - s.scale * sums.q) / sum_w;
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
    const float spare = width - high / inverse;  // what the levels do not span
    for (const float share : {0.0f, 0.5f, 1.0f}) try_levels(share * spare, inverse);
  }
  for (int i = 0; i < 2 && try_levels(best.offset, reciprocal(best.scale)); ++i) {
  }
  return {best.scale, best.offset + low_x};
}

}  // namespace plumb::quants::fit
