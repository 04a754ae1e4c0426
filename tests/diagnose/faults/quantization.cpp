// Blocks of quantized weights, decoded wrongly.
#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "diagnose/faults/parts.h"

namespace plumb::diagnose::planted {

namespace {

std::uint8_t byte(std::span<const std::byte> raw, std::size_t i) { return std::to_integer<std::uint8_t>(raw[i]); }
std::uint16_t half_bits(std::span<const std::byte> raw, std::size_t i) {
  return static_cast<std::uint16_t>(byte(raw, i) | byte(raw, i + 1) << 8);
}
float half(std::span<const std::byte> raw, std::size_t i) { return f16_to_f32(half_bits(raw, i)); }

// Blocks of Q8_0: a half-precision scale and 32 signed bytes (ggml-common.h's block_q8_0,
// https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h).
Make q8_0(
    std::function<float(std::span<const std::byte> raw, std::size_t block, std::size_t n_blocks, std::size_t i)> number) {
  return weights([number = std::move(number)](const Op& op) {
    if (op.w.format != quants::Format::q8_0) return Floats();
    const std::size_t n_blocks = op.w.raw.size() / 34;
    Floats w(n_blocks * 32);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = number(op.w.raw, i / 32, n_blocks, i % 32);
    return w;
  });
}

// Super-blocks of Q4_K: d and dmin, 12 bytes of packed 6-bit scales and minima, 128 bytes of nibbles (block_q4_K).
struct Q4K {
  bool interleaved = false, no_minimum = false, add_minimum = false, plain_scales = false, bf16_scale = false,
       next_scale = false, offset = false, half = false, minimum_before = false, unmasked = false;
};
Make q4_k(Q4K mistake) {
  return weights([mistake](const Op& op) {
    if (op.w.format != quants::Format::q4_k) return Floats();
    const std::size_t n = op.w.raw.size() / 144;
    Floats w(n * 256);
    for (std::size_t b = 0; b < n; ++b) {
      const auto raw = op.w.raw.subspan(b * 144, 144);
      const auto of_scale = mistake.next_scale ? op.w.raw.subspan((b + 1) % n * 144, 144) : raw;
      const float d = mistake.bf16_scale ? bf16_to_f32(half_bits(raw, 0)) : half(of_scale, 0), dmin = half(of_scale, 2);
      for (std::size_t j = 0; j < 8; ++j) {
        int scale = byte(raw, 4 + j) & 63, minimum = byte(raw, 4 + (j + 4) % 12) & 63;
        if (j >= 4 && !mistake.plain_scales) {
          scale = (byte(raw, 8 + j) & 15) | (byte(raw, j) >> 6) << 4;
          minimum = byte(raw, 8 + j) >> 4 | (byte(raw, 4 + j) >> 6) << 4;
        }
        if (mistake.unmasked && j < 4) scale = byte(raw, 4 + j);
        if (mistake.minimum_before) {
          const std::size_t k = (j + 7) % 8;
          minimum = k < 4 ? byte(raw, 8 + k) & 63 : byte(raw, 8 + k) >> 4 | (byte(raw, 4 + k) >> 6) << 4;
        }
        for (std::size_t i = 0; i < 32; ++i) {
          int q = byte(raw, 16 + j / 2 * 32 + i) >> (j % 2 * 4) & 15;
          if (mistake.interleaved) q = byte(raw, 16 + j * 16 + i / 2) >> (i % 2 * 4) & 15;
          if (mistake.offset) q -= 8;
          float value = d * static_cast<float>(scale) * static_cast<float>(q);
          const float low = dmin * static_cast<float>(minimum);
          if (!mistake.no_minimum) value += mistake.add_minimum ? low : -low;
          if (mistake.half && j >= 4) value = 0;
          w[b * 256 + j * 32 + i] = value;
        }
      }
    }
    return w;
  });
}

// Super-blocks of Q6_K: 128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d (block_q6_K).
struct Q6K {
  bool no_high = false, high_swapped = false, no_offset = false, unsigned_scales = false, scale_before = false,
       as_q4_k = false, pairs_exchanged = false;
};
Make q6_k(Q6K mistake) {
  return weights([mistake](const Op& op) {
    if (op.w.format != quants::Format::q6_k) return Floats();
    const std::size_t n = op.w.raw.size() / 210;
    Floats w(n * 256);
    for (std::size_t b = 0; b < n; ++b) {
      const auto raw = op.w.raw.subspan(b * 210, 210);
      for (std::size_t k = 0; k < 256; ++k) {
        const std::size_t part = k / 128, quarter = k % 128 / 32, l = k % 32;
        int low = byte(raw, part * 64 + quarter % 2 * 32 + l) >> (quarter / 2 * 4) & 15;
        if (mistake.as_q4_k) low = byte(raw, part * 64 + quarter / 2 * 32 + l) >> (quarter % 2 * 4) & 15;
        int high = byte(raw, 128 + part * 32 + l) >> (2 * quarter) & 3;
        if (mistake.no_high) high = 0;
        if (mistake.high_swapped) high = byte(raw, 128 + part * 32 + l) >> (2 * (3 - quarter)) & 3;
        if (mistake.pairs_exchanged && (quarter == 1 || quarter == 2))
          high = byte(raw, 128 + part * 32 + l) >> (2 * (3 - quarter)) & 3;
        const std::uint8_t scale = byte(raw, 192 + (mistake.scale_before ? (k / 16 + 15) % 16 : k / 16));
        const int s = mistake.unsigned_scales ? scale : static_cast<std::int8_t>(scale);
        const int q = (low | high << 4) - (mistake.no_offset ? 0 : 32);
        w[b * 256 + k] = half(raw, 208) * static_cast<float>(s * q);
      }
    }
    return w;
  });
}

// Blocks of TQ2_0: 64 bytes of two bits a weight, less 1, and a half-precision scale (block_tq2_0).
Make tq2_0(int offset, std::size_t blocks_away, float (*scale)(std::uint16_t bits)) {
  return weights([=](const Op& op) {
    if (op.w.format != quants::Format::tq2_0) return Floats();
    const std::size_t n = op.w.raw.size() / 66;
    Floats w(n * 256);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t b = i / 256, k = i % 256;
      const int q = byte(op.w.raw, b * 66 + k / 128 * 32 + k % 32) >> (k % 128 / 32 * 2) & 3;
      w[i] = scale(half_bits(op.w.raw, (b + blocks_away) % n * 66 + 64)) * static_cast<float>(q - offset);
    }
    return w;
  });
}

}  // namespace

