// Q2_K to Q6_K: super-blocks of 256 weights in groups of 16 or 32. A group's scale (and min) is a small integer times the
// binary16 scale (and min) of the super-block. TQ2_0 has only this scale.
#include <algorithm>
#include <array>
#include <cmath>

#include "quants/codecs.h"
#include "quants/fit.h"

namespace plumb::quants {
namespace {

constexpr std::size_t n_groups_16 = super_block / 16;
constexpr std::size_t n_groups_32 = super_block / 32;

// A finite binary16 for the scale of the scales. Where binary16 is coarse it is not rounded down, since that would clip the
// largest scale.
float super_scale(float x) {
  constexpr float smallest_normal = 0x1p-14f;
  constexpr float quantum = 0x1p-24f;
  if (std::fabs(x) >= smallest_normal) return fit::to_half(x);
  return std::copysign(std::ceil(std::fabs(x) / quantum) * quantum, x);
}

// The super-block's scale for the groups' scales (or mins), and the integer of each group under it.
template <std::size_t n, class Int>
float fit_super_scale(const std::array<float, n>& ideal, fit::Range range, std::array<Int, n>& levels) {
  std::array<float, n> w;
  w.fill(1.0f);
  const float d = super_scale(fit::fit_scale<n>(ideal.data(), w.data(), range, {8, 0.25f}));
  for (std::size_t g = 0; g < n; ++g) levels[g] = static_cast<Int>(fit::level_of(ideal[g], {d, 0.0f}, range));
  return d;
}

// An unpacked super-block of Q4_K or Q5_K: w = (d * scale) * q - (dmin * min).
struct AffineSuperBlock {
  float d = 0.0f;
  float dmin = 0.0f;
  std::array<std::uint8_t, n_groups_32> scales{};
  std::array<std::uint8_t, n_groups_32> mins{};
  std::array<std::uint8_t, super_block> q{};

