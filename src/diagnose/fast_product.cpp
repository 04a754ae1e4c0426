#include "diagnose/fast_product.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "base/in_parts.h"
#include "quants/format.h"

// Functions compiled for several processors; the program chooses one version when it starts.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define PLUMB_CLONES __attribute__((target_clones("avx512f", "avx2,fma", "default")))
#else
#define PLUMB_CLONES
#endif

namespace plumb::diagnose {

namespace {

using backends::reference::Scene;

constexpr std::size_t n_sums = 16;

// sum_i w x, in the reference's order of additions.
PLUMB_CLONES double dot(const float* w, const float* x, std::size_t n) {
  double sums[n_sums] = {}, total = 0;
  std::size_t start = 0;
  for (; start + n_sums <= n; start += n_sums) {
    for (std::size_t i = 0; i < n_sums; ++i) sums[i] += static_cast<double>(w[start + i]) * x[start + i];
  }
  for (; start < n; ++start) total += static_cast<double>(w[start]) * x[start];
  return std::accumulate(std::begin(sums), std::end(sums), total);
}

// sum_i w^2 variance
PLUMB_CLONES float dot_of_squares(const float* w, const float* variance, std::size_t n) {
  float sums[n_sums] = {}, total = 0;
  std::size_t start = 0;
  for (; start + n_sums <= n; start += n_sums) {
    for (std::size_t i = 0; i < n_sums; ++i) sums[i] += w[start + i] * w[start + i] * variance[start + i];
  }
  for (; start < n; ++start) total += w[start] * w[start] * variance[start];
  return std::accumulate(std::begin(sums), std::end(sums), total);
}

// The variances of inputs, [rows, n_in], and the variances of outputs that follow from them, [rows, n_out].
struct Spread {
  const float* in = nullptr;
  float* out = nullptr;
};

std::vector<float> computed(const plan::Linear& op, const Scene& scene, std::uint32_t column_stride,
                            std::span<const Spread> spreads) {
  const plan::Weight& weight = scene.plan->weight(op.weight);
  const auto x = scene.value(op.x);
  const std::size_t n_in = weight.in(), n_out = weight.out(), rows = x.size() / n_in;
  const backends::reference::RowSource matrix = scene.weight(op.weight);
  const std::vector<float> bias = op.bias ? scene.vector(*op.bias) : std::vector<float>(n_out, 0.0f);
  std::vector<float> y(rows * n_out, std::numeric_limits<float>::quiet_NaN());
  in_parts(n_out, scene.n_threads, [&](std::uint64_t begin, std::uint64_t end) {
    std::vector<float> w(n_in);
    for (std::uint64_t j = begin; j < end; ++j) {
      if (j % column_stride != 0) continue;
      matrix(j, w);
      for (std::size_t r = 0; r < rows; ++r) {
        y[r * n_out + j] = static_cast<float>(dot(w.data(), x.data() + r * n_in, n_in) + bias[j]);
        for (const Spread& spread : spreads)
          spread.out[r * n_out + j] = dot_of_squares(w.data(), spread.in + r * n_in, n_in);
      }
    }
  });
  return y;
}

// Engines multiply quantized weights with activations in blocks of 8-bit integers: weights in blocks of 256 with blocks of
// 256, other weights with blocks of 32 (vec_dot_type of ggml's type traits:
// https://github.com/ggml-org/ggml/blob/master/src/ggml-cpu/ggml-cpu.c). 0: the weights are not quantized.
std::size_t activation_block(quants::Format format) {
  const std::uint32_t size = quants::info(format).block_size;
  return size == 1 ? 0 : size == 256 ? 256 : 32;
}

// The variance of each element that is rounded to 8 bits in blocks of `size`: step^2 / 12.
std::vector<float> variance_of_blocks(std::span<const float> x, std::size_t size) {
  std::vector<float> variance(x.size());
  for (std::size_t start = 0; start < x.size(); start += size) {
    const std::size_t end = std::min(start + size, x.size());
    float largest = 0;
    for (std::size_t i = start; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
    const double step = largest / 127.0;
    std::fill(variance.begin() + static_cast<std::ptrdiff_t>(start), variance.begin() + static_cast<std::ptrdiff_t>(end),
              static_cast<float>(step * step / 12));
  }
  return variance;
}

}  // namespace

std::vector<float> product(const plan::Linear& op, const Scene& scene, std::uint32_t column_stride) {
  return computed(op, scene, column_stride, {});
}

std::vector<float> product(const plan::Linear& op, const Scene& scene, std::span<const float> variance_of_x,
                           ProductSums& sums) {
  const plan::Weight& weight = scene.plan->weight(op.weight);
  const auto x = scene.value(op.x);
  const std::size_t n = x.size() / weight.in() * weight.out();
  std::vector<float> squares(x.size()), blocks;
  std::transform(x.begin(), x.end(), squares.begin(), [](float v) { return v * v; });
  sums.squares.resize(n);
  std::vector<Spread> spreads{{squares.data(), sums.squares.data()}};
  if (const std::size_t size = activation_block(weight.tensor.format); size > 0) {
    blocks = variance_of_blocks(x, size);
    sums.blocks.resize(n);
    spreads.push_back({blocks.data(), sums.blocks.data()});
  }
  if (!variance_of_x.empty()) {
    sums.inputs.resize(n);
    spreads.push_back({variance_of_x.data(), sums.inputs.data()});
  }
  return computed(op, scene, 1, spreads);
}

}  // namespace plumb::diagnose
