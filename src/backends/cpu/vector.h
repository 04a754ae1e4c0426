// Float kernels of all instruction sets: activations, norms, rotations, and the rounding of activations.
//
// Accuracy: exp within 2 ulp; silu and gelu_tanh within 5 ulp where they do not underflow; sums in float32, `lanes` partial
// sums, added pairwise at the end.
#pragma once

#include <math.h>

#include "backends/cpu/plain.h"

namespace plumb::backends::cpu {
namespace {

PLUMB_INLINE Vf larger(Vf a, Vf b) { return a > b ? a : b; }

// e^x: x = n ln2 + r with |r| <= ln2 / 2; e^r by its Taylor polynomial of degree 7 (error below 2^-26). 2^n is two factors,
// so that results are right down to the subnormals and up to infinity.
PLUMB_INLINE Vf exp(Vf x) {
  x = x > splat(89.0f) ? splat(89.0f) : x;
  x = x < splat(-104.0f) ? splat(-104.0f) : x;
  const Vf shift = splat(0x1.8p23f);
  const Vf biased = x * splat(0x1.715476p0f) + shift;
  const Vf n = biased - shift;
  const Vf r = (x - n * splat(0x1.62e4p-1f)) - n * splat(0x1.7f7d1cp-20f);
  Vf p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const Vi exponent = __builtin_convertvector(n, Vi);
  const Vi half = exponent >> 1;
  const Vf scale_a = as<Vf>(__builtin_convertvector(half + 127, Vu) << 23);
  const Vf scale_b = as<Vf>(__builtin_convertvector(exponent - half + 127, Vu) << 23);
  return p * scale_a * scale_b;
}

// The largest magnitude of n values (a multiple of 16). It compares bits, for which NaN > infinity > all numbers.
PLUMB_INLINE float largest_magnitude(const float* x, std::size_t n) {
  Vi most = {};
  for (std::size_t i = 0; i < n; i += lanes) {
    const Vu magnitude = as<Vu>(load(x + i)) & 0x7fffffffu;
    const Vi bits = __builtin_convertvector(magnitude, Vi);
    most = bits > most ? bits : most;
  }
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  return as<float>(largest);
}

// X128::neg_sum and X256::sum16 from plain planes.
template <int planes>
PLUMB_INLINE void fill_sums(X128<planes>& group) {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < wide_parts; ++i) {
    Vi total = {};
#pragma GCC unroll 2
    for (int p = 0; p < planes; ++p) {
      const std::int8_t* q = group.q[p] + i * vector_bytes;
      total = Set::dot(times(total, 128), splat_byte(1), read<Vb>(q));
      total = Set::dot(total, splat_byte(1), read<Vb>(q + 64));
    }
    total = Vi{} - total;
    memcpy(group.neg_sum + i * lanes, &total, sizeof total);
  }
}
template <int planes>
PLUMB_INLINE void fill_sums(X256<planes>& block) {
  for (int p = 0; p < planes; ++p) {
    for (int g = 0; g < 16; ++g) {
      int total = 0;
      for (int i = 0; i < 16; ++i) total += block.q[p][16 * g + i];
      block.sum16[p][g] = static_cast<std::int16_t>(total);
    }
  }
}

constexpr float smallest_amax = 1e-30f;

template <int planes>
constexpr float levels = planes == 1 ? 127.0f : 127.0f * 128.0f;

// levels / amax, or 0 for a block that is rounded to zero.
template <int planes>
PLUMB_INLINE float inverse_scale(float amax) {
  return amax < smallest_amax ? 0.0f : levels<planes> / amax;
}
template <int planes>
PLUMB_INLINE float block_scale(float amax) {
  return amax < smallest_amax ? 0.0f : amax / levels<planes>;
}

// v = round(x * inverse), n a multiple of 16, in planes `stride` apart. Adding 1.5 * 2^23 puts the rounded integer in the
// low bits.
template <int planes>
PLUMB_INLINE void round_values(const float* x, float inverse, std::size_t n, std::int8_t* q, std::size_t stride) {
  typedef std::uint8_t Bytes __attribute__((vector_size(PLUMB_LANES)));
  for (std::size_t i = 0; i < n; i += lanes) {
    const Vf shifted = load(x + i) * splat(inverse) + splat(0x1.8p23f);
    Vu first = as<Vu>(shifted);
    if constexpr (planes == 2) {
      const Vu value = first;
      first = (value + 64u) >> 7;
      const Bytes second = __builtin_convertvector((value - (first << 7)) & 0xffu, Bytes);
      memcpy(q + stride + i, &second, sizeof second);
    }
    const Bytes bytes = __builtin_convertvector(first & 0xffu, Bytes);
    memcpy(q + i, &bytes, sizeof bytes);
  }
}

PLUMB_INLINE void bias(std::int8_t* q, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) q[i] = static_cast<std::int8_t>(q[i] ^ -128);
}

template <int planes>
void round_128(const float* x, std::size_t n, void* to, Sign sign) {
  auto* out = static_cast<X128<planes>*>(to);
  for (std::size_t start = 0; start < n; start += 128, ++out) {
    const std::size_t n_blocks = n - start < 128 ? (n - start) / 32 : 4;
    if (n_blocks < 4) memset(out, 0, sizeof *out);
    for (std::size_t b = 0; b < n_blocks; ++b) {
      const float* block = x + start + 32 * b;
      const float amax = largest_magnitude(block, 32);
      round_values<planes>(block, inverse_scale<planes>(amax), 16, out->q[0] + 16 * b, 128);
      round_values<planes>(block + 16, inverse_scale<planes>(amax), 16, out->q[0] + 64 + 16 * b, 128);
      out->scale[b] = block_scale<planes>(amax);
    }
    fill_sums(*out);
    for (std::size_t b = 0; b < 4; ++b) {
      const std::int32_t* part = out->neg_sum + 4 * b;
      out->scaled_sum[b] = out->scale[b] * static_cast<float>(-(part[0] + part[1] + part[2] + part[3]));
    }
    if (sign == Sign::biased) bias(out->q[0], planes * 128);
  }
}

