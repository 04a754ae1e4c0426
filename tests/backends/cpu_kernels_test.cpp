// The kernels of every instruction set that this processor has, against decoded weights and sums in double.
//
// The expected value is computed from the same rounded activations, so only float32 rounding may differ: at most one unit
// for each addition and multiplication that a term goes through, times the sum of the terms' magnitudes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>

#include "backends/cpu/cpu.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/schedule.h"
#include "backends/random_rows.h"
#include "base/half.h"
#include "quants/format.h"

namespace plumb::backends::cpu {
namespace {

constexpr double unit = 0x1p-24;

struct AlignedBuffer {
  explicit AlignedBuffer(std::size_t n)
      : bytes(static_cast<std::uint8_t*>(::operator new[](n + 64, std::align_val_t{64})),
              [](std::uint8_t* p) { ::operator delete[](p, std::align_val_t{64}); }) {}
  std::shared_ptr<std::uint8_t> bytes;
};

enum class Weights { random, zero, lowest, highest };

void put_half(std::uint8_t* p, float value) {
  const std::uint16_t bits = f32_to_f16(value);
  std::memcpy(p, &bits, 2);
}

// Blocks with any quantized bits, and with scales of ordinary size.
std::vector<std::uint8_t> make_weights(const quants::FormatInfo& format, std::size_t n_blocks, Weights kind,
                                       std::mt19937& random) {
  std::vector<std::uint8_t> bytes(n_blocks * format.block_bytes);
  for (std::uint8_t& byte : bytes) {
    byte = kind == Weights::random ? static_cast<std::uint8_t>(random()) : kind == Weights::highest ? 0xff : 0;
  }
  std::normal_distribution<float> normal;
  const auto scale = [&] { return kind == Weights::zero ? 0.0f : normal(random); };
  for (std::size_t b = 0; b < n_blocks; ++b) {
    std::uint8_t* p = bytes.data() + b * format.block_bytes;
    using quants::Format;
    switch (format.format) {
      case Format::f32: {
        const float value = scale();
        std::memcpy(p, &value, 4);
        break;
      }
      case Format::f16:
        put_half(p, scale());
        break;
      case Format::bf16: {
        const std::uint16_t bits = f32_to_bf16(scale());
        std::memcpy(p, &bits, 2);
        break;
      }
      case Format::mxfp4:
        p[0] = kind == Weights::lowest ? 0 : static_cast<std::uint8_t>(100 + random() % 40);
        break;
      default:
        for (const std::size_t at : halves_of(format.format)) put_half(p + at, scale());
    }
  }
  return bytes;
}

// The largest part of a block's weights that does not depend on their quantized bits: the minimum, or the offset of formats
// that store weights with one. It is summed separately, so the two sums may cancel.
double largest_min(const quants::FormatInfo& format, const std::uint8_t* p) {
  const auto half_at = [&](std::size_t at) {
    std::uint16_t bits;
    std::memcpy(&bits, p + at, 2);
    return std::abs(double{f16_to_f32(bits)});
  };
  switch (format.format) {
    case quants::Format::q4_1:
    case quants::Format::q5_1:
      return half_at(2);
    case quants::Format::q4_k:
    case quants::Format::q5_k:
      return 63 * half_at(2);
    case quants::Format::q2_k:
      return 15 * half_at(82);
    case quants::Format::q3_k:
      return 32 * 4 * half_at(108);
    case quants::Format::q6_k:
      return 128 * 32 * half_at(208);
    case quants::Format::iq4_xs:
      return 32 * 128 * half_at(0);
    case quants::Format::tq2_0:
      return half_at(64);
    default:
      return 0;
  }
}

std::vector<float> make_activations(std::size_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  const std::uint32_t kind = random() % 4;
  for (float& value : x) {
    value = normal(random);
    if (kind == 1) value = value > 0 ? 3.0f : -3.0f;       // every rounded value is 127 or -127
    if (kind == 2) value *= std::exp(3 * normal(random));  // outliers
    if (kind == 3 && random() % 8 != 0) value = 0;
    value = std::clamp(value, -1e4f, 1e4f);
  }
  return x;
}

// The integer of element `i` of a group or block.
template <int planes, class X>
int integer_at(const X& x, std::size_t i, Sign sign) {
  int value = 0;
  for (int plane = 0; plane < planes; ++plane) {
    const std::int8_t q = x.q[plane][i];
    value = value * 128 + (sign == Sign::plain ? q : static_cast<int>(static_cast<std::uint8_t>(q)) - 128);
  }
  return value;
}

template <int planes>
double rounded_at(Operand kind, const std::uint8_t* row, std::size_t i, Sign sign) {
  if (kind == Operand::x128) {
    const auto& group = reinterpret_cast<const X128<planes>*>(row)[i / 128];
    const std::size_t b = i % 128 / 32;
    return double{group.scale[b]} * integer_at<planes>(group, 64 * (i % 32 / 16) + 16 * b + i % 16, sign);
  }
  const auto& block = reinterpret_cast<const X256<planes>*>(row)[i / 256];
  return double{block.scale} * integer_at<planes>(block, i % 256, sign);
}

// The rounded activations of one token, as numbers.
std::vector<double> read_back(Operand kind, int planes, const std::uint8_t* row, std::size_t n, Sign sign) {
  std::vector<double> x(n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = planes == 1 ? rounded_at<1>(kind, row, i, sign) : rounded_at<2>(kind, row, i, sign);
  }
  return x;
}

class CpuKernels : public testing::TestWithParam<Isa> {
 protected:
  const KernelTable& table = kernels(GetParam());

