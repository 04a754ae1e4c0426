// Attention over a block of the KV cache, for all instruction sets.
#pragma once

#include "backends/cpu/vector.h"

namespace plumb::backends::cpu {
namespace {

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
          f16 ? Set::load_f16(static_cast<const std::uint16_t*>(job.k) + at) : load(static_cast<const float*>(job.k) + at);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < rows; ++r) sums[r] += load(q + r * job.head_stride + d) * key;
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) scores[(row + r) * kv_block + s] = Set::sum(sums[r]);
  }
}

template <bool f16>
PLUMB_INLINE void scores_of_rows(const AttendBlock& job, std::size_t begin, std::size_t end, float* scores) {
  std::size_t row = 0;
  for (; row + 4 <= job.n_rows; row += 4) scores_direct<4, f16>(job, row, begin, end, scores);
  for (; row < job.n_rows; ++row) scores_direct<1, f16>(job, row, begin, end, scores);
}

// Rows of the cache as float: the rows themselves, or converted into `scratch`.
PLUMB_INLINE const float* as_float_rows(const void* rows, bool f16, std::size_t begin, std::size_t end, std::size_t stride,
                                        float* scratch) {
  if (!f16) return static_cast<const float*>(rows);
  const auto* halves = static_cast<const std::uint16_t*>(rows);
  for (std::size_t i = begin * stride; i < end * stride; i += lanes) store(scratch + i, Set::load_f16(halves + i));
  return scratch;
}

// Scratch: scores [n_rows][kv_block], rows as float [kv_block][head_stride], keys transposed [head_stride][kv_block].
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
    if (job.f16) {
      scores_of_rows<true>(job, begin, end, scores);
    } else {
      scores_of_rows<false>(job, begin, end, scores);
    }
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
    for (std::size_t s = first; job.slope != nullptr && s < last; ++s) {
      row[s] -= job.slope[r] * (job.distance[r] - static_cast<float>(s));
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
    job.total[r] = Set::sum(total);
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

}  // namespace
}  // namespace plumb::backends::cpu
