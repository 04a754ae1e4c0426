// Float kernels written once for every instruction set, on the compilers' vector extension. A kernels_<isa>.cpp defines
// PLUMB_LANES (floats a register: 16, 8 or 4) and load_f16()/store_f16() below, then includes this file. Everything here
// has internal linkage (see kernels.h).
//
// Accuracy: exp within 2 ulp; silu and gelu_tanh within 5 ulp where they do not underflow; sums in float32, PLUMB_LANES
// partial sums, added pairwise at the end.
#pragma once

#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"

namespace plumb::backends::cpu {
namespace {

constexpr std::size_t lanes = PLUMB_LANES;
typedef float Vf __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::int32_t Vi __attribute__((vector_size(4 * PLUMB_LANES)));
typedef std::uint32_t Vu __attribute__((vector_size(4 * PLUMB_LANES)));

#define PLUMB_INLINE static inline __attribute__((always_inline))

// From the including file: `lanes` values of binary16, converted exactly; and rounded to nearest even.
PLUMB_INLINE Vf load_f16(const std::uint16_t* p);
PLUMB_INLINE void store_f16(std::uint16_t* p, Vf v);

PLUMB_INLINE Vf load(const float* p) {
  Vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
PLUMB_INLINE void store(float* p, Vf v) { memcpy(p, &v, sizeof v); }
PLUMB_INLINE Vf splat(float x) { return x - Vf{}; }
PLUMB_INLINE Vf as_float(Vu v) {
  Vf r;
  memcpy(&r, &v, sizeof r);
  return r;
}
PLUMB_INLINE Vu as_bits(Vf v) {
  Vu r;
  memcpy(&r, &v, sizeof r);
  return r;
}
PLUMB_INLINE Vf load_bf16(const std::uint16_t* p) {
  typedef std::uint16_t Vh __attribute__((vector_size(2 * PLUMB_LANES)));
  Vh h;
  memcpy(&h, p, sizeof h);
  return as_float(__builtin_convertvector(h, Vu) << 16);
}

// The lanes added pairwise: i with i + n/2, and so on.
PLUMB_INLINE float sum(Vf v) {
  float x[lanes];
  memcpy(x, &v, sizeof x);
#pragma GCC unroll 4
  for (std::size_t half = lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}
PLUMB_INLINE Vf larger(Vf a, Vf b) { return a > b ? a : b; }
PLUMB_INLINE Vf smaller(Vf a, Vf b) { return a < b ? a : b; }

// e^x: x = n ln2 + r with |r| <= ln2 / 2, e^r by its Taylor polynomial of degree 7 (error below 2^-26), 2^n in two
// factors so that results down to the subnormals and up to infinity come out right.
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
  const Vf scale_a = as_float(__builtin_convertvector(half + 127, Vu) << 23);
  const Vf scale_b = as_float(__builtin_convertvector(exponent - half + 127, Vu) << 23);
  return p * scale_a * scale_b;
}

// From the including file: neg_sum of a group from its (plain) planes; sum16 of a block.
template <int planes>
PLUMB_INLINE void fill_sums(X128<planes>& group);
template <int planes>
PLUMB_INLINE void fill_sums(X256<planes>& block);

// Largest magnitude of n values (a multiple of 16). Compared as bits, where NaN > infinity > all numbers.
PLUMB_INLINE float largest_magnitude(const float* x, std::size_t n) {
  Vi most = {};
  for (std::size_t i = 0; i < n; i += lanes) {
    const Vu magnitude = as_bits(load(x + i)) & 0x7fffffffu;
    const Vi bits = __builtin_convertvector(magnitude, Vi);
    most = bits > most ? bits : most;
  }
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
  float value;
  memcpy(&value, &largest, sizeof value);
  return value;
}

constexpr float smallest_amax = 1e-30f;

template <int planes>
constexpr float levels = planes == 1 ? 127.0f : 127.0f * 128.0f;

// levels / amax, or 0 for a block that becomes zero.
template <int planes>
PLUMB_INLINE float inverse_scale(float amax) {
  return amax < smallest_amax ? 0.0f : levels<planes> / amax;
}
template <int planes>
PLUMB_INLINE float block_scale(float amax) {
  return amax < smallest_amax ? 0.0f : amax / levels<planes>;
}

// v = round(x * inverse), n a multiple of 16, in planes that are `stride` apart. Adding 1.5 * 2^23 leaves the rounded
// integer in the low bits.
template <int planes>
PLUMB_INLINE void round_values(const float* x, float inverse, std::size_t n, std::int8_t* q, std::size_t stride) {
  typedef std::uint8_t Vb __attribute__((vector_size(PLUMB_LANES)));
  for (std::size_t i = 0; i < n; i += lanes) {
    const Vf shifted = load(x + i) * splat(inverse) + splat(0x1.8p23f);
    Vu first = as_bits(shifted);
    if constexpr (planes == 2) {
      const Vu value = first;
      first = (value + 64u) >> 7;
      const Vb second = __builtin_convertvector((value - (first << 7)) & 0xffu, Vb);
      memcpy(q + stride + i, &second, sizeof second);
    }
    const Vb bytes = __builtin_convertvector(first & 0xffu, Vb);
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

// The tail of a row as a full vector: what is past the end reads as zero and is not written.
PLUMB_INLINE Vf load_part(const float* p, std::size_t n) {
  float x[lanes] = {};
  memcpy(x, p, n * sizeof(float));
  return load(x);
}
PLUMB_INLINE void store_part(float* p, Vf v, std::size_t n) {
  float x[lanes];
  store(x, v);
  memcpy(p, x, n * sizeof(float));
}

void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* y) {
  Vf squares = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) squares += load(x + i) * load(x + i);
  if (i < n) {
    const Vf tail = load_part(x + i, n - i);
    squares += tail * tail;
  }
  const Vf scale = splat(1.0f / sqrtf(sum(squares) / static_cast<float>(n) + eps));
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
  const Vf e = exp(as_float(as_bits(s) | 0x80000000u));
  return (s < Vf{} ? x * e : x) / (splat(1.0f) + e);
}

struct Silu {
  PLUMB_INLINE Vf apply(Vf x) { return gate_by_sigmoid(x, x); }
};
// Within 3 * 2^-24 of the exact value: not in relation to a small one.
PLUMB_INLINE Vf tanh(Vf x) { return splat(1.0f) - splat(2.0f) / (exp(x + x) + splat(1.0f)); }

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)).
struct GeluTanh {
  PLUMB_INLINE Vf apply(Vf x) {
    const Vf u = splat(0.7978845608f) * (x + splat(0.044715f) * x * x * x);
    return gate_by_sigmoid(x, u + u);
  }
};
struct GeluErf {
  PLUMB_INLINE Vf apply(Vf x) {
    float values[lanes];
    store(values, x);
    for (float& value : values) value = 0.5f * value * (1.0f + erff(value * 0.70710678f));
    return load(values);
  }
};
struct Relu {
  PLUMB_INLINE Vf apply(Vf x) { return x > Vf{} ? x : Vf{}; }
};

template <class Activation>
void gated(const float* gate, const float* up, std::size_t n, float* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, Activation::apply(load(gate + i)) * load(up + i));
  if (i < n) store_part(y + i, Activation::apply(load_part(gate + i, n - i)) * load_part(up + i, n - i), n - i);
}