const std::vector<Plant>& ternary_faults() {
  const Names roles{"attn_q", "ffn_down"};
  static const std::vector<Plant> all{
      {"TQ2_0's numbers from 0", roles, tq2_0(0, 0, f16_to_f32), {"quant-offset"}},
      {"TQ2_0's scale of the block after", roles, tq2_0(1, 1, f16_to_f32), {"quant-neighbour-scale"}},
      {"TQ2_0's scale as bfloat16", roles, tq2_0(1, 0, bf16_to_f32), {"quant-scale-type"}},
  };
  return all;
}

void add_quantization_faults(const Add& add) {
  add("Q8_0's bytes as unsigned", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, b * 34) * static_cast<float>(byte(raw, b * 34 + 2 + i));
      }),
      {"quant-signedness"});
  add("Q8_0's scale as bfloat16", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return bf16_to_f32(half_bits(raw, b * 34)) *
               static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-scale-type"});
  add("Q8_0's scale of the block after", products, q8_0([](auto raw, std::size_t b, std::size_t n, std::size_t i) {
        return half(raw, (b + 1) % n * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-neighbour-scale"});
  add("Q8_0's blocks in pairs exchanged", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, (b ^ 1) * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, (b ^ 1) * 34 + 2 + i)));
      }),
      {"quant-block-order"});
  add("half of each Q8_0 block decoded", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return i >= 16 ? 0 : half(raw, b * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + i)));
      }),
      {"quant-part-decoded"});
  add("Q4_K's nibbles as neighbours", products, q4_k({.interleaved = true}), {"quant-nibble-order"});
  add("Q4_K without minimum", products, q4_k({.no_minimum = true}), {"quant-minimum"});
  add("Q4_K's minimum added", products, q4_k({.add_minimum = true}), {"quant-minimum"});
  add("Q4_K's scales not unpacked", products, q4_k({.plain_scales = true}), {"quant-packed-scales"});
  add("Q4_K's scale as bfloat16", products, q4_k({.bf16_scale = true}), {"quant-scale-type"});
  add("Q4_K's scale of the block after", products, q4_k({.next_scale = true}), {"quant-neighbour-scale"});
  add("8 taken from Q4_K's numbers", products, q4_k({.offset = true}), {"quant-offset"});
  // The canary's rows are a single block, so half of a block is half of the inputs.
  add("half of each Q4_K block decoded", products, q4_k({.half = true}), {"quant-part-decoded", "product-part-of-sum"});
  add("Q6_K's high bits left out", products, q6_k({.no_high = true}), {"quant-high-bits"});
  add("Q6_K's high bits in another order", products, q6_k({.high_swapped = true}), {"quant-high-bits"});
  add("32 not taken from Q6_K's numbers", products, q6_k({.no_offset = true}), {"quant-offset"});
  add("Q6_K's scales as unsigned", products, q6_k({.unsigned_scales = true}), {"quant-signedness"});
  add("Q8_0's scales apart from its bytes", products, q8_0([](auto raw, std::size_t b, std::size_t n, std::size_t i) {
        return half(raw, 2 * b) * static_cast<float>(static_cast<std::int8_t>(byte(raw, 2 * n + 32 * b + i)));
      }),
      {"quant-planar"});
  add("a row's first Q8_0 scale for all", {"attn_q", "ffn_down"}, weights([](const Op& op) {
        if (op.w.format != quants::Format::q8_0) return Floats();
        Floats w(op.w.data.size());
        for (std::size_t i = 0; i < w.size(); ++i) {
          const std::size_t row = i / op.w.width * op.w.width / 32 * 34;
          w[i] =
              half(op.w.raw, row) * static_cast<float>(static_cast<std::int8_t>(byte(op.w.raw, i / 32 * 34 + 2 + i % 32)));
        }
        return w;
      }),
      {"quant-neighbour-scale"});
  add("halves of each Q8_0 block exchanged", products, q8_0([](auto raw, std::size_t b, std::size_t, std::size_t i) {
        return half(raw, b * 34) * static_cast<float>(static_cast<std::int8_t>(byte(raw, b * 34 + 2 + (i + 16) % 32)));
      }),
      {"quant-block-order"});
  add("Q4_K's minimum of the sub-block before", products, q4_k({.minimum_before = true}), {"quant-packed-scales"});
  add("Q4_K's first scales with the bits of the last", products, q4_k({.unmasked = true}), {"quant-packed-scales"});
  add("Q6_K's scale of the sub-block before", products, q6_k({.scale_before = true}), {"quant-neighbour-scale"});
  add("Q6_K's nibbles as Q4_K's", products, q6_k({.as_q4_k = true}), {"quant-nibble-order"});
  add("the second and third of Q6_K's pairs exchanged", products, q6_k({.pairs_exchanged = true}), {"quant-high-bits"});
  add("a file of eight bits in place of float32", products, weights([](const Op& op) {
        if (op.w.format != quants::Format::f32) return Floats();
        Floats w = op.w.data;
        for (std::size_t b = 0; b < w.size(); b += 32) {
          float largest = 0;
          for (std::size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::fabs(w[i]));
          const float exact = largest / 127, d = f16_to_f32(f32_to_f16(exact));
          for (std::size_t i = b; i < b + 32 && exact > 0; ++i) w[i] = std::round(w[i] / exact) * d;
        }
        return w;
      }),
      {"weight-requantized"});
}

}  // namespace plumb::diagnose::planted