  void round(Operand kind, int planes, const std::vector<float>& x, void* to, Sign sign) const {
    const KernelTable::Rounded& rounded = table.rounded[planes - 1];
    (kind == Operand::x128 ? rounded.round_128 : rounded.round_256)(x.data(), x.size(), to, sign);
  }
  std::mt19937 random{7};

  void check_dot(const quants::FormatInfo& format, std::size_t n_in, std::size_t n_out, std::size_t n_tokens,
                 Weights kind) {
    const int most_planes = format.block_size == 1 ? 1 : 2;
    for (int planes = 1; planes <= most_planes; ++planes) {
      check_dot(format, n_in, n_out, n_tokens, kind, planes);
      if (HasFatalFailure()) return;
    }
  }

  void check_dot(const quants::FormatInfo& format, std::size_t n_in, std::size_t n_out, std::size_t n_tokens, Weights kind,
                 int planes) {
    SCOPED_TRACE(fmt::format("{} [{}, {}], {} tokens, {} planes, weights {}", format.name, n_out, n_in, n_tokens, planes,
                             static_cast<int>(kind)));
    const Operand activation = operand(format.format);
    const DotFn run = table.rounded[planes - 1].dot[quants::index(format.format)];
    const std::vector<std::uint8_t> weights = make_weights(format, n_out * n_in / format.block_size, kind, random);
    const Sign sign = n_tokens >= table.packs_from ? Sign::biased : Sign::plain;
    const std::size_t stride = operand_bytes(activation, n_in, planes);
    const AlignedBuffer x(stride * n_tokens);
    std::vector<std::vector<float>> given;
    for (std::size_t t = 0; t < n_tokens; ++t) {
      const std::vector<float>& values = given.emplace_back(make_activations(n_in, random));
      std::uint8_t* to = x.bytes.get() + t * stride;
      if (activation == Operand::f32) {
        table.put_floats(values.data(), n_in, t, n_tokens, reinterpret_cast<float*>(x.bytes.get()));
      } else {
        round(activation, planes, values, to, sign);
      }
    }
    const AlignedBuffer scratch(table.scratch_bytes);
    constexpr float untouched = -12345.0f;
    std::vector<float> y((n_out + 2) * n_tokens, untouched);
    Dot dot{};
    dot.weights = weights.data();
    dot.row_bytes = format.row_bytes(n_in);
    dot.n_in = n_in;
    dot.x = x.bytes.get();
    dot.x_stride = stride;
    dot.n_tokens = n_tokens;
    dot.y = y.data() + 1;
    dot.y_stride = n_out + 2;
    dot.scratch = scratch.bytes.get();
    // In two parts, as with two threads.
    dot.row_begin = 0;
    dot.row_end = n_out / 2;
    run(dot);
    dot.row_begin = n_out / 2;
    dot.row_end = n_out;
    run(dot);

    std::vector<float> w(n_in);
    for (std::size_t t = 0; t < n_tokens; ++t) {
      const std::vector<double> values = activation == Operand::f32
                                             ? std::vector<double>(given[t].begin(), given[t].end())
                                             : read_back(activation, planes, x.bytes.get() + t * stride, n_in, sign);
      ASSERT_EQ(y[t * dot.y_stride], untouched);
      ASSERT_EQ(y[t * dot.y_stride + n_out + 1], untouched);
      for (std::size_t r = 0; r < n_out; ++r) {
        const std::uint8_t* row = weights.data() + r * dot.row_bytes;
        format.decode(reinterpret_cast<const std::byte*>(row), w.data(), n_in / format.block_size);
        double expected = 0;
        double magnitude = 0;
        for (std::size_t i = 0; i < n_in; ++i) {
          expected += double{w[i]} * values[i];
          const double min = largest_min(format, row + i / format.block_size * format.block_bytes);
          magnitude += (std::abs(double{w[i]}) + 2 * min) * std::abs(values[i]);
        }
        const std::size_t group = format.block_size == 1 ? 1 : 16;
        const double allowed = (static_cast<double>(n_in / group) + 16) * unit * magnitude + 1e-37;
        ASSERT_NEAR(y[t * dot.y_stride + 1 + r], expected, allowed) << "token " << t << ", row " << r;
      }
    }
  }
};

TEST_P(CpuKernels, DotProductsOfEveryFormat) {
  for (const quants::FormatInfo& format : quants::formats()) {
    const std::vector<std::size_t> lengths = format.block_size == 1    ? std::vector<std::size_t>{1, 5, 16, 33, 64, 530}
                                             : format.block_size == 32 ? std::vector<std::size_t>{32, 96, 128, 160, 576}
                                                                       : std::vector<std::size_t>{256, 768};
    for (const std::size_t n_in : lengths) {
      for (const std::size_t n_out : {1u, 19u}) {
        for (std::size_t n_tokens = 1; n_tokens <= 17; n_tokens += n_tokens < 10 ? 1 : 7) {
          check_dot(format, n_in, n_out, n_tokens, Weights::random);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Numbers of rows, tokens and inputs one less than, equal to, and one more than the kernels take at a time.
TEST_P(CpuKernels, DotProductsAroundTheEdgesOfTiles) {
  const auto around = [](std::initializer_list<std::size_t> edges, std::size_t step) {
    std::vector<std::size_t> sizes;
    for (const std::size_t edge : edges) {
      for (const std::size_t size : {edge - step, edge, edge + step}) {
        if (size > 0) sizes.push_back(size);
      }
    }
    return sizes;
  };
  for (const quants::FormatInfo& format : quants::formats()) {
    const std::size_t block = format.block_size;
    // check_dot() halves the rows.
    for (const std::size_t half : around({table.row_tile / 2, table.row_tile}, 1)) {
      check_dot(format, block == 1 ? 40 : 256, 2 * half, 9, Weights::random);
      check_dot(format, block == 1 ? 40 : 256, 2 * half, 1, Weights::random);
    }
    for (const std::size_t n_tokens : around({2, 4, 8, 12, 16}, 1)) check_dot(format, 256, 9, n_tokens, Weights::random);
    // Products with floats end with a tile of any size.
    for (std::size_t n_tokens = 18; block == 1 && n_tokens < 26; ++n_tokens)
      check_dot(format, 40, 9, n_tokens, Weights::random);
    // The edges: lanes of all sets, chunks of floats, groups of four blocks, and the inputs packed at a time.
    const auto inputs = block == 1    ? around({4, 8, 16, 32, 64, 128, 256, 512}, 1)
                        : block == 32 ? around({128, 256, 2048, 4096}, 32)
                                      : around({2048, 4096}, 256);
    for (const std::size_t n_in : inputs) {
      for (const std::size_t n_tokens : {1u, 2u, 9u}) check_dot(format, n_in, 5, n_tokens, Weights::random);
    }
    if (HasFatalFailure()) return;
  }
}

TEST_P(CpuKernels, DotProductsOfExtremeBlocks) {
  for (const quants::FormatInfo& format : quants::formats()) {
    for (const Weights kind : {Weights::zero, Weights::lowest, Weights::highest}) {
      for (const std::size_t n_tokens : {1u, 3u, 13u}) {
        check_dot(format, 256, 17, n_tokens, kind);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CpuKernels, DotProductsOfLongRows) {
  for (const quants::FormatInfo& format : quants::formats()) {
    for (const std::size_t n_tokens : {1u, 11u}) {
      check_dot(format, format.block_size == 32 ? 2208 : 4608, 5, n_tokens, Weights::random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CpuKernels, ActivationsAreRoundedToTheNearestStep) {
  for (const Activations activations : {Activations::int8, Activations::int16}) {
    const int planes = activations == Activations::int8 ? 1 : 2;
    for (int round_no = 0; round_no < 20; ++round_no) {
      for (const std::size_t n : {32u, 96u, 256u, 800u}) {
        const std::vector<float> x = make_activations(n, random);
        for (const Sign sign : {Sign::plain, Sign::biased}) {
          for (const Operand kind : {Operand::x128, Operand::x256}) {
            const std::size_t block = kind == Operand::x128 ? 32 : 256;
            if (n % block != 0) continue;
            const AlignedBuffer out(operand_bytes(kind, n, planes));
            std::memset(out.bytes.get(), 0x5a, operand_bytes(kind, n, planes));
            round(kind, planes, x, out.bytes.get(), sign);
            const std::vector<double> back = read_back(kind, planes, out.bytes.get(), n, sign);
            for (std::size_t i = 0; i < n; ++i) {
              double amax = 0;
              for (std::size_t j = i / block * block; j < i / block * block + block; ++j)
                amax = std::max(amax, std::abs(double{x[j]}));
              // Half a step, plus the float32 rounding of the scale and the product.
              const double allowed = amax * (0.5 / (activations == Activations::int8 ? 127 : 127 * 128) + 4 * unit);
              ASSERT_NEAR(back[i], x[i], allowed) << i << " of " << n << ", " << planes << " planes";
            }
          }
        }
      }
    }
  }
}

template <int planes>
void check_sums(const KernelTable& table, const std::vector<float>& x) {
  const KernelTable::Rounded& rounded = table.rounded[planes - 1];
  for (const Sign sign : {Sign::plain, Sign::biased}) {
    std::vector<X128<planes>> groups(7);
    rounded.round_128(x.data(), x.size(), groups.data(), sign);
    for (const X128<planes>& group : groups) {
      const bool last = &group == &groups.back();
      for (std::size_t lane = 0; lane < 16; ++lane) {
        // The last group has one block; the places of the other three are zero, whatever their sign.
        if (last && lane >= 4) {
          EXPECT_EQ(group.neg_sum[lane], 0);
          continue;
        }
        int sum = 0;
        for (std::size_t i = 4 * lane; i < 4 * lane + 4; ++i) {
          sum += integer_at<planes>(group, i, sign) + integer_at<planes>(group, 64 + i, sign);
        }
        EXPECT_EQ(group.neg_sum[lane], -sum);
      }
      for (int b = 0; b < 4; ++b) {
        const int sum =
            group.neg_sum[4 * b] + group.neg_sum[4 * b + 1] + group.neg_sum[4 * b + 2] + group.neg_sum[4 * b + 3];
        EXPECT_EQ(group.scaled_sum[b], group.scale[b] * static_cast<float>(-sum));
      }
    }
    for (int b = 1; b < 4; ++b) EXPECT_EQ(groups.back().scale[b], 0.0f);
    std::vector<X256<planes>> blocks(3);
    rounded.round_256(x.data(), 768, blocks.data(), sign);
    for (const X256<planes>& block : blocks) {
      for (int plane = 0; plane < planes; ++plane) {
        for (int g = 0; g < 16; ++g) {
          int sum = 0;
          for (int i = 0; i < 16; ++i) {
            const std::int8_t q = block.q[plane][16 * g + i];
            sum += sign == Sign::biased ? static_cast<std::uint8_t>(q) - 128 : q;
          }
          EXPECT_EQ(block.sum16[plane][g], sum);
        }
      }
    }
  }
}

TEST_P(CpuKernels, ActivationSumsAreThoseOfTheRoundedValues) {
  const std::vector<float> x = make_activations(768 + 32, random);
  check_sums<1>(table, x);
  check_sums<2>(table, x);
}

TEST_P(CpuKernels, ActivationsThatAreNotFiniteShowInTheScale) {
  std::vector<float> x(256, 1.0f);
  X256<1> one;
  X256<2> two;
  const auto round_both = [&] {
    round(Operand::x256, 1, x, &one, Sign::plain);
    round(Operand::x256, 2, x, &two, Sign::plain);
  };
  x[77] = std::numeric_limits<float>::quiet_NaN();
  round_both();
  EXPECT_TRUE(std::isnan(one.scale) && std::isnan(two.scale));
  x[77] = std::numeric_limits<float>::infinity();
  round_both();
  EXPECT_FALSE(std::isfinite(one.scale) || std::isfinite(two.scale));
  std::fill(x.begin(), x.end(), 1e-35f);
  round_both();
  EXPECT_EQ(one.scale, 0.0f);
  EXPECT_EQ(one.q[0][0], 0);
  EXPECT_EQ(two.scale, 0.0f);
  EXPECT_EQ(two.q[0][0] | two.q[1][0], 0);
}

void expect_same(float actual, float expected) {
  if (std::isnan(expected)) {
    ASSERT_TRUE(std::isnan(actual)) << actual;
  } else {
    ASSERT_EQ(actual, expected);
  }
}

// Rows of one weight of each kind, and of one among zeros, times ones: the sum is the weight.
TEST_P(CpuKernels, EveryWeightOfTwoBytesIsReadExactly) {
  constexpr std::size_t n_out = 1u << 16;
  for (const quants::Format format : {quants::Format::f16, quants::Format::bf16}) {
    for (const std::size_t n_in : {1u, 32u}) {
      for (const std::size_t n_tokens : {1u, 9u}) {
        SCOPED_TRACE(fmt::format("format {}, {} inputs, {} tokens", quants::index(format), n_in, n_tokens));
        std::vector<std::uint16_t> weights(n_out * n_in);
        for (std::size_t r = 0; r < n_out; ++r) weights[r * n_in + r % n_in] = static_cast<std::uint16_t>(r);
        const std::vector<float> x(n_in * n_tokens, 1.0f);
        const AlignedBuffer x_there(x.size() * sizeof(float));
        std::memcpy(x_there.bytes.get(), x.data(), x.size() * sizeof(float));
        const AlignedBuffer scratch(table.scratch_bytes);
        std::vector<float> y(n_out * n_tokens);
        Dot dot{};
        dot.weights = reinterpret_cast<const std::uint8_t*>(weights.data());
        dot.row_bytes = 2 * n_in;
        dot.n_in = n_in;
        dot.x = x_there.bytes.get();
        dot.x_stride = n_in * sizeof(float);
        dot.n_tokens = n_tokens;
        dot.y = y.data();
        dot.y_stride = n_out;
        dot.scratch = scratch.bytes.get();
        dot.row_end = n_out;
        table.rounded[0].dot[quants::index(format)](dot);
        for (std::size_t i = 0; i < y.size(); ++i) {
          const auto bits = static_cast<std::uint16_t>(i % n_out);
          expect_same(y[i], format == quants::Format::f16 ? f16_to_f32(bits) : bf16_to_f32(bits));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// A block's scale that is infinite or no number shows in the product; the largest and the smallest numbers are read as
// such.
TEST_P(CpuKernels, ScalesOfBlocksAreReadExactly) {
  constexpr std::size_t n_in = 256;
  for (const quants::FormatInfo& format : quants::formats()) {
    if (format.block_size == 1 || format.format == quants::Format::mxfp4) continue;
    for (const unsigned bits : {0x7c00u, 0xfc00u, 0x7e00u, 0x7c01u, 0xfe00u, 0x7bffu, 0xfbffu, 0x0001u, 0x83ffu, 0x0400u}) {
      const auto scale = static_cast<std::uint16_t>(bits);
      for (const std::size_t at : halves_of(format.format)) {
        for (const std::size_t n_tokens : {1u, 9u}) {
          SCOPED_TRACE(fmt::format("{}, scale {:#x} at byte {}, {} tokens", format.name, scale, at, n_tokens));
          std::vector<std::uint8_t> weights = make_weights(format, n_in / format.block_size, Weights::random, random);
          for (std::size_t b = 0; b < n_in / format.block_size; ++b) {
            for (const std::size_t half : halves_of(format.format))
              put_half(weights.data() + b * format.block_bytes + half, 0);
          }
          std::memcpy(weights.data() + at, &scale, 2);
          const Operand activation = operand(format.format);
          const std::size_t stride = operand_bytes(activation, n_in, 1);
          const AlignedBuffer x(stride * n_tokens), scratch(table.scratch_bytes);
          const std::vector<float> ones(n_in, 1.0f);
          const Sign sign = n_tokens >= table.packs_from ? Sign::biased : Sign::plain;
          for (std::size_t t = 0; t < n_tokens; ++t) round(activation, 1, ones, x.bytes.get() + t * stride, sign);
          std::vector<float> y(n_tokens);
          Dot dot{};
          dot.weights = weights.data();
          dot.row_bytes = format.row_bytes(n_in);
          dot.n_in = n_in;
          dot.x = x.bytes.get();
          dot.x_stride = stride;
          dot.n_tokens = n_tokens;
          dot.y = y.data();
          dot.y_stride = 1;
          dot.scratch = scratch.bytes.get();
          dot.row_end = 1;
          table.rounded[0].dot[quants::index(format.format)](dot);
          std::vector<float> decoded(n_in);
          format.decode(reinterpret_cast<const std::byte*>(weights.data()), decoded.data(), n_in / format.block_size);
          double sum = 0, magnitude = 0;
          for (const float w : decoded) {
            sum += w;
            magnitude += std::abs(w);
          }
          magnitude += n_in * 2 * largest_min(format, weights.data());
          for (const float actual : y) {
            ASSERT_EQ(std::isfinite(actual), std::isfinite(sum)) << actual << " is not " << sum;
            if (std::isfinite(sum)) {
              ASSERT_NEAR(actual, sum, 1e-5 * magnitude + 1e-37);
            }
          }
        }
      }
    }
  }
}

TEST_P(CpuKernels, HalvesRoundToNearestEven) {
  std::vector<float> x;
  for (std::uint32_t half = 0; half < 0x7c00; half += 3) {
    const float here = f16_to_f32(static_cast<std::uint16_t>(half));
    const float next = f16_to_f32(static_cast<std::uint16_t>(half + 1));
    for (const float value : {here, -here, std::nextafter(here, 1e9f), 0.5f * here + 0.5f * next}) x.push_back(value);
  }
  // From 65520 on, a number is nearer to the step that would follow the largest half.
  for (const float value : {std::nextafter(65520.0f, 0.0f), 65520.0f, 65535.0f, 65536.0f, 1e9f, 0x1p-25f, 0x1.000002p-25f,
                            std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::infinity()}) {
    x.insert(x.end(), {value, -value});
  }
  std::vector<std::uint16_t> y(x.size());
  table.to_f16(x.data(), x.size(), y.data());
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], f32_to_f16(x[i])) << x[i];
  const std::vector<float> no_numbers(37, std::numeric_limits<float>::quiet_NaN());
  y.assign(no_numbers.size(), 0);
  table.to_f16(no_numbers.data(), no_numbers.size(), y.data());
  for (const std::uint16_t half : y) ASSERT_TRUE(std::isnan(f16_to_f32(half))) << half;
}

TEST_P(CpuKernels, NormsActivationsAndSums) {
  for (const std::size_t n : {1u, 7u, 16u, 64u, 100u, 576u}) {
    const std::vector<float> x = make_activations(n, random);
    const std::vector<float> w = make_activations(n, random);
    std::vector<float> y(n);
    table.rms_norm(x.data(), w.data(), 1e-5f, n, y.data());
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5f);
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = x[i] * scale * w[i];
      ASSERT_NEAR(y[i], expected, (static_cast<double>(n) / 2 + 4) * unit * std::abs(expected));
    }
    table.add(x.data(), w.data(), n, y.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], x[i] + w[i]);
  }
}

TEST_P(CpuKernels, GatedActivationsWithinUnits) {
  std::vector<float> x;
  for (int i = -2200; i <= 2200; ++i) x.push_back(static_cast<float>(i) * 0.041f);
  for (const float value : {0.0f, 1e-30f, -1e-30f, 1e4f, -1e4f, 1e30f}) x.push_back(value);
  const std::vector<float> up(x.size(), 1.5f);
  std::vector<float> y(x.size());
  const auto check = [&](plan::Activation kind, double relative, double absolute, double (*exact)(double)) {
    table.gated[static_cast<std::size_t>(kind)]({.gate = x.data(),
                                                 .up = up.data(),
                                                 .limit = HUGE_VALF,
                                                 .alpha = 1,
                                                 .positive = 2,
                                                 .negative = 3,
                                                 .beta = 0.5f,
                                                 .eps = 0},
                                                x.size(), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = exact(x[i]) * 1.5;
      if (expected > std::numeric_limits<float>::max()) {
        ASSERT_EQ(y[i], HUGE_VALF) << "of " << x[i];
        continue;
      }
      ASSERT_NEAR(y[i], expected, relative * unit * std::abs(expected) + absolute) << "of " << x[i];
    }
  };
  check(plan::Activation::silu, 10, 1e-37, [](double v) { return v / (1 + std::exp(-v)); });
  check(plan::Activation::relu, 1, 0, [](double v) { return v > 0 ? v : 0; });
  check(plan::Activation::relu_squared, 3, 1e-37, [](double v) { return v > 0 ? v * v : 0; });
  check(plan::Activation::sigmoid, 10, 1e-37, [](double v) { return 1 / (1 + std::exp(-v)); });
  check(plan::Activation::tanh, 10, 1e-37, [](double v) { return std::tanh(v); });
  check(plan::Activation::identity, 1, 0, [](double v) { return v; });
  // Where tanh and erf are close to -1, their error is relative to 1, and is many units of a small result.
  check(plan::Activation::gelu_tanh, 200, 1e-37, [](double v) {
    const double u = 0.7978845608028654 * (v + 0.044715 * v * v * v);
    return v / (1 + std::exp(-2 * u));
  });
  check(plan::Activation::gelu_erf, 16, 1e-5, [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); });
}

TEST_P(CpuKernels, RotationsOfBothPairings) {
  const std::size_t head_dim = 20;
  const std::size_t n_rot = 12;
  const std::vector<float> x = make_activations(head_dim, random);
  std::vector<float> cos_sin(n_rot);
  for (std::size_t i = 0; i < n_rot / 2; ++i) {
    cos_sin[i] = std::cos(static_cast<float>(i) + 0.3f);
    cos_sin[n_rot / 2 + i] = std::sin(static_cast<float>(i) + 0.3f);
  }
  for (const bool adjacent : {true, false}) {
    std::vector<float> y(head_dim, 99.0f);
    (adjacent ? table.rope_adjacent : table.rope_halves)(x.data(), cos_sin.data(), n_rot, head_dim, y.data());
    for (std::size_t i = 0; i < n_rot / 2; ++i) {
      const std::size_t a = adjacent ? 2 * i : i;
      const std::size_t b = adjacent ? 2 * i + 1 : i + n_rot / 2;
      const double c = cos_sin[i];
      const double s = cos_sin[n_rot / 2 + i];
      const double allowed = 4 * unit * (std::abs(x[a]) + std::abs(x[b]));
      EXPECT_NEAR(y[a], x[a] * c - x[b] * s, allowed);
      EXPECT_NEAR(y[b], x[a] * s + x[b] * c, allowed);
    }
    for (std::size_t i = n_rot; i < head_dim; ++i) EXPECT_EQ(y[i], x[i]);
  }
}

struct Attended {
  std::vector<float> largest, total, context;
};
// Rows of q against one block of keys and values; row r sees positions first[r] to last[r].
Attended attend(const KernelTable& table, const std::vector<float>& q, std::size_t stride, const void* k, const void* v,
                bool f16, const std::vector<std::uint32_t>& first, const std::vector<std::uint32_t>& last) {
  const std::size_t n_rows = first.size();
  Attended result{std::vector<float>(n_rows), std::vector<float>(n_rows), std::vector<float>(n_rows * stride)};
  const AlignedBuffer scratch(sizeof(float) * (n_rows * kv_block + 2 * kv_block * stride));
  AttendBlock job{};
  job.q = q.data();
  job.n_rows = n_rows;
  job.head_stride = stride;
  job.k = k;
  job.v = v;
  job.f16 = f16;
  job.first = first.data();
  job.last = last.data();
  job.largest = result.largest.data();
  job.total = result.total.data();
  job.context = result.context.data();
  job.scratch = scratch.bytes.get();
  table.attend(job);
  return result;
}

TEST_P(CpuKernels, AttentionOverABlockOfTheCache) {
  for (const bool f16 : {false, true}) {
    for (const std::size_t stride : {16u, 64u, 80u}) {
      for (const std::size_t n_rows : {1u, 3u, 8u, 9u, 31u}) {
        SCOPED_TRACE(fmt::format("f16 {}, head {}, {} rows", f16, stride, n_rows));
        const std::vector<float> q = make_activations(n_rows * stride, random);
        std::vector<float> k = make_activations(kv_block * stride, random);
        std::vector<float> v = make_activations(kv_block * stride, random);
        std::vector<std::uint16_t> k16(k.size());
        std::vector<std::uint16_t> v16(v.size());
        if (f16) {
          for (std::size_t i = 0; i < k.size(); ++i) {
            k[i] = f16_to_f32(k16[i] = f32_to_f16(k[i]));
            v[i] = f16_to_f32(v16[i] = f32_to_f16(v[i]));
          }
        }
        std::vector<std::uint32_t> first(n_rows);
        std::vector<std::uint32_t> last(n_rows);
        for (std::size_t r = 0; r < n_rows; ++r) {
          last[r] = static_cast<std::uint32_t>(random() % (kv_block + 1));
          first[r] = r % 3 == 0 ? 0 : static_cast<std::uint32_t>(random() % (kv_block + 1));
        }
        last[0] = 100;
        const auto [largest, total, context] =
            attend(table, q, stride, f16 ? static_cast<const void*>(k16.data()) : k.data(),
                   f16 ? static_cast<const void*>(v16.data()) : v.data(), f16, first, last);
        for (std::size_t r = 0; r < n_rows; ++r) {
          if (first[r] >= last[r]) {
            ASSERT_EQ(total[r], 0.0f);
            continue;
          }
          std::vector<double> p(kv_block, 0.0);
          double most = -HUGE_VAL;
          double magnitude = 0;
          for (std::size_t s = first[r]; s < last[r]; ++s) {
            double absolute = 0;
            for (std::size_t d = 0; d < stride; ++d) {
              p[s] += double{q[r * stride + d]} * k[s * stride + d];
              absolute += std::abs(double{q[r * stride + d]} * k[s * stride + d]);
            }
            most = std::max(most, p[s]);
            magnitude = std::max(magnitude, absolute);
          }
          double sum = 0;
          for (std::size_t s = first[r]; s < last[r]; ++s) sum += p[s] = std::exp(p[s] - most);
          const double relative = unit * (2 * (static_cast<double>(stride) + 8) * magnitude + 2 * kv_block);
          for (std::size_t d = 0; d < stride; ++d) {
            double expected = 0;
            double absolute = 0;
            for (std::size_t s = first[r]; s < last[r]; ++s) {
              expected += p[s] / sum * v[s * stride + d];
              absolute += p[s] / sum * std::abs(v[s * stride + d]);
            }
            ASSERT_NEAR(context[r * stride + d] / total[r], expected, relative * absolute + 1e-30) << r << " " << d;
          }
        }
      }
    }
  }
}

// Positions outside a row's window have values of 30,000, and the keys that match the query best. All others have values of
// one, so the result must be one.
TEST_P(CpuKernels, AttentionSeesNothingOutsideItsWindow) {
  constexpr std::size_t stride = 32;
  for (const std::size_t n_rows : {1u, 4u, 9u}) {  // different code for few and for many rows
    for (const std::uint32_t first : {0u, 1u, 15u, 16u, 17u, 126u, 127u, 128u}) {
      for (const std::uint32_t last : {1u, 2u, 15u, 16u, 17u, 127u, 128u}) {
        for (const bool f16 : {false, true}) {
          SCOPED_TRACE(fmt::format("{} rows see {} to {}, f16 {}", n_rows, first, last, f16));
          // The last row sees the whole block, so that masked positions are computed for the others too.
          std::vector<std::uint32_t> firsts(n_rows, first);
          std::vector<std::uint32_t> lasts(n_rows, last);
          if (n_rows > 1) firsts.back() = 0, lasts.back() = kv_block;
          std::vector<float> k(kv_block * stride, 2.0f);
          std::vector<float> v(kv_block * stride, 30000.0f);
          for (std::size_t s = first; s < last; ++s) {
            std::fill_n(k.begin() + static_cast<std::ptrdiff_t>(s * stride), stride, 1.0f);
            std::fill_n(v.begin() + static_cast<std::ptrdiff_t>(s * stride), stride, 1.0f);
          }
          std::vector<std::uint16_t> k16(k.size());
          std::vector<std::uint16_t> v16(v.size());
          std::transform(k.begin(), k.end(), k16.begin(), f32_to_f16);
          std::transform(v.begin(), v.end(), v16.begin(), f32_to_f16);
          const std::vector<float> q(n_rows * stride, 0.1f);
          const auto [largest, total, context] =
              attend(table, q, stride, f16 ? static_cast<const void*>(k16.data()) : k.data(),
                     f16 ? static_cast<const void*>(v16.data()) : v.data(), f16, firsts, lasts);
          for (std::size_t r = 0; r + (n_rows > 1 ? 1 : 0) < n_rows; ++r) {
            if (first >= last) {
              ASSERT_EQ(total[r], 0.0f);
              continue;
            }
            for (std::size_t d = 0; d < stride; ++d) ASSERT_NEAR(context[r * stride + d] / total[r], 1.0f, 1e-5f);
          }
        }
      }
    }
  }
}

TEST_P(CpuKernels, MergingPartsOfASoftmaxIsTheWhole) {
  constexpr std::size_t stride = 32;
  const std::vector<float> a = make_activations(stride, random);
  const std::vector<float> b = make_activations(stride, random);
  float largest = 0;
  float total = 0;
  std::vector<float> context(stride, std::numeric_limits<float>::quiet_NaN());
  table.merge(5.0f, 2.0f, a.data(), stride, &largest, &total, context.data());
  EXPECT_THAT(context, testing::ElementsAreArray(a));
  table.merge(100.0f, 0.0f, b.data(), stride, &largest, &total, context.data());  // a block that saw no position
  EXPECT_EQ(largest, 5.0f);
  table.merge(7.0f, 3.0f, b.data(), stride, &largest, &total, context.data());
  EXPECT_EQ(largest, 7.0f);
  EXPECT_NEAR(total, 2 * std::exp(-2.0) + 3, 1e-6);
  for (std::size_t d = 0; d < stride; ++d) {
    EXPECT_NEAR(context[d], a[d] * std::exp(-2.0) + b[d], 1e-6 * (std::abs(a[d]) + std::abs(b[d])));
  }
}

std::string isa_name(const testing::TestParamInfo<Isa>& info) { return std::string(name(info.param)); }

INSTANTIATE_TEST_SUITE_P(Isas, CpuKernels, testing::ValuesIn(cpu_isas()), isa_name);

}  // namespace
}  // namespace plumb::backends::cpu