void rope_adjacent(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y) {
  const std::size_t pairs = n_rot / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    y[2 * i] = a * cos_sin[i] - b * cos_sin[pairs + i];
    y[2 * i + 1] = a * cos_sin[pairs + i] + b * cos_sin[i];
  }
  if (n_rot < head_dim) memcpy(y + n_rot, x + n_rot, (head_dim - n_rot) * sizeof(float));
}

void rope_halves(const float* x, const float* cos_sin, std::size_t n_rot, std::size_t head_dim, float* y) {
  const std::size_t pairs = n_rot / 2;
  for (std::size_t i = 0; i < pairs; ++i) {
    const float a = x[i];
    const float b = x[pairs + i];
    y[i] = a * cos_sin[i] - b * cos_sin[pairs + i];
    y[pairs + i] = a * cos_sin[pairs + i] + b * cos_sin[i];
  }
  if (n_rot < head_dim) memcpy(y + n_rot, x + n_rot, (head_dim - n_rot) * sizeof(float));
}

void to_f16(const float* x, std::size_t n, std::uint16_t* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store_f16(y + i, load(x + i));
  if (i < n) {
    std::uint16_t tail[lanes];
    store_f16(tail, load_part(x + i, n - i));
    memcpy(y + i, tail, (n - i) * sizeof(std::uint16_t));
  }
}

