#include "diagnose/fast_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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

// Sixteen sums side by side, as in the reference, in vectors of 32 bytes. (Compilers find slower ways for loops over two
// rows.)
template <class T>
struct Sums {
  using Vector __attribute__((vector_size(32))) = T;
  static constexpr std::size_t width = 32 / sizeof(T);
  Vector of[n_sums / width] = {};

  __attribute__((always_inline)) void add_products(const T* w, const T* x) {
    for (std::size_t i = 0; i < n_sums / width; ++i) {
      Vector a, b;
      std::memcpy(&a, w + i * width, sizeof a);
      std::memcpy(&b, x + i * width, sizeof b);
      of[i] += a * b;
    }
  }
  [[nodiscard]] __attribute__((always_inline)) T total(T rest) const {
    for (std::size_t i = 0; i < n_sums; ++i) rest += of[i / width][i % width];
    return rest;
  }
};

// sum_i w x for two rows of x, which share the loads of w.
template <class T>
struct Two {
  T a, b;
};
template <class T>
__attribute__((always_inline)) inline Two<T> both_dots(const T* w, Two<const T*> x, std::size_t n) {
  Sums<T> a, b;
  std::size_t i = 0;
  for (; i + n_sums <= n; i += n_sums) {
    a.add_products(w + i, x.a + i);
    b.add_products(w + i, x.b + i);
  }
  Two<T> rest{};
  for (; i < n; ++i) {
    rest.a += w[i] * x.a[i];
    rest.b += w[i] * x.b[i];
  }
  return {a.total(rest.a), b.total(rest.b)};
}
PLUMB_CLONES Two<double> dots(const double* w, Two<const double*> x, std::size_t n) { return both_dots(w, x, n); }
PLUMB_CLONES Two<float> dots(const float* w, Two<const float*> x, std::size_t n) { return both_dots(w, x, n); }

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
  const std::vector<double> wide_x(x.begin(), x.end());  // once: to convert takes longer than to multiply
  in_parts(n_out, scene.n_threads, [&](std::uint64_t begin, std::uint64_t end) {
    std::vector<float> w(n_in);
    std::vector<double> wide_w(n_in);
    for (std::uint64_t j = begin; j < end; ++j) {
      if (j % column_stride != 0) continue;
      matrix(j, w);
      std::copy(w.begin(), w.end(), wide_w.begin());
      for (float& v : w) v *= v;  // the spreads want squares
      for (std::size_t r = 0; r < rows; r += 2) {
        const std::size_t next = std::min(r + 1, rows - 1);
        const auto put = [&](float* out, auto of) {
          out[next * n_out + j] = static_cast<float>(of.b);
          out[r * n_out + j] = static_cast<float>(of.a);
        };
        Two<double> sums = dots(wide_w.data(), {&wide_x[r * n_in], &wide_x[next * n_in]}, n_in);
        put(y.data(), Two<double>{sums.a + bias[j], sums.b + bias[j]});
        for (const Spread& spread : spreads)
          put(spread.out, dots(w.data(), {spread.in + r * n_in, spread.in + next * n_in}, n_in));
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
