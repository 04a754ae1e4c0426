// Tuned CUDA kernels one by one, executed by the checker, against plain loops in double. (op_test.cpp tests the tuned path
// as a whole.)
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/checker/checker.h"
#include "backends/checker/runtime.h"
#include "backends/cuda/kernels.h"
#include "backends/exact_attention.h"
#include "backends/random_rows.h"
#include "base/half.h"

// The checker's hook for a read, which instrumented kernels call.
extern "C" void __tsan_unaligned_read4(void* p);  // NOLINT(bugprone-reserved-identifier,readability-identifier-naming)

namespace plumb::backends {
namespace {

class OnDevice {
 public:
  template <class T>
  T* give(const std::vector<T>& values, std::string_view what) {
    T* p = room<T>(values.size(), what);
    const auto uploaded =
        device_->upload({memories_.back().get(), 0, values.size() * sizeof(T)}, std::as_bytes(std::span(values)));
    EXPECT_TRUE(uploaded);
    return p;
  }
  template <class T>
  T* room(std::size_t n, std::string_view what) {
    memories_.push_back(*device_->allocate(n * sizeof(T), what));
    return reinterpret_cast<T*>(checker::address_of({memories_.back().get(), 0, n * sizeof(T)}));
  }
  template <class T>
  std::vector<T> take(std::size_t memory) {
    std::vector<T> values(memories_[memory]->size() / sizeof(T));
    const auto downloaded = device_->download({memories_[memory].get(), 0, memories_[memory]->size()},
                                              std::as_writable_bytes(std::span(values)));
    EXPECT_TRUE(downloaded) << downloaded.error().message;
    return values;
  }
  [[nodiscard]] std::size_t last() const { return memories_.size() - 1; }

 private:
  std::unique_ptr<gpu::Device> device_ = make_checker_device();
  std::vector<std::unique_ptr<gpu::Memory>> memories_;
};

// A row that a kernel rounds.
class RoundedRow {
 public:
  cuda::Rounded room(OnDevice& device, unsigned n) {
    cuda::Rounded rounded;
    rounded.words = reinterpret_cast<uint4*>(device.room<std::byte>(cuda::rounded_words_bytes(n), "words"));
    words_ = device.last();
    rounded.scales = reinterpret_cast<float4*>(device.room<std::byte>(cuda::rounded_scales_bytes(n), "scales"));
    scales_ = device.last();
    return rounded;
  }
  // The next product reads x as 128 * high + low steps. It is off by at most half a step, plus the error of a float
  // quotient of up to 16256. The sums of multiples are checked too.
  void expect(OnDevice& device, const std::vector<float>& x) const {
    const auto planes = device.take<signed char>(words_);
    const auto scales = device.take<float>(scales_);
    const std::size_t n_groups = x.size() / 32;
    for (std::size_t group = 0; group < n_groups; ++group) {
      const float step = scales[4 * group];
      for (const std::size_t half : {0U, 1U}) {
        int sum = 0;
        for (std::size_t i = 0; i < 16; ++i) {
          const int multiple =
              128 * planes[16 * (half * n_groups + group) + i] + planes[16 * ((2 + half) * n_groups + group) + i];
          sum += multiple;
          ASSERT_NEAR(multiple * double{step}, x[32 * group + 16 * half + i], 0.505 * step) << "group " << group;
        }
        ASSERT_EQ(scales[4 * group + 1 + half], step * static_cast<float>(sum)) << "group " << group;
      }
    }
  }