// c[i][j] = sum_k a[i][k] * b[k][j] for `rows` rows and `columns` vectors of columns, in registers.
template <std::size_t rows, std::size_t columns>
PLUMB_INLINE void product_tile(const float* a, std::size_t lda, const float* b, std::size_t ldb, std::size_t n, float* c,
                               std::size_t ldc) {
  Vf sums[rows][columns] = {};
  for (std::size_t k = 0; k < n; ++k) {
    Vf column[columns];
#pragma GCC unroll 8
    for (std::size_t j = 0; j < columns; ++j) column[j] = load(b + k * ldb + j * lanes);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < rows; ++i) {
      const Vf factor = splat(a[i * lda + k]);
#pragma GCC unroll 8
      for (std::size_t j = 0; j < columns; ++j) sums[i][j] += factor * column[j];
    }
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (std::size_t j = 0; j < columns; ++j) store(c + i * ldc + j * lanes, sums[i][j]);
  }
}

template <std::size_t columns>
PLUMB_INLINE void product_columns(const float* a, std::size_t lda, const float* b, std::size_t ldb, std::size_t m,
                                  std::size_t n, float* c, std::size_t ldc) {
  constexpr std::size_t tile = lanes == 16 ? 6 : 3;
  std::size_t i = 0;
  for (; i + tile <= m; i += tile) product_tile<tile, columns>(a + i * lda, lda, b, ldb, n, c + i * ldc, ldc);
  for (; i < m; ++i) product_tile<1, columns>(a + i * lda, lda, b, ldb, n, c + i * ldc, ldc);
}

// c [m][width] = a [m][n] * b [n][width], width a multiple of 16.
PLUMB_INLINE void product(const float* a, std::size_t lda, const float* b, std::size_t ldb, std::size_t m, std::size_t n,
                          std::size_t width, float* c, std::size_t ldc) {
  constexpr std::size_t step = lanes == 4 ? 2 : 4;
  std::size_t j = 0;
  for (; j + step * lanes <= width; j += step * lanes) product_columns<step>(a, lda, b + j, ldb, m, n, c + j, ldc);
  for (; j < width; j += lanes) product_columns<1>(a, lda, b + j, ldb, m, n, c + j, ldc);
}

// Scores of few rows: each key is read once for up to four rows.
template <std::size_t rows, bool f16>
PLUMB_INLINE void scores_direct(const AttendBlock& job, std::size_t row, std::size_t begin, std::size_t end,
                                float* scores) {
  const float* q = job.q + row * job.head_stride;
  for (std::size_t s = begin; s < end; ++s) {
    Vf sums[rows] = {};
    for (std::size_t d = 0; d < job.head_stride; d += lanes) {
      const std::size_t at = s * job.head_stride + d;
      const Vf key =
          f16 ? load_f16(static_cast<const std::uint16_t*>(job.k) + at) : load(static_cast<const float*>(job.k) + at);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < rows; ++r) sums[r] += load(q + r * job.head_stride + d) * key;
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) scores[(row + r) * kv_block + s] = sum(sums[r]);
  }
}

PLUMB_INLINE void scores_of_rows(const AttendBlock& job, std::size_t begin, std::size_t end, float* scores) {
  std::size_t row = 0;
  for (; row + 4 <= job.n_rows; row += 4) {
    if (job.f16) {
      scores_direct<4, true>(job, row, begin, end, scores);
    } else {
      scores_direct<4, false>(job, row, begin, end, scores);
    }
  }
  for (; row < job.n_rows; ++row) {
    if (job.f16) {
      scores_direct<1, true>(job, row, begin, end, scores);
    } else {
      scores_direct<1, false>(job, row, begin, end, scores);
    }
  }
}

// Rows of the cache as float: themselves, or converted into `scratch`.
PLUMB_INLINE const float* as_float_rows(const void* rows, bool f16, std::size_t begin, std::size_t end, std::size_t stride,
                                        float* scratch) {
  if (!f16) return static_cast<const float*>(rows);
  const auto* halves = static_cast<const std::uint16_t*>(rows);
  for (std::size_t i = begin * stride; i < end * stride; i += lanes) store(scratch + i, load_f16(halves + i));
  return scratch;
}