  [[nodiscard]] fit::Scale group(std::size_t g) const {
    return {d * static_cast<float>(scales[g]), -(dmin * static_cast<float>(mins[g]))};
  }
};

constexpr int highest_6_bits = 63;
constexpr fit::Range levels_6_bits{0.0f, highest_6_bits};

// Changes every group's scale and min by at most one, to the pair with the least error. Returns the sum of the errors.
float settle_groups(const float* x, const float* w, fit::Range range, AffineSuperBlock& block) {
  float error = 0.0f;
  for (std::size_t g = 0; g < n_groups_32; ++g) {
    const int scale = block.scales[g];
    const int min = block.mins[g];
    float best = -1.0f;
    std::array<int, 2> chosen{scale, min};
    for (int s = std::max(scale - 1, 0); s <= std::min(scale + 1, highest_6_bits); ++s) {
      for (int m = std::max(min - 1, 0); m <= std::min(min + 1, highest_6_bits); ++m) {
        const fit::Scale trial{block.d * static_cast<float>(s), -(block.dmin * static_cast<float>(m))};
        const float trial_error = fit::error_of<32>(x + 32 * g, w + 32 * g, trial, range);
        if (best >= 0.0f && trial_error >= best) continue;
        best = trial_error;
        chosen = {s, m};
      }
    }
    block.scales[g] = static_cast<std::uint8_t>(chosen[0]);
    block.mins[g] = static_cast<std::uint8_t>(chosen[1]);
    error += best;
  }
  return error;
}

// Sets the best d and dmin for the block's scales, mins and levels, by the normal equation; d = 0 where it has no solution.
void refit_super_scales(const float* x, const float* w, fit::Range range, AffineSuperBlock& block) {
  // With a = scale * q and b = min: the error is sum(w (x - d a + dmin b)^2).
  float aa = 0.0f;
  float ab = 0.0f;
  float bb = 0.0f;
  float xa = 0.0f;
  float xb = 0.0f;
  for (std::size_t g = 0; g < n_groups_32; ++g) {
    const fit::Scale s = block.group(g);
    const fit::Sums sums = fit::sums_of<32>(x + 32 * g, w + 32 * g, s.offset, fit::reciprocal(s.scale), range);
    const auto [sum_w, sum_wx] = fit::moments_of<32>(x + 32 * g, w + 32 * g);
    const auto scale = static_cast<float>(block.scales[g]);
    const auto min = static_cast<float>(block.mins[g]);
    aa += scale * scale * sums.qq;
    ab += scale * min * sums.q;
    bb += min * min * sum_w;
    xa += scale * sums.xq;
    xb += min * sum_wx;
  }
  if (bb == 0.0f) {
    if (aa > 0.0f) block.d = xa / aa;
  } else if (aa == 0.0f) {
    block.dmin = -xb / bb;
  } else if (!fit::is_singular(aa, ab, bb)) {
    const float determinant = aa * bb - ab * ab;
    block.d = (xa * bb - xb * ab) / determinant;
    block.dmin = (xa * ab - xb * aa) / determinant;
  }
  block.d = super_scale(std::max(block.d, 0.0f));
  block.dmin = super_scale(std::max(block.dmin, 0.0f));
}

// Settles the groups and fits the super-block's scales to them in turn, as long as the error falls; twice at the most.
template <class Block>
void refine(const float* x, const float* w, fit::Range range, Block& best) {
  float best_error = settle_groups(x, w, range, best);
  for (int round = 0; round < 2; ++round) {
    Block trial = best;
    refit_super_scales(x, w, range, trial);
    const float error = settle_groups(x, w, range, trial);
    if (error >= best_error) break;
    best = trial;
    best_error = error;
  }
}

AffineSuperBlock fit_affine(const float* values, float high, fit::Trials trials) {
  const fit::Range range{0.0f, high};
  std::array<float, super_block> x;
  std::array<float, super_block> w;
  fit::load<super_block>(values, fit::largest_half * highest_6_bits, x.data());
  fit::importance_of<super_block>(x.data(), w.data());

  std::array<float, n_groups_32> scales;
  std::array<float, n_groups_32> mins;
  for (std::size_t g = 0; g < n_groups_32; ++g) {
    const fit::Scale ideal = fit::fit_scale_offset<32>(x.data() + 32 * g, w.data() + 32 * g, high, trials, true);
    scales[g] = ideal.scale;
    mins[g] = -ideal.offset;
  }
  AffineSuperBlock best;
  best.d = fit_super_scale(scales, levels_6_bits, best.scales);
  best.dmin = fit_super_scale(mins, levels_6_bits, best.mins);
  refine(x.data(), w.data(), range, best);
  for (std::size_t i = 0; i < super_block; ++i) {
    const fit::Scale s = best.group(i / 32);
    best.q[i] = static_cast<std::uint8_t>(fit::level_of(x[i], s, range));
  }
  return best;
}

// An unpacked super-block of Q6_K: w = (d * scale) * (q - 32).
struct SymmetricSuperBlock {
  float d = 0.0f;
  std::array<std::int8_t, n_groups_16> scales{};
};

constexpr fit::Range q6_levels{-32.0f, 31.0f};

float settle_groups(const float* x, const float* w, fit::Range range, SymmetricSuperBlock& block) {
  float error = 0.0f;
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    const std::int8_t scale = block.scales[g];
    float best = -1.0f;
    for (int s = std::max(scale - 1, -128); s <= std::min(scale + 1, 127); ++s) {
      const fit::Scale trial{block.d * static_cast<float>(s), 0.0f};
      const float trial_error = fit::error_of<16>(x + 16 * g, w + 16 * g, trial, range);
      if (best >= 0.0f && trial_error >= best) continue;
      best = trial_error;
      block.scales[g] = static_cast<std::int8_t>(s);
    }
    error += best;
  }
  return error;
}

void refit_super_scales(const float* x, const float* w, fit::Range range, SymmetricSuperBlock& block) {
  float aa = 0.0f;
  float xa = 0.0f;
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    const auto scale = static_cast<float>(block.scales[g]);
    const float inverse = fit::reciprocal(block.d * scale);
    const fit::Sums sums = fit::sums_of<16>(x + 16 * g, w + 16 * g, 0.0f, inverse, range);
    aa += scale * scale * sums.qq;
    xa += scale * sums.xq;
  }
  block.d = super_scale(aa > 0.0f ? xa / aa : 0.0f);
}

SymmetricSuperBlock fit_symmetric(const float* x, const float* w) {
  std::array<float, n_groups_16> ideal;
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    ideal[g] = fit::fit_scale<16>(x + 16 * g, w + 16 * g, q6_levels, {4, 0.25f});
  }
  SymmetricSuperBlock best;
  best.d = fit_super_scale(ideal, {-128.0f, 127.0f}, best.scales);
  refine(x, w, q6_levels, best);
  return best;
}

// Decodes Q4_K or Q5_K; q(g, j) is level j of group g.
template <class Block, class Q>
void decode_affine(const Block& block, float* values, Q q) {
  const float d = block.d.value();
  const float dmin = block.dmin.value();
  std::array<std::uint8_t, n_groups_32> scales;
  std::array<std::uint8_t, n_groups_32> mins;
  unpack_scales_mins(block.scales, scales, mins);
  for (std::size_t g = 0; g < n_groups_32; ++g) {
    const float scale = d * static_cast<float>(scales[g]);
    const float min = dmin * static_cast<float>(mins[g]);
    for (std::size_t j = 0; j < 32; ++j) values[32 * g + j] = scale * static_cast<float>(q(g, j)) - min;
  }
}

// Encodes all of Q4_K, and all of Q5_K but the levels' high bits. Returns the levels.
template <class Block>
std::array<std::uint8_t, super_block> encode_affine(const float* values, float high, Block& block) {
  const AffineSuperBlock fitted = fit_affine(values, high, {4, 0.25f});
  block.d.set(fitted.d);
  block.dmin.set(fitted.dmin);
  pack_scales_mins(fitted.scales, fitted.mins, block.scales);
  for (std::size_t run = 0; run < super_block / 64; ++run) {
    const std::uint8_t* q = fitted.q.data() + 64 * run;
    for (std::size_t j = 0; j < 32; ++j) {
      block.qs[32 * run + j] = static_cast<std::uint8_t>((q[j] & 0x0f) | (q[32 + j] & 0x0f) << 4);
    }
  }
  return fitted.q;
}

}  // namespace