 private:
  std::size_t words_ = 0, scales_ = 0;
};

// Keys and values of the positions before ends[slot]. Those after are NaN, so that reading them shows.
struct RandomCache {
  template <class Shape>
  RandomCache(const Shape& shape, std::vector<std::size_t> ends, std::mt19937& random)
      : keys(ends.size() * shape.n_kv_heads * shape.capacity * shape.head_dim, 0x7e00), values(keys) {
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t row = i / shape.head_dim;
      if (row % shape.capacity >= ends[row / shape.capacity / shape.n_kv_heads]) continue;
      keys[i] = f32_to_f16(normal(random));
      values[i] = f32_to_f16(normal(random));
    }
  }
  // All arguments except the rows' slots and positions, the queries and the results.
  template <class Shape>
  void give(OnDevice& device, const Shape& shape, cuda::CacheAttention& a) const {
    a.keys = reinterpret_cast<const __half*>(device.give(keys, "keys"));
    a.values = reinterpret_cast<const __half*>(device.give(values, "values"));
    a.n_heads = shape.n_heads;
    a.n_kv_heads = shape.n_kv_heads;
    a.head_dim = shape.head_dim;
    a.capacity = shape.capacity;
    a.window = shape.window;
    a.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  }
  [[nodiscard]] ExactAttention exact(std::span<const float> q, unsigned head, unsigned slot, unsigned position,
                                     const cuda::CacheAttention& a) const {
    const std::size_t kv_head = std::size_t{slot} * a.n_kv_heads + std::size_t{head} * a.n_kv_heads / a.n_heads;
    const std::size_t base = kv_head * a.capacity * a.head_dim;
    const auto of = [&](const std::vector<std::uint16_t>& plane) {
      return [&plane, base, &a](std::size_t s, std::size_t i) { return f16_to_f32(plane[base + s * a.head_dim + i]); };
    };
    return exact_attention(q, position, a.window, a.scale, of(keys), of(values));
  }