// Scratch: scores [n_rows][kv_block], rows as float [kv_block][head_stride], keys turned [head_stride][kv_block].
void attend(const AttendBlock& job) {
  constexpr std::size_t direct_rows = 8;
  auto* scores = reinterpret_cast<float*>(job.scratch);
  float* rows = scores + job.n_rows * kv_block;
  std::size_t begin = kv_block;
  std::size_t end = 0;
  for (std::size_t r = 0; r < job.n_rows; ++r) {
    if (job.first[r] >= job.last[r]) continue;
    begin = job.first[r] < begin ? job.first[r] : begin;
    end = job.last[r] > end ? job.last[r] : end;
  }
  if (begin >= end) {
    for (std::size_t r = 0; r < job.n_rows; ++r) job.total[r] = 0.0f;
    return;
  }
  const std::size_t stride = job.head_stride;
  const std::size_t padded_end = (end + head_multiple - 1) / head_multiple * head_multiple;
  if (job.n_rows <= direct_rows) {
    scores_of_rows(job, begin, end, scores);
  } else {
    const float* keys = as_float_rows(job.k, job.f16, begin, end, stride, rows);
    float* turned = rows + kv_block * stride;
    for (std::size_t d = 0; d < stride; ++d) {
      for (std::size_t s = begin; s < end; ++s) turned[d * kv_block + s] = keys[s * stride + d];
      for (std::size_t s = 0; s < begin; ++s) turned[d * kv_block + s] = 0.0f;
      for (std::size_t s = end; s < padded_end; ++s) turned[d * kv_block + s] = 0.0f;
    }
    product(job.q, stride, turned, kv_block, job.n_rows, stride, padded_end, scores, kv_block);
  }
  for (std::size_t r = 0; r < job.n_rows; ++r) {
    float* row = scores + r * kv_block;
    const std::size_t first = job.first[r] < job.last[r] ? job.first[r] : begin;
    const std::size_t last = job.first[r] < job.last[r] ? job.last[r] : begin;
    const float nothing = -__builtin_inff();
    if (job.soft_cap > 0.0f) {
      for (std::size_t s = 0; s < padded_end; s += lanes) {
        store(row + s, splat(job.soft_cap) * tanh(load(row + s) * splat(1.0f / job.soft_cap)));
      }
    }
    for (std::size_t s = 0; s < first; ++s) row[s] = nothing;
    for (std::size_t s = last; s < padded_end; ++s) row[s] = nothing;
    Vf most = splat(nothing);
    for (std::size_t s = 0; s < padded_end; s += lanes) most = larger(load(row + s), most);
    float largest = nothing;
    for (std::size_t i = 0; i < lanes; ++i) largest = most[i] > largest ? most[i] : largest;
    job.largest[r] = largest;
    Vf total = {};
    for (std::size_t s = 0; s < padded_end; s += lanes) {
      const Vf score = load(row + s);
      const Vf p = score == splat(nothing) ? Vf{} : exp(score - splat(largest));
      total += p;
      store(row + s, p);
    }
    job.total[r] = sum(total);
  }
  const float* values = as_float_rows(job.v, job.f16, begin, end, stride, rows);
  product(scores + begin, kv_block, values + begin * stride, stride, job.n_rows, end - begin, stride, job.context, stride);
}

void merge(float largest, float total, const float* context, std::size_t head_stride, float* into_largest,
           float* into_total, float* into_context) {
  if (total == 0.0f) return;
  if (*into_total == 0.0f) {
    *into_largest = largest;
    *into_total = total;
    memcpy(into_context, context, head_stride * sizeof(float));
    return;
  }
  const float most = largest > *into_largest ? largest : *into_largest;
  const float old_share = expf(*into_largest - most);
  const float new_share = expf(largest - most);
  *into_largest = most;
  *into_total = *into_total * old_share + total * new_share;
  for (std::size_t d = 0; d < head_stride; d += lanes) {
    store(into_context + d, load(into_context + d) * splat(old_share) + load(context + d) * splat(new_share));
  }
}

// Float weights, as vectors of float.
struct WeightF32 {
  static constexpr std::size_t bytes = 4;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) {
    Vf v;
    memcpy(&v, p, sizeof v);
    return v;
  }
};
struct WeightF16 {
  static constexpr std::size_t bytes = 2;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) { return load_f16(reinterpret_cast<const std::uint16_t*>(p)); }
};
struct WeightBF16 {
  static constexpr std::size_t bytes = 2;
  PLUMB_INLINE Vf vector(const std::uint8_t* p) { return load_bf16(reinterpret_cast<const std::uint16_t*>(p)); }
};

// `n` < lanes weights as a vector, zeros after them.
template <class Weight>
PLUMB_INLINE Vf weight_part(const std::uint8_t* p, std::size_t n) {
  std::uint8_t bytes[lanes * Weight::bytes] = {};
  memcpy(bytes, p, n * Weight::bytes);
  return Weight::vector(bytes);
}