void decode(const BlockQ2_K& block, float* values) {
  const float d = block.d.value();
  const float dmin = block.dmin.value();
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    const float scale = d * static_cast<float>(block.scales[g] & 0x0f);
    const float min = dmin * static_cast<float>(block.scales[g] >> 4);
    const std::uint8_t* qs = block.qs.data() + 32 * (g / 8) + 16 * (g % 2);
    const std::size_t shift = 2 * (g % 8 / 2);
    for (std::size_t j = 0; j < 16; ++j) values[16 * g + j] = scale * static_cast<float>((qs[j] >> shift) & 3) - min;
  }
}

void decode(const BlockQ3_K& block, float* values) {
  const float d = block.d.value();
  std::array<std::int8_t, n_groups_16> scales;
  unpack_scales(block.scales, scales);
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    const float scale = d * static_cast<float>(scales[g]);
    const std::uint8_t* qs = block.qs.data() + 32 * (g / 8) + 16 * (g % 2);
    const std::uint8_t* high = block.hmask.data() + 16 * (g % 2);
    const std::size_t shift = 2 * (g % 8 / 2);
    const std::size_t bit = g / 2;
    for (std::size_t j = 0; j < 16; ++j) {
      const int q = ((qs[j] >> shift) & 3) + 4 * ((high[j] >> bit) & 1) - 4;
      values[16 * g + j] = scale * static_cast<float>(q);
    }
  }
}

void decode(const BlockQ4_K& block, float* values) {
  decode_affine(block, values,
                [&](std::size_t g, std::size_t j) { return (block.qs[32 * (g / 2) + j] >> (4 * (g % 2))) & 0x0f; });
}

void decode(const BlockQ5_K& block, float* values) {
  decode_affine(block, values, [&](std::size_t g, std::size_t j) {
    return ((block.qs[32 * (g / 2) + j] >> (4 * (g % 2))) & 0x0f) + 16 * ((block.qh[j] >> g) & 1);
  });
}

void decode(const BlockQ6_K& block, float* values) {
  const float d = block.d.value();
  for (std::size_t g = 0; g < n_groups_16; ++g) {
    const float scale = d * static_cast<float>(block.scales[g]);
    const std::uint8_t* ql = block.ql.data() + 64 * (g / 8) + 16 * (g % 4);
    const std::size_t low_shift = 4 * (g % 8 / 4);
    const std::uint8_t* qh = block.qh.data() + 32 * (g / 8) + 16 * (g % 2);
    const std::size_t high_shift = 2 * (g % 8 / 2);
    for (std::size_t j = 0; j < 16; ++j) {
      const int q = ((ql[j] >> low_shift) & 0x0f) + 16 * ((qh[j] >> high_shift) & 3) - 32;
      values[16 * g + j] = scale * static_cast<float>(q);
    }
  }
}

void decode(const BlockTQ2_0& block, float* values) {
  const float d = block.d.value();
  for (std::size_t i = 0; i < super_block; ++i) {
    const int q = (block.qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
    values[i] = d * static_cast<float>(q - 1);
  }
}

void encode(const float* values, BlockQ4_K& block) { encode_affine(values, 15.0f, block); }

void encode(const float* values, BlockQ5_K& block) {
  const auto q = encode_affine(values, 31.0f, block);
  block.qh.fill(0);
  for (std::size_t i = 0; i < super_block; ++i) block.qh[i % 32] |= static_cast<std::uint8_t>((q[i] >> 4) << (i / 32));
}

void encode(const float* values, BlockQ6_K& block) {
  std::array<float, super_block> x;
  std::array<float, super_block> w;
  fit::load<super_block>(values, fit::largest_half * 128.0f * 32.0f, x.data());
  fit::importance_of<super_block>(x.data(), w.data());
  const SymmetricSuperBlock fitted = fit_symmetric(x.data(), w.data());
  block.d.set(fitted.d);
  block.scales = fitted.scales;
  block.ql.fill(0);
  block.qh.fill(0);
  for (std::size_t i = 0; i < super_block; ++i) {
    const float scale = fitted.d * static_cast<float>(fitted.scales[i / 16]);
    const int q = static_cast<int>(fit::level_of(x[i], {scale, 0.0f}, q6_levels)) + 32;
    block.ql[64 * (i / 128) + i % 64] |= static_cast<std::uint8_t>((q & 0x0f) << (4 * (i % 128 / 64)));
    block.qh[32 * (i / 128) + i % 32] |= static_cast<std::uint8_t>((q >> 4) << (2 * (i % 128 / 32)));
  }
}

}  // namespace plumb::quants