  std::vector<std::uint16_t> keys, values;
};

struct Shape {
  unsigned n_heads, n_kv_heads, head_dim, position, capacity, window, n_splits;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.n_heads << " heads, " << s.n_kv_heads << " kv heads of " << s.head_dim << ", position " << s.position
       << ", window " << s.window << ", " << s.n_splits << " splits";
}

class CudaDecodeAttention : public testing::TestWithParam<Shape> {};

// One token, whose result is also rounded; and three tokens of two sequences, one of which is short.
TEST_P(CudaDecodeAttention, IsTheSoftmaxOfItsScores) {
  const Shape& shape = GetParam();
  std::mt19937 random(shape.position * 31 + shape.n_heads);
  std::normal_distribution<float> normal;
  const RandomCache cache(shape, {shape.position / 3 + 1, shape.position + 1}, random);
  for (const bool one : {true, false}) {
    const std::vector<unsigned> slots = one ? std::vector{1u} : std::vector{1u, 0u, 1u};
    const std::vector<unsigned> positions =
        one ? std::vector{shape.position} : std::vector{shape.position, shape.position / 3, shape.position / 2};
    const auto n_tokens = static_cast<unsigned>(slots.size());
    const unsigned width = shape.n_heads * shape.head_dim;
    std::vector<float> q(std::size_t{n_tokens} * width);
    for (float& x : q) x = 2 * normal(random);

    OnDevice device;
    cuda::DecodeAttention a;
    a.slots = device.give(slots, "slots");
    a.positions = device.give(positions, "positions");
    a.n_tokens = n_tokens;
    a.q = device.give(q, "q");
    cache.give(device, shape, a);
    a.partial =
        device.room<float>(std::size_t{n_tokens} * shape.n_heads * shape.n_splits * (shape.head_dim + 2), "partial");
    a.n_splits = shape.n_splits;
    a.y = device.room<float>(q.size(), "y");
    const std::size_t y_at = device.last();
    RoundedRow rounded;
    if (one) a.rounded = rounded.room(device, width);
    ASSERT_TRUE(cuda::decode_attention_takes(shape.head_dim));
    checker::machine.kernel = "decode_attention";
    ASSERT_EQ(cuda::decode_attention(a, nullptr), cudaSuccess) << checker::machine.fault;
    ASSERT_EQ(cuda::attention_merge_round(a, nullptr), cudaSuccess) << checker::machine.fault;

    const auto actual = device.take<float>(y_at);
    if (one) rounded.expect(device, actual);
    for (unsigned t = 0; t < n_tokens; ++t) {
      for (unsigned h = 0; h < shape.n_heads; ++h) {
        const std::size_t row = std::size_t{t} * width + std::size_t{h} * shape.head_dim;
        const ExactAttention exact = cache.exact(std::span(q).subspan(row, shape.head_dim), h, slots[t], positions[t], a);
        for (unsigned i = 0; i < shape.head_dim; ++i) {
          ASSERT_NEAR(actual[row + i], exact.out[i], exact.of_float() * exact.absolute[i] + 1e-37)
              << "token " << t << " of " << n_tokens << ", head " << h << ", element " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecodeAttention,
                         testing::Values(Shape{4, 2, 64, 0, 8, 0, 1}, Shape{4, 2, 64, 5, 8, 0, 1},
                                         Shape{9, 3, 64, 70, 128, 0, 4}, Shape{14, 2, 64, 33, 64, 0, 2},
                                         Shape{32, 4, 64, 100, 128, 0, 8}, Shape{8, 2, 128, 300, 320, 0, 4},
                                         Shape{8, 8, 128, 17, 32, 0, 8}, Shape{16, 2, 128, 40, 64, 0, 2},
                                         Shape{4, 2, 128, 200, 256, 64, 4}, Shape{4, 2, 64, 200, 256, 7, 8},
                                         Shape{6, 2, 128, 95, 96, 0, 16}, Shape{4, 4, 64, 150, 160, 0, 70}));

// Rows shorter and longer than a block keeps in registers, and rows whose last round is not full.
TEST(CudaNorms, AreScaledAndRounded) {
  for (const unsigned n : {32U, 576U, 1024U, 2048U, 4096U, 8192U, 8288U, 20000U}) {
    SCOPED_TRACE(n);
    std::mt19937 random(n);
    std::normal_distribution<float> normal;
    std::vector<float> x(n), weight(n);
    for (float& v : x) v = normal(random);
    for (float& v : weight) v = normal(random);
    OnDevice device;
    RoundedRow row;
    const float* x_there = device.give(x, "x");
    const float* weight_there = device.give(weight, "weight");
    auto* y = device.room<float>(n, "y");
    const std::size_t y_at = device.last();
    const cuda::Rounded rounded = row.room(device, n);
    checker::machine.kernel = "norm_round";
    ASSERT_EQ(cuda::round_row(x_there, weight_there, n, 1e-5F, y, rounded, nullptr), cudaSuccess) << checker::machine.fault;
    const auto actual = device.take<float>(y_at);
    double squares = 0;
    for (const float v : x) squares += double{v} * v;
    const double scale = 1 / std::sqrt(squares / n + double{1e-5F});
    for (unsigned i = 0; i < n; ++i) {
      const double expected = x[i] * scale * weight[i];
      ASSERT_NEAR(actual[i], expected, (n / 2.0 + 8) * 0x1p-24 * std::abs(expected) + 1e-37) << "element " << i;
    }
    row.expect(device, actual);
  }
}

struct Prompt {
  unsigned n_heads, n_kv_heads, head_dim, first, n_tokens, capacity, window;
};
void PrintTo(const Prompt& s, std::ostream* out) {
  *out << s.n_heads << " heads, " << s.n_kv_heads << " kv heads of " << s.head_dim << ", " << s.n_tokens << " tokens after "
       << s.first << ", window " << s.window;
}

class CudaPromptAttention : public testing::TestWithParam<Prompt> {};

TEST_P(CudaPromptAttention, IsTheSoftmaxOfItsScores) {
  const Prompt& shape = GetParam();
  std::mt19937 random(shape.n_tokens * 31 + shape.first);
  std::normal_distribution<float> normal;
  std::vector<float> q(std::size_t{shape.n_tokens} * shape.n_heads * shape.head_dim);
  for (float& x : q) x = 2 * normal(random);
  const RandomCache cache(shape, {0, shape.first + shape.n_tokens}, random);
  OnDevice device;
  cuda::CacheAttention a;
  a.slots = device.give<unsigned>({1}, "slots");
  a.positions = device.give<unsigned>({shape.first}, "positions");
  a.n_tokens = shape.n_tokens;
  a.q = device.give(q, "q");
  cache.give(device, shape, a);
  a.y = device.room<float>(q.size(), "y");
  const std::size_t y_at = device.last();
  ASSERT_TRUE(cuda::prompt_attention_takes(shape.head_dim));
  checker::machine.kernel = "prompt_attention";
  ASSERT_EQ(cuda::prompt_attention(a, nullptr), cudaSuccess) << checker::machine.fault;

  const auto actual = device.take<float>(y_at);
  for (unsigned token = 0; token < shape.n_tokens; ++token) {
    for (unsigned h = 0; h < shape.n_heads; ++h) {
      const std::size_t row = (std::size_t{token} * shape.n_heads + h) * shape.head_dim;
      const ExactAttention exact = cache.exact(std::span(q).subspan(row, shape.head_dim), h, 1, shape.first + token, a);
      for (unsigned i = 0; i < shape.head_dim; ++i) {
        // Queries rounded to half change a score by at most 2^-11 of its terms' magnitudes, and the score changes both its
        // weight and the sum of weights. Weights rounded to half add 2^-11, and float sums as much as in decode attention.
        // Weights below half's smallest normal number, 2^-14, are off by at most 2^-25 each.
        const double allowed = (2 * exact.magnitude * 0x1p-11 + 0x1p-11 + exact.of_float()) * exact.absolute[i] +
                               static_cast<double>(exact.n_positions) * 0x1p-25 * 6 / exact.total + 1e-37;
        ASSERT_NEAR(actual[row + i], exact.out[i], allowed) << "token " << token << ", head " << h << ", element " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaPromptAttention,
                         testing::Values(Prompt{2, 1, 64, 0, 1, 8, 0}, Prompt{2, 2, 64, 0, 64, 64, 0},
                                         Prompt{3, 1, 64, 0, 65, 80, 0}, Prompt{2, 1, 128, 0, 100, 128, 0},
                                         Prompt{2, 1, 128, 77, 30, 128, 0}, Prompt{1, 1, 128, 64, 64, 128, 0},
                                         Prompt{2, 1, 96, 5, 70, 96, 0}, Prompt{2, 2, 64, 90, 70, 192, 40},
                                         Prompt{1, 1, 64, 150, 33, 192, 3}, Prompt{2, 1, 128, 10, 90, 128, 64}));

template <class Predicate>
std::vector<quants::Format> formats_where(Predicate predicate) {
  std::vector<quants::Format> found;
  for (const quants::FormatInfo& info : quants::formats()) {
    if (predicate(info)) found.push_back(info.format);
  }
  return found;
}

// Two products of one format with the same input.
cuda::Products two_products(const quants::FormatInfo& info, unsigned n_in, bool gated) {
  cuda::Products p;
  p.n_products = 2;
  p.format = static_cast<unsigned>(info.format);
  p.n_in = n_in;
  p.row_bytes = static_cast<unsigned>(info.row_bytes(n_in));
  p.gated = gated;
  return p;
}

class CudaProducts : public testing::TestWithParam<quants::Format> {};

// Rows of one block; of an odd number of blocks, which begin at multiples of 2 bytes; of less and more than the 64 groups
// that a warp copies at a time. Few and many outputs; two products in one launch, with bias and residual; gated pairs.
TEST_P(CudaProducts, AreSumsOfProducts) {
  const quants::FormatInfo& info = quants::info(GetParam());
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const bool small = info.block_size == 32;
  for (const unsigned n_blocks :
       small ? std::vector<unsigned>{1, 3, 4, 64, 65, 70, 132} : std::vector<unsigned>{1, 2, 8, 9, 18}) {
    for (const bool gated : {false, true}) {
      const unsigned n_in = n_blocks * info.block_size;
      const std::vector<unsigned> n_outs = gated ? std::vector<unsigned>{21, 21} : std::vector<unsigned>{37, 1};
      SCOPED_TRACE(std::string(info.name) + ", " + std::to_string(n_in) + (gated ? " inputs, gated" : " inputs"));
      OnDevice device;
      cuda::Products p = two_products(info, n_in, gated);
      std::vector<float> x(n_in);
      for (float& v : x) v = normal(random);
      std::vector<std::vector<float>> weights, biases, residuals;
      std::vector<std::size_t> y_at;
      for (unsigned k = 0; k < 2; ++k) {
        auto rows = random_rows(info, n_in, n_outs[k], random);
        weights.emplace_back(std::size_t{n_in} * n_outs[k]);
        info.decode(rows.data(), weights[k].data(), std::size_t{n_blocks} * n_outs[k]);
        biases.emplace_back(n_outs[k]);
        residuals.emplace_back(n_outs[k]);
        for (float& v : biases[k]) v = normal(random);
        for (float& v : residuals[k]) v = normal(random);
        rows.resize(rows.size() + 2);  // as an upload leaves room for loads of 4 bytes at multiples of 2
        p.product[k].w = reinterpret_cast<const unsigned char*>(device.give(rows, "weights"));
        p.product[k].bias = device.give(biases[k], "bias");
        if (!gated) p.product[k].residual = device.give(residuals[k], "residual");
        if (!gated || k == 0) p.product[k].y = device.room<float>(n_outs[k], "y"), y_at.push_back(device.last());
        p.product[k].n_out = n_outs[k];
      }
      const float* x_there = device.give(x, "x");
      cuda::Rounded rounded;
      rounded.words = reinterpret_cast<uint4*>(device.room<std::byte>(cuda::rounded_words_bytes(n_in), "words"));
      rounded.scales = reinterpret_cast<float4*>(device.room<std::byte>(cuda::rounded_scales_bytes(n_in), "scales"));
      ASSERT_TRUE(cuda::takes_rounded(p.format));
      checker::machine.kernel = "multiply";
      ASSERT_EQ(cuda::round_row(x_there, nullptr, n_in, 0, nullptr, rounded, nullptr), cudaSuccess)
          << checker::machine.fault;
      ASSERT_EQ(cuda::multiply(p, x_there, rounded, nullptr), cudaSuccess) << checker::machine.fault;

      const auto sum_of = [&](unsigned k, unsigned row, double& allowed) {
        double sum = biases[k][row];
        allowed = 0;
        for (unsigned g = 0; g < n_in / 32; ++g) {
          double amax = 0, of_x = 0, of_w = 0, most = 0;
          for (unsigned i = 32 * g; i < 32 * g + 32; ++i) {
            const double w = weights[k][std::size_t{row} * n_in + i];
            sum += w * x[i];
            amax = std::max<double>(amax, std::abs(x[i]));
            of_x += std::abs(x[i]);
            of_w += std::abs(w);
            most = std::max(most, std::abs(w));
          }
          // Half a step of rounding for each activation, and float sums, in which the terms of scale and minimum may
          // cancel.
          allowed += 0.51 * amax / (127.0 * 128) * of_w + 4 * most * of_x * (n_in / 64.0 + 64) * 0x1p-24;
        }
        return sum;
      };
      if (gated) {
        const auto y = device.take<float>(y_at[0]);
        for (unsigned row = 0; row < n_outs[0]; ++row) {
          double of_gate = 0, of_up = 0;
          const double gate = sum_of(0, row, of_gate), up = sum_of(1, row, of_up);
          const double activated = gate / (1 + std::exp(-gate));
          // The derivative of x sigmoid(x) is at most 1.1.
          const double allowed = 1.1 * of_gate * (std::abs(up) + of_up) + std::abs(activated) * of_up +
                                 1e-6 * std::abs(activated * up) + 1e-30;
          ASSERT_NEAR(y[row], activated * up, allowed) << "row " << row;
        }
      } else {
        for (unsigned k = 0; k < 2; ++k) {
          const auto y = device.take<float>(y_at[k]);
          for (unsigned row = 0; row < n_outs[k]; ++row) {
            double allowed = 0;
            const double sum = sum_of(k, row, allowed) + residuals[k][row];
            ASSERT_NEAR(y[row], sum, allowed + 0x1p-22 * (std::abs(sum) + 4)) << "product " << k << ", row " << row;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaProducts,
                         testing::ValuesIn(formats_where([](const auto& format) { return format.block_size > 1; })),
                         [](const auto& format) { return std::string(quants::info(format.param).name); });

class CudaFloatProducts : public testing::TestWithParam<quants::Format> {};

// Rows shorter and longer than a warp reads at a time; with and without a norm inside the product; gated pairs.
TEST_P(CudaFloatProducts, AreSumsOfProducts) {
  const quants::FormatInfo& info = quants::info(GetParam());
  for (const unsigned n_in : {32U, 288U, 2080U}) {
    for (const bool gated : {false, true}) {
      for (const bool normed : {false, true}) {
        SCOPED_TRACE(std::to_string(n_in) + (gated ? " inputs, gated" : " inputs") + (normed ? ", normed" : ""));
        std::mt19937 random(n_in);
        std::normal_distribution<float> normal;
        const unsigned n_out = 21;
        std::vector<float> x(n_in), norm(n_in);
        for (float& v : x) v = normal(random);
        for (float& v : norm) v = normal(random);
        OnDevice device;
        cuda::Products p = two_products(info, n_in, gated);
        std::vector<std::vector<float>> weights, biases;
        std::vector<std::size_t> y_at;
        for (unsigned k = 0; k < 2; ++k) {
          const auto rows = random_rows(info, n_in, n_out, random);
          weights.emplace_back(std::size_t{n_in} * n_out);
          info.decode(rows.data(), weights[k].data(), weights[k].size() / info.block_size);
          biases.emplace_back(n_out);
          for (float& v : biases[k]) v = normal(random);
          p.product[k].w = reinterpret_cast<const unsigned char*>(device.give(rows, "weights"));
          p.product[k].bias = device.give(biases[k], "bias");
          if (!gated || k == 0) p.product[k].y = device.room<float>(n_out, "y"), y_at.push_back(device.last());
          p.product[k].n_out = n_out;
        }
        const float* x_there = device.give(x, "x");
        if (normed) {
          p.norm = device.give(norm, "norm");
          p.eps = 0.01F;
        }
        checker::machine.kernel = "multiply";
        ASSERT_FALSE(cuda::takes_rounded(p.format));
        ASSERT_EQ(cuda::multiply(p, x_there, {}, nullptr), cudaSuccess) << checker::machine.fault;

        double squares = 0;
        for (const float v : x) squares += double{v} * v;
        const double factor = normed ? 1 / std::sqrt(squares / n_in + double{0.01F}) : 1;
        const auto sum_of = [&](unsigned k, unsigned row, double& allowed) {
          double sum = 0, absolute = 0;
          for (unsigned i = 0; i < n_in; ++i) {
            const double term = weights[k][std::size_t{row} * n_in + i] * double{x[i]} * (normed ? norm[i] : 1.0) * factor;
            sum += term;
            absolute += std::abs(term);
          }
          // Float sums, of the product and of squares.
          allowed = (n_in / 16.0 + 32) * 0x1p-24 * absolute;
          return sum + biases[k][row];
        };
        for (unsigned k = 0; k < y_at.size(); ++k) {
          const auto y = device.take<float>(y_at[k]);
          for (unsigned row = 0; row < n_out; ++row) {
            double allowed = 0;
            double expected = sum_of(k, row, allowed);
            if (gated) {
              double of_up = 0;
              const double up = sum_of(1, row, of_up), activated = expected / (1 + std::exp(-expected));
              allowed = 1.1 * allowed * (std::abs(up) + of_up) + std::abs(activated) * of_up;
              expected = activated * up;
            }
            ASSERT_NEAR(y[row], expected, allowed + 0x1p-20 * (std::abs(expected) + 1))
                << "product " << k << ", row " << row;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaFloatProducts,
                         testing::ValuesIn(formats_where([](const auto& format) { return format.block_size == 1; })),
                         [](const auto& format) { return std::string(quants::info(format.param).name); });

class CudaFewRows : public testing::TestWithParam<quants::Format> {};

// Each number of tiles of 8 rows, full and not full; rows from one block to more chunks than there are parts; outputs that
// do not fill a block; two products in one launch, with bias and residual; gated pairs; rows of very different magnitudes.
TEST_P(CudaFewRows, AreSumsOfProducts) {
  const quants::FormatInfo& info = quants::info(GetParam());
  const unsigned block = std::max(32U, static_cast<unsigned>(info.block_size));
  struct Case {
    unsigned n_rows, n_in;
    std::vector<unsigned> n_outs;
    bool gated;
  };
  const std::vector<Case> cases{{2, block, {37, 1}, false},       {8, 2 * block, {40, 40}, true},
                                {13, 5 * block, {130, 3}, false}, {30, block, {20, 33}, false},
                                {64, 2 * block, {33, 33}, true},  {50, 9 * block, {5, 32}, false}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(info.name) + ", " + std::to_string(c.n_rows) + " rows of " + std::to_string(c.n_in));
    std::mt19937 random(c.n_rows);
    std::normal_distribution<float> normal;
    OnDevice device;
    cuda::Products p;
    p.n_products = 2;
    p.format = static_cast<unsigned>(info.format);
    p.n_in = c.n_in;
    p.row_bytes = static_cast<unsigned>(info.row_bytes(c.n_in));
    p.gated = c.gated;
    std::vector<float> x(std::size_t{c.n_rows} * c.n_in);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = std::ldexp(normal(random), c.gated ? 0 : static_cast<int>(i / c.n_in % 5) * 20 - 40);
    }
    std::vector<std::vector<float>> weights, biases, residuals;
    std::vector<std::size_t> y_at;
    for (unsigned k = 0; k < 2; ++k) {
      const unsigned n_out = c.n_outs[k];
      auto rows = random_rows(info, c.n_in, n_out, random);
      weights.emplace_back(std::size_t{c.n_in} * n_out);
      info.decode(rows.data(), weights[k].data(), weights[k].size() / info.block_size);
      rows.resize(rows.size() + 2);  // as an upload leaves room for loads of 4 bytes at multiples of 2
      biases.emplace_back(n_out);
      residuals.emplace_back(std::size_t{c.n_rows} * n_out);
      for (float& v : biases[k]) v = normal(random);
      for (float& v : residuals[k]) v = normal(random);
      p.product[k].w = reinterpret_cast<const unsigned char*>(device.give(rows, "weights"));
      p.product[k].bias = device.give(biases[k], "bias");
      if (!c.gated) p.product[k].residual = device.give(residuals[k], "residual");
      if (!c.gated || k == 0) {
        p.product[k].y = device.room<float>(std::size_t{c.n_rows} * n_out, "y");
        y_at.push_back(device.last());
      }
      p.product[k].n_out = n_out;
    }
    const float* x_there = device.give(x, "x");
    cuda::HalfRows halves;
    halves.halves = device.room<std::byte>(cuda::half_rows_bytes(c.n_rows, c.n_in), "halves");
    halves.scales = device.room<float>(c.n_rows, "scales");
    auto* partial = reinterpret_cast<float*>(device.room<std::byte>(cuda::few_rows_partial_bytes(p, c.n_rows), "partial"));
    ASSERT_TRUE(cuda::takes_few_rows(p.format));
    checker::machine.kernel = "multiply_few";
    ASSERT_EQ(cuda::rows_to_half(x_there, nullptr, c.n_in, c.n_rows, 0, nullptr, halves, nullptr), cudaSuccess)
        << checker::machine.fault;
    ASSERT_EQ(cuda::multiply_few(p, halves, c.n_rows, partial, nullptr), cudaSuccess) << checker::machine.fault;

    const auto sum_of = [&](unsigned k, unsigned r, unsigned j, double& allowed) {
      double sum = biases[k][j], absolute = 0, amax = 0, of_w = 0, of_x = 0;
      for (unsigned i = 0; i < c.n_in; ++i) {
        const double w = weights[k][std::size_t{j} * c.n_in + i], v = x[std::size_t{r} * c.n_in + i];
        sum += w * v;
        absolute += std::abs(w * v);
        amax = std::max(amax, std::abs(v));
        of_w += std::abs(w);
        of_x += std::abs(v);
      }
      // Weights and activations are rounded to half, 2^-11 each where the half is normal. It is not for activations below
      // 2^-29 of the row's largest and for weights below 2^-14. Plus float sums.
      allowed = (2.01 * 0x1p-11 + (c.n_in + 32) * 0x1p-24) * absolute + 0x1p-38 * amax * of_w + 0x1p-25 * of_x;
      return sum;
    };
    for (unsigned k = 0; k < y_at.size(); ++k) {
      const auto y = device.take<float>(y_at[k]);
      for (unsigned r = 0; r < c.n_rows; ++r) {
        for (unsigned j = 0; j < c.n_outs[k]; ++j) {
          double allowed = 0;
          double expected = sum_of(k, r, j, allowed);
          if (c.gated) {
            double of_up = 0;
            const double gate = expected, up = sum_of(1, r, j, of_up), activated = gate / (1 + std::exp(-gate));
            expected = activated * up;
            // The derivative of x sigmoid(x) is at most 1.1.
            allowed = 1.1 * allowed * (std::abs(up) + of_up) + std::abs(activated) * of_up;
          } else {
            expected += residuals[k][std::size_t{r} * c.n_outs[k] + j];
          }
          ASSERT_NEAR(y[std::size_t{r} * c.n_outs[k] + j], expected, allowed + 0x1p-21 * (std::abs(expected) + 4))
              << "product " << k << ", row " << r << ", output " << j;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaFewRows, testing::ValuesIn(formats_where([](const auto& format) {
                           return format.format != quants::Format::f32;
                         })),
                         [](const auto& format) { return std::string(quants::info(format.param).name); });

// A norm of several rows, as float and as halves.
TEST(CudaNorms, OfRowsAreScaledAndHalved) {
  for (const unsigned n : {32U, 576U, 4096U, 8288U}) {
    SCOPED_TRACE(n);
    const unsigned n_rows = 3;
    std::mt19937 random(n);
    std::normal_distribution<float> normal;
    std::vector<float> x(std::size_t{n_rows} * n), weight(n);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(normal(random), static_cast<int>(i / n) * 30 - 30);
    for (float& v : weight) v = normal(random);
    OnDevice device;
    const float* x_there = device.give(x, "x");
    const float* weight_there = device.give(weight, "weight");
    auto* y = device.room<float>(x.size(), "y");
    const std::size_t y_at = device.last();
    cuda::HalfRows halves;
    halves.halves = device.room<std::uint16_t>(cuda::half_rows_bytes(n_rows, n) / 2, "halves");
    const std::size_t halves_at = device.last();
    halves.scales = device.room<float>(n_rows, "scales");
    const std::size_t scales_at = device.last();
    checker::machine.kernel = "norm_rows_to_half";
    ASSERT_EQ(cuda::rows_to_half(x_there, weight_there, n, n_rows, 1e-25F, y, halves, nullptr), cudaSuccess)
        << checker::machine.fault;
    const auto actual = device.take<float>(y_at);
    const auto halved = device.take<std::uint16_t>(halves_at);
    const auto scales = device.take<float>(scales_at);
    for (unsigned r = 0; r < n_rows; ++r) {
      double squares = 0, amax = 0;
      for (unsigned i = 0; i < n; ++i) squares += double{x[r * n + i]} * x[r * n + i];
      const double scale = 1 / std::sqrt(squares / n + double{1e-25F});
      for (unsigned i = 0; i < n; ++i) amax = std::max<double>(amax, std::abs(actual[r * n + i]));
      for (unsigned i = 0; i < n; ++i) {
        const double expected = x[r * n + i] * scale * weight[i];
        ASSERT_NEAR(actual[r * n + i], expected, (n / 2.0 + 8) * 0x1p-24 * std::abs(expected) + 1e-37)
            << "row " << r << ", element " << i;
        ASSERT_NEAR(f16_to_f32(halved[cuda::half_place(r, i, n)]) * scales[r], actual[r * n + i],
                    0x1p-11 * std::abs(actual[r * n + i]) + 0x1p-38 * amax)
            << "row " << r << ", element " << i;
      }
    }
  }
}

// A kernel's pointers have no length, so the checker holds them to the allocation.
TEST(CudaBounds, AreThoseOfTheAllocation) {
  OnDevice device;
  constexpr std::int64_t size = 100;
  auto* x = device.give(std::vector<unsigned char>(size, 1), "x");
  for (const std::int64_t offset : {-100, -5, -4, -3, -1, 0, 1, 50, 95, 96, 97, 99, 100, 101, 200}) {
    unsigned char* at = x + offset;
    checker::machine.kernel = "reader";
    const auto read = [](void* closure) { __tsan_unaligned_read4(*static_cast<unsigned char**>(closure)); };
    const bool inside = offset >= 0 && offset + 4 <= size;
    EXPECT_EQ(checker::run_grid({1, 1, 1}, 1, read, &at, &at, sizeof at), inside) << offset;
    if (!inside) {
      EXPECT_NE(checker::machine.fault.find("reads byte " + std::to_string(offset) + " of x, which has 100"),
                std::string::npos)
          << checker::machine.fault;
    }
  }
}

}  // namespace
}  // namespace plumb::backends