// One weight row against `tokens` tokens.
template <class Weight, std::size_t tokens>
PLUMB_INLINE void float_row(const Dot& job, std::size_t row, std::size_t token) {
  const std::uint8_t* w = job.weights + row * job.row_bytes;
  const float* x[tokens];
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) {
    x[t] = reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(job.x) + (token + t) * job.x_stride);
  }
  // Two sums a token for one token, so that the additions of one need not wait for each other.
  constexpr std::size_t chains = tokens == 1 ? 4 : 1;
  Vf sums[tokens][chains] = {};
  std::size_t i = 0;
  for (; i + chains * lanes <= job.n_in; i += chains * lanes) {
#pragma GCC unroll 4
    for (std::size_t c = 0; c < chains; ++c) {
      const Vf weight = Weight::vector(w + (i + c * lanes) * Weight::bytes);
#pragma GCC unroll 8
      for (std::size_t t = 0; t < tokens; ++t) sums[t][c] += weight * load(x[t] + i + c * lanes);
    }
  }
  for (; i < job.n_in; i += lanes) {
    const std::size_t n = job.n_in - i < lanes ? job.n_in - i : lanes;
    const Vf weight = weight_part<Weight>(w + i * Weight::bytes, n);
#pragma GCC unroll 8
    for (std::size_t t = 0; t < tokens; ++t) sums[t][0] += weight * load_part(x[t] + i, n);
  }
#pragma GCC unroll 8
  for (std::size_t t = 0; t < tokens; ++t) {
    Vf total = sums[t][0];
#pragma GCC unroll 4
    for (std::size_t c = 1; c < chains; ++c) total += sums[t][c];
    job.y[(token + t) * job.y_stride + row] = sum(total);
  }
}

// Weights of `lanes` rows, one vector for each of up to `float_chunk` inputs, shared by many tokens.
constexpr std::size_t float_chunk = 512;
constexpr std::size_t float_packs_from = 6;

template <class Weight>
PLUMB_INLINE void float_packed(const Dot& job) {
  auto* packed = reinterpret_cast<float*>(job.scratch);
  for (std::size_t row = job.row_begin; row < job.row_end; row += lanes) {
    const std::size_t n_rows = job.row_end - row < lanes ? job.row_end - row : lanes;
    for (std::size_t start = 0; start < job.n_in; start += float_chunk) {
      const std::size_t n = job.n_in - start < float_chunk ? job.n_in - start : float_chunk;
      for (std::size_t r = 0; r < lanes; ++r) {
        const std::uint8_t* w = job.weights + (row + r) * job.row_bytes + start * Weight::bytes;
        for (std::size_t i = 0; i < n; i += lanes) {
          const std::size_t part = n - i < lanes ? n - i : lanes;
          float values[lanes] = {};
          if (r < n_rows) {
            store(values,
                  part == lanes ? Weight::vector(w + i * Weight::bytes) : weight_part<Weight>(w + i * Weight::bytes, part));
          }
          for (std::size_t j = 0; j < part; ++j) packed[(i + j) * lanes + r] = values[j];
        }
      }
      constexpr std::size_t tile = lanes == 16 ? 8 : 6;
      for (std::size_t t = 0; t < job.n_tokens; t += tile) {
        // The last tile starts early and computes some tokens again, into a place that is not kept.
        const std::size_t n_tile = job.n_tokens - t < tile ? job.n_tokens - t : tile;
        const float* x[tile];
        for (std::size_t k = 0; k < tile; ++k) {
          const std::size_t token = t + (k < n_tile ? k : n_tile - 1);
          x[k] = reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(job.x) + token * job.x_stride) + start;
        }
        Vf sums[tile] = {};
        for (std::size_t i = 0; i < n; ++i) {
          const Vf weight = load(packed + i * lanes);
#pragma GCC unroll 8
          for (std::size_t k = 0; k < tile; ++k) sums[k] += weight * splat(x[k][i]);
        }
#pragma GCC unroll 8
        for (std::size_t k = 0; k < tile; ++k) {
          if (k >= n_tile) continue;
          float* y = job.y + (t + k) * job.y_stride + row;
          const Vf before = start == 0 ? Vf{} : load_part(y, n_rows);
          store_part(y, before + sums[k], n_rows);
        }
      }
    }
  }
}

template <class Weight>
void dot_float(const Dot& job) {
  if (job.n_tokens >= float_packs_from) {
    float_packed<Weight>(job);
    return;
  }
  for (std::size_t row = job.row_begin; row < job.row_end; ++row) {
    std::size_t t = 0;
    for (; t + 2 <= job.n_tokens; t += 2) float_row<Weight, 2>(job, row, t);
    if (t < job.n_tokens) float_row<Weight, 1>(job, row, t);
  }
}

}  // namespace
}  // namespace plumb::backends::cpu