template <int planes>
void round_256(const float* x, std::size_t n, void* to, Sign sign) {
  auto* out = static_cast<X256<planes>*>(to);
  for (std::size_t start = 0; start < n; start += 256, ++out) {
    const float amax = largest_magnitude(x + start, 256);
    round_values<planes>(x + start, inverse_scale<planes>(amax), 256, out->q[0], 256);
    out->scale = block_scale<planes>(amax);
    fill_sums(*out);
    if (sign == Sign::biased) bias(out->q[0], planes * 256);
  }
}

void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* y) {
  Vf squares = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) squares += load(x + i) * load(x + i);
  if (i < n) {
    const Vf tail = load_part(x + i, n - i);
    squares += tail * tail;
  }
  const Vf scale = splat(1.0f / sqrtf(Set::sum(squares) / static_cast<float>(n) + eps));
  if (weight == nullptr) {
    for (i = 0; i + lanes <= n; i += lanes) store(y + i, load(x + i) * scale);
    if (i < n) store_part(y + i, load_part(x + i, n - i) * scale, n - i);
    return;
  }
  for (i = 0; i + lanes <= n; i += lanes) store(y + i, load(x + i) * scale * load(weight + i));
  if (i < n) store_part(y + i, load_part(x + i, n - i) * scale * load_part(weight + i, n - i), n - i);
}

void add(const float* a, const float* b, std::size_t n, float* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, load(a + i) + load(b + i));
  for (; i < n; ++i) y[i] = a[i] + b[i];
}

// x / (1 + e^-s), by e^-|s|, which cannot overflow.
PLUMB_INLINE Vf gate_by_sigmoid(Vf x, Vf s) {
  const Vf e = exp(as<Vf>(as<Vu>(s) | 0x80000000u));
  return (s < Vf{} ? x * e : x) / (splat(1.0f) + e);
}

struct Silu {
  PLUMB_INLINE Vf apply(Vf x, const Gated& g) { return gate_by_sigmoid(x, splat(g.alpha) * x); }
};
// Within 3 * 2^-24 of the exact value; a small value may have a larger relative error.
PLUMB_INLINE Vf tanh(Vf x) { return splat(1.0f) - splat(2.0f) / (exp(x + x) + splat(1.0f)); }

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)).
struct GeluTanh {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) {
    const Vf u = splat(0.7978845608f) * (x + splat(0.044715f) * x * x * x);
    return gate_by_sigmoid(x, u + u);
  }
};
struct GeluErf {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) {
    float values[lanes];
    store(values, x);
    for (float& value : values) value = 0.5f * value * (1.0f + erff(value * 0.70710678f));
    return load(values);
  }
};
struct Relu {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) { return x > Vf{} ? x : Vf{}; }
};
struct ReluSquared {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) { return x > Vf{} ? x * x : Vf{}; }
};
struct Sigmoid {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) { return gate_by_sigmoid(splat(1.0f), x); }
};
struct Tanh {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) {
    float values[lanes];
    store(values, x);
    for (float& value : values) value = tanhf(value);
    return load(values);
  }
};
struct Identity {
  PLUMB_INLINE Vf apply(Vf x, const Gated&) { return x; }
};
struct XieluFn {
  PLUMB_INLINE Vf apply(Vf x, const Gated& g) {
    float values[lanes];
    store(values, x);
    for (float& value : values) {
      const float curved =
          value > 0 ? g.positive * value * value : g.negative * (expm1f(value < g.eps ? value : g.eps) - value);
      value = g.beta * value + curved;
    }
    return load(values);
  }
};

template <class Activation>
PLUMB_INLINE Vf gated_at(const Gated& g, Vf gate, Vf up) {
  const Vf limit = splat(g.limit), least = splat(-g.limit);
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < least ? least : up;
  return Activation::apply(gate, g) * (up + splat(g.up_offset));
}
template <class Activation>
void gated(const Gated& g, std::size_t n, float* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, gated_at<Activation>(g, load(g.gate + i), load(g.up + i)));
  if (i < n) store_part(y + i, gated_at<Activation>(g, load_part(g.gate + i, n - i), load_part(g.up + i, n - i)), n - i);
}

template <bool adjacent>
void rope(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y) {
  const std::size_t pairs = n_rot / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::size_t at_a = adjacent ? 2 * i : i;
    const std::size_t at_b = adjacent ? 2 * i + 1 : pairs + i;
    const float a = x[at_a];
    const float b = x[at_b];
    y[at_a] = a * cos_sin[i] - b * cos_sin[pairs + i];
    y[at_b] = a * cos_sin[pairs + i] + b * cos_sin[i];
  }
  if (n_rot < head_dim) memcpy(y + n_rot, x + n_rot, (head_dim - n_rot) * sizeof(float));
}

void to_f16(const float* x, std::size_t n, std::uint16_t* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) Set::store_f16(y + i, load(x + i));
  if (i < n) {
    std::uint16_t tail[lanes];
    Set::store_f16(tail, load_part(x + i, n - i));
    memcpy(y + i, tail, (n - i) * sizeof(std::uint16_t));
  }
}

}  // namespace
}  // namespace plumb::backends::cpu
