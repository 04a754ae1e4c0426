// Blocks of quantized weights, decoded wrongly. A mistake changes either the block's bytes before correct decoding, or the
// weights afterwards, so that each mistake is written once for all formats.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <tuple>

#include "base/half.h"
#include "diagnose/hypothesis.h"
#include "diagnose/numbers.h"
#include "quants/blocks.h"
#include "quants/format.h"

namespace plumb::diagnose::families {

namespace in_quantization {
namespace {

using quants::Format;

using Bytes = std::span<std::uint8_t>;
using ConstBytes = std::span<const std::uint8_t>;

// A field of a block, in bytes; empty if the format has no such field.
struct Field {
  std::size_t begin = 0, size = 0;

  [[nodiscard]] bool exists() const { return size > 0; }
  template <class Block>
  [[nodiscard]] Block of(Block block) const {
    return block.subspan(begin, size);
  }
};

// The fields of a block.
struct Layout {
  Field scale, minimum;  // float16
  Field low, high;       // the weights' low and high bits
  Field scales;          // of sub-blocks
};
// The layout of a block of quants/blocks.h, by the names of its fields.
template <class Block>
constexpr Layout layout_of() {
  Layout of;
  if constexpr (requires { &Block::d; }) of.scale = {offsetof(Block, d), sizeof(Block::d)};
  if constexpr (requires { &Block::m; }) of.minimum = {offsetof(Block, m), sizeof(Block::m)};
  if constexpr (requires { &Block::dmin; }) of.minimum = {offsetof(Block, dmin), sizeof(Block::dmin)};
  if constexpr (requires { &Block::qs; }) of.low = {offsetof(Block, qs), sizeof(Block::qs)};
  if constexpr (requires { &Block::ql; }) of.low = {offsetof(Block, ql), sizeof(Block::ql)};
  if constexpr (requires { &Block::qh; }) of.high = {offsetof(Block, qh), sizeof(Block::qh)};
  if constexpr (requires { &Block::hmask; }) of.high = {offsetof(Block, hmask), sizeof(Block::hmask)};
  if constexpr (requires { &Block::scales; }) of.scales = {offsetof(Block, scales), sizeof(Block::scales)};
  return of;
}
// By quants::index.
constexpr Layout layouts[] = {
#define PLUMB_FORMAT(id, type, NAME, family, writing) layout_of<quants::Block##NAME>(),
    PLUMB_FORMATS(PLUMB_FORMAT)
#undef PLUMB_FORMAT
};

std::uint16_t bits_of(ConstBytes field) { return static_cast<std::uint16_t>(field[0] | (field[1] << 8)); }
float half_of(ConstBytes field) { return f16_to_f32(bits_of(field)); }
void set_to_one(Bytes field) {
  field[0] = 0;
  field[1] = 0x3c;  // high byte of 1 as float16
}

// The weight that an op reads.
std::optional<plan::WeightId> weight_of(const Question& q) {
  if (const auto* op = q.as<plan::Linear>()) return op->weight;
  if (const auto* op = q.as<plan::Embed>()) return op->table;
  if (const auto* op = q.as<plan::ExpertLinear>()) return op->weight;
  return std::nullopt;
}

// A weight of quantized blocks.
struct Quantized {
  plan::WeightId id;
  const gguf::Tensor& tensor;
  const Layout& layout;
  const quants::FormatInfo& format;

  static std::optional<Quantized> in(const Question& q) {
    const auto id = weight_of(q);
    if (!id) return std::nullopt;
    const gguf::Tensor& tensor = q.plan().weight(*id).tensor;
    const quants::FormatInfo& format = quants::info(tensor.format);
    if (format.block_size == 1) return std::nullopt;
    return Quantized{*id, tensor, layouts[quants::index(tensor.format)], format};
  }

  [[nodiscard]] std::size_t blocks_of_row() const { return tensor.dims[0] / format.block_size; }
  [[nodiscard]] std::size_t low_bits() const { return 8 * layout.low.size / format.block_size; }
  [[nodiscard]] bool is(std::initializer_list<Format> formats) const {
    return std::find(formats.begin(), formats.end(), tensor.format) != formats.end();
  }
  [[nodiscard]] std::vector<float> decoded(ConstBytes block) const {
    std::vector<float> weights(format.block_size);
    format.decode(std::bit_cast<const std::byte*>(block.data()), weights.data(), 1);
    return weights;
  }
  // The number that the format subtracts from its integers. It shows where a block of zeros with the scale 1 is decoded to
  // numbers that go up by 1 with the integers; otherwise they have scales of their own, or stand for levels.
  [[nodiscard]] double offset() const {
    if (!layout.scale.exists() || low_bits() == 8) return 0;
    std::vector<std::uint8_t> block(format.block_bytes);
    set_to_one(layout.scale.of(Bytes(block)));
    const float zero = decoded(block)[0];
    layout.low.of(Bytes(block))[0] = 1;
    return decoded(block)[0] - zero == 1 ? -zero : 0;
  }
};

// A block whose weights, after they were decoded, are changed.
struct Decoded {
  const Layout& layout;
  std::span<float> weights;
  ConstBytes bytes;  // as the file has them

  [[nodiscard]] float scale() const { return half_of(layout.scale.of(bytes)); }
  [[nodiscard]] float minimum() const { return half_of(layout.minimum.of(bytes)); }
};

// Changes a block's bytes; `all` is the tensor and `index` the block's place in it.
using ChangeBytes = std::function<void(Bytes block, std::span<const std::byte> all, std::size_t index)>;
using ChangeWeights = std::function<void(const Decoded& block)>;

void misread(Candidates& out, const Quantized& w, std::string detail, ChangeBytes bytes, ChangeWeights weights = {}) {
  out.with_weight(std::move(detail), w.id,
                  [w, n = w.blocks_of_row(), bytes = std::move(bytes), weights = std::move(weights)](
                      std::uint64_t row, std::span<float> decoded) {
                    std::vector<std::uint8_t> original(w.format.block_bytes), changed;
                    for (std::size_t index = row * n; index < (row + 1) * n; ++index) {
                      std::memcpy(original.data(), w.tensor.data.data() + index * original.size(), original.size());
                      changed = original;
                      if (bytes) bytes(changed, w.tensor.data, index);
                      const auto part = decoded.subspan((index - row * n) * w.format.block_size, w.format.block_size);
                      w.format.decode(std::bit_cast<const std::byte*>(changed.data()), part.data(), 1);
                      if (weights) weights({w.layout, part, original});
                    }
                  });
}
void misread_field(Candidates& out, const Quantized& w, const Field& field, std::string detail,
                   std::function<void(Bytes field)> change) {
  misread(out, w, std::move(detail),
          [field, change = std::move(change)](Bytes block, auto, auto) { change(field.of(block)); });
}
void misread_weights(Candidates& out, const Quantized& w, std::string detail, ChangeWeights change) {
  misread(out, w, std::move(detail), {}, std::move(change));
}

void exchange_halves(Bytes bytes) {
  std::rotate(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2), bytes.end());
}

void block_order(const Question&, const Quantized& w, Candidates& out) {
  const std::size_t n = w.blocks_of_row(), rows = w.tensor.n_rows(), total = n * rows;
  const auto order = [&](const std::string& detail, auto from) {
    out.with_weight(detail, w.id, [w, n, from](std::uint64_t row, std::span<float> decoded) {
      for (std::size_t b = 0; b < n; ++b)
        w.format.decode(&w.tensor.data[from(row, b) * w.format.block_bytes], &decoded[b * w.format.block_size], 1);
    });
  };
  order("the block after", [n, total](std::uint64_t r, std::size_t b) { return std::min(r * n + b + 1, total - 1); });
  order("the block before", [n](std::uint64_t r, std::size_t b) { return r * n + b - (r * n + b > 0 ? 1 : 0); });
  if (n > 1) {
    order("blocks of a row in reverse", [n](std::uint64_t r, std::size_t b) { return r * n + n - 1 - b; });
    order("blocks exchanged in pairs", [n](std::uint64_t r, std::size_t b) { return r * n + std::min(b ^ 1, n - 1); });
    order("the row's first block throughout", [n](std::uint64_t r, std::size_t) { return r * n; });
    misread_weights(out, w, "the halves of a block exchanged", [](const Decoded& b) {
      std::swap_ranges(b.weights.begin(), b.weights.begin() + std::ssize(b.weights) / 2,
                       b.weights.begin() + std::ssize(b.weights) / 2);
    });
    order("blocks counted down the columns", [rows](std::uint64_t r, std::size_t b) { return b * rows + r; });
  }
}

void first_block_only(const Question&, const Quantized& w, Candidates& out) {
  const std::size_t size = w.format.block_size;
  const auto zero_after = [](std::span<float> weights, std::size_t n) {
    for (float& v : weights.subspan(n)) v = 0;
  };
  if (w.tensor.dims[0] > size) {
    out.with_changed_weight("all blocks of a row but the first are zero", w.id,
                            [=](std::span<float> row) { zero_after(row, size); });
  }
  for (std::size_t n = 16; n < size; n *= 2) {
    misread_weights(out, w, fmt::format("all weights of a block but the first {} are zero", n),
                    [=](const Decoded& b) { zero_after(b.weights, n); });
  }
}

void nibble_order(const Question&, const Quantized& w, Candidates& out) {
  if (!w.layout.low.exists() || w.low_bits() == 8) return;
  if (w.low_bits() == 4) {
    misread_field(out, w, w.layout.low, "low and high nibbles exchanged", [](Bytes bytes) {
      for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(b << 4 | b >> 4);
    });
  }
  // The weights of a nibble-split block in the order of bytes with neighbouring weights, and the other way round.
  const std::size_t group = w.format.block_size == 256 ? 64 : 32;
  misread_weights(out, w, "a byte's nibbles taken for neighbours", [group](const Decoded& b) {
    const std::vector<float> right(b.weights.begin(), b.weights.end());
    for (std::size_t i = 0; i < right.size(); ++i) {
      const std::size_t start = i / group * group, j = i % group;
      b.weights[i] = right[start + j / 2 + (j % 2) * group / 2];
    }
  });
  // The same, but scales stay in place.
  if (w.format.block_size == 32) return;
  if (w.is({Format::q6_k})) {
    misread_field(out, w, w.layout.low, "both nibbles of a byte taken for weights 32 apart, as in Q4_K", [](Bytes bytes) {
      for (std::size_t start = 0; start < bytes.size(); start += 64) {
        for (std::size_t i = start; i < start + 32; ++i) {
          const std::uint8_t a = bytes[i], b = bytes[i + 32];
          bytes[i] = static_cast<std::uint8_t>((a & 15) | (b & 15) << 4);
          bytes[i + 32] = static_cast<std::uint8_t>(a >> 4 | (b & 0xf0));
        }
      }
    });
  }
  if (w.is({Format::q4_k, Format::q5_k})) {
    misread_field(out, w, w.layout.low, "all low nibbles first, then all high ones", [](Bytes bytes) {
      const std::vector<std::uint8_t> right(bytes.begin(), bytes.end());
      for (std::size_t i = 0; i < 256; ++i) {
        const std::uint8_t v = i < 128 ? right[i] & 15 : right[i - 128] >> 4;
        std::uint8_t& b = bytes[i / 64 * 32 + i % 32];
        b = static_cast<std::uint8_t>(i % 64 < 32 ? (b & 0xf0) | v : (b & 15) | v << 4);
      }
    });
  }
  misread_field(out, w, w.layout.low, "a byte's nibbles taken for neighbours, scales in place", [](Bytes all) {
    for (std::size_t start = 0; start < all.size(); start += 32) {
      const Bytes bytes = all.subspan(start, 32);
      std::array<std::uint8_t, 64> values{};
      for (std::size_t i = 0; i < 32; ++i) {
        values[2 * i] = bytes[i] & 15;
        values[2 * i + 1] = bytes[i] >> 4;
      }
      for (std::size_t i = 0; i < 32; ++i) bytes[i] = static_cast<std::uint8_t>(values[i] | values[i + 32] << 4);
    }
  });
}

void high_bits(const Question&, const Quantized& w, Candidates& out) {
  if (!w.layout.high.exists()) return;
  const auto each = [&](std::string detail, int (*f)(std::uint8_t)) {
    misread_field(out, w, w.layout.high, std::move(detail), [f](Bytes bytes) {
      for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(f(b));
    });
  };
  each("left out", [](std::uint8_t) { return 0; });
  each("inverted", [](std::uint8_t b) { return ~b; });
  each("in reverse within a byte", [](std::uint8_t b) {
    int r = 0;
    for (int i = 0; i < 8; ++i) r |= (b >> i & 1) << (7 - i);
    return r;
  });
  const auto neighbours_exchanged = [](std::uint8_t b) { return (b & 0x55) << 1 | (b & 0xaa) >> 1; };
  const auto halves_exchanged = [](std::uint8_t b) { return b << 4 | b >> 4; };
  if (w.is({Format::q6_k})) {
    each("pairs in reverse within a byte",
         [](std::uint8_t b) { return (b & 3) << 6 | (b >> 2 & 3) << 4 | (b >> 4 & 3) << 2 | b >> 6; });
    each("the two bits of a pair exchanged", neighbours_exchanged);
    each("neighbouring pairs exchanged", [](std::uint8_t b) { return (b & 0x33) << 2 | (b & 0xcc) >> 2; });
    each("the halves of a byte exchanged", halves_exchanged);
    each("the second and third pair exchanged",
         [](std::uint8_t b) { return (b & 0xc3) | (b & 0x0c) << 2 | (b & 0x30) >> 2; });
  } else {
    each("neighbouring bits exchanged", neighbours_exchanged);
    each("the halves of a byte exchanged", halves_exchanged);
  }
  misread_field(out, w, w.layout.high, "first and second half exchanged", exchange_halves);
}

void minimum(const Question&, const Quantized& w, Candidates& out) {
  if (!w.layout.minimum.exists()) return;
  misread_field(out, w, w.layout.minimum, "it is left out", [](Bytes m) { m[0] = m[1] = 0; });
  misread_field(out, w, w.layout.minimum, "its sign is wrong", [](Bytes m) { m[1] ^= 0x80; });
  misread(out, w, "scale and minimum are exchanged", [&layout = w.layout](Bytes block, auto, auto) {
    std::swap_ranges(&block[layout.scale.begin], &block[layout.scale.begin] + 2, &block[layout.minimum.begin]);
  });
}

void signedness(const Question&, const Quantized& w, Candidates& out) {
  if (w.low_bits() == 8) {
    for (const int less : {0, 128}) {
      misread_weights(out, w, less == 0 ? "values read as unsigned" : "values read as unsigned, less 128",
                      [less](const Decoded& b) {
                        const ConstBytes values = b.layout.low.of(b.bytes);
                        for (std::size_t i = 0; i < values.size(); ++i)
                          b.weights[i] = b.scale() * static_cast<float>(values[i] - less);
                      });
    }
  }
  if (w.is({Format::q6_k})) {
    misread_weights(out, w, "sub-block scales read as unsigned", [](const Decoded& b) {
      for (std::size_t i = 0; i < b.weights.size(); ++i) {
        const std::uint8_t sub = b.layout.scales.of(b.bytes)[i / 16];
        if (sub >= 128) b.weights[i] *= static_cast<float>(sub) / static_cast<float>(static_cast<std::int8_t>(sub));
      }
    });
  }
}

void scale_type(const Question&, const Quantized& w, Candidates& out) {
  if (!w.layout.scale.exists()) return;
  // weight = scale * a + minimum * b. Decoding with scale 1 and minimum 0 gives a; with scale 0 and minimum 1 it gives b.
  const bool has_minimum = w.layout.minimum.exists();
  for (const bool minimum_too : {true, false}) {
    if (!minimum_too && !has_minimum) break;
    const auto change = [w, has_minimum, minimum_too](const Decoded& original) {
      const Layout& l = original.layout;
      const auto with_one = [&](const Field& one, const Field& zero) {
        std::vector<std::uint8_t> block(original.bytes.begin(), original.bytes.end());
        std::ranges::fill(zero.of(Bytes(block)), std::uint8_t{0});
        set_to_one(one.of(Bytes(block)));
        return w.decoded(block);
      };
      const std::vector<float> a = with_one(l.scale, l.minimum);
      const std::vector<float> b = has_minimum ? with_one(l.minimum, l.scale) : std::vector<float>(a.size(), 0.0f);
      const float scale = bf16_to_f32(bits_of(l.scale.of(original.bytes)));
      const float low = !has_minimum  ? 0
                        : minimum_too ? bf16_to_f32(bits_of(l.minimum.of(original.bytes)))
                                      : original.minimum();
      for (std::size_t i = 0; i < a.size(); ++i) original.weights[i] = scale * a[i] + low * b[i];
    };
    misread_weights(out, w,
                    !has_minimum  ? "as bfloat16"
                    : minimum_too ? "as bfloat16, and the minimum"
                                  : "as bfloat16, the minimum right",
                    change);
  }
  misread_field(out, w, w.layout.scale, "with its bytes exchanged", exchange_halves);
}

void neighbour_scale(const Question&, const Quantized& w, Candidates& out) {
  const std::size_t size = w.format.block_bytes;
  // The scale, and the minimum where it goes with it, of block from(index).
  const auto of_block = [&](std::string detail, bool minimum_too, auto from) {
    misread(out, w, std::move(detail),
            [size, minimum_too, from, &l = w.layout](Bytes block, std::span<const std::byte> all, std::size_t index) {
              const std::byte* const other = all.data() + from(index, all.size() / size) * size;
              std::memcpy(&block[l.scale.begin], other + l.scale.begin, 2);
              if (minimum_too) std::memcpy(&block[l.minimum.begin], other + l.minimum.begin, 2);
            });
  };
  if (w.layout.scale.exists()) {
    for (const bool minimum_too : {false, true}) {
      if (minimum_too && !w.layout.minimum.exists()) break;
      const std::string_view note = minimum_too ? ", and its minimum" : "";
      of_block(fmt::format("the next block's{}", note), minimum_too,
               [](std::size_t index, std::size_t n) { return (index + 1) % n; });
      of_block(fmt::format("the previous block's{}", note), minimum_too,
               [](std::size_t index, std::size_t n) { return (index + n - 1) % n; });
    }
    of_block("that of the row's first block for all", false,
             [n = w.blocks_of_row()](std::size_t index, std::size_t) { return index / n * n; });
    of_block("that of the tensor's first block for all", false, [](std::size_t, std::size_t) { return std::size_t{0}; });
  }
  if (w.is({Format::q6_k, Format::q2_k})) {
    const auto sub_blocks = [&](std::string detail, std::size_t (*from)(std::size_t i, std::size_t n)) {
      misread_field(out, w, w.layout.scales, std::move(detail), [from](Bytes scales) {
        const std::vector<std::uint8_t> right(scales.begin(), scales.end());
        for (std::size_t i = 0; i < right.size(); ++i) scales[i] = right[from(i, right.size())];
      });
    };
    sub_blocks("the next sub-block's", [](std::size_t i, std::size_t n) { return (i + 1) % n; });
    sub_blocks("the previous sub-block's", [](std::size_t i, std::size_t n) { return (i + n - 1) % n; });
    sub_blocks("sub-block scales in reverse", [](std::size_t i, std::size_t n) { return n - 1 - i; });
    sub_blocks("halves of the sub-block scales exchanged", [](std::size_t i, std::size_t n) { return (i + n / 2) % n; });
    sub_blocks("one for two sub-blocks, the first's", [](std::size_t i, std::size_t) { return i & ~std::size_t{1}; });
    sub_blocks("one for two sub-blocks, each in two", [](std::size_t i, std::size_t) { return i / 2; });
  }
}

// The 6-bit scales and minimums of Q4_K and Q5_K.
struct Packed {
  std::array<std::uint8_t, 8> scale{}, minimum{};
};
Packed unpack(ConstBytes s) {
  Packed p;
  for (std::size_t j = 0; j < 4; ++j) {
    p.scale[j] = s[j] & 63;
    p.minimum[j] = s[j + 4] & 63;
    p.scale[j + 4] = static_cast<std::uint8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    p.minimum[j + 4] = static_cast<std::uint8_t>(s[j + 8] >> 4 | (s[j + 4] >> 6) << 4);
  }
  return p;
}
void pack(const Packed& p, std::span<std::uint8_t> s) {
  for (std::size_t j = 0; j < 4; ++j) {
    s[j] = static_cast<std::uint8_t>(p.scale[j] | (p.scale[j + 4] >> 4) << 6);
    s[j + 4] = static_cast<std::uint8_t>(p.minimum[j] | (p.minimum[j + 4] >> 4) << 6);
    s[j + 8] = static_cast<std::uint8_t>((p.scale[j + 4] & 15) | (p.minimum[j + 4] & 15) << 4);
  }
}

// The integers of a block of Q4_K or Q5_K.
std::vector<int> integers(const Decoded& block) {
  const ConstBytes low = block.layout.low.of(block.bytes), high = block.layout.high.of(block.bytes);
  std::vector<int> q(256);
  for (std::size_t i = 0; i < q.size(); ++i) {
    const std::size_t sub = i / 32;
    q[i] = low[sub / 2 * 32 + i % 32] >> (sub % 2 * 4) & 15;
    if (!high.empty()) q[i] |= (high[i % 32] >> sub & 1) << 4;
  }
  return q;
}

void offset(const Question&, const Quantized& w, Candidates& out) {
  const auto subtracted = [](double by, double right) {
    return fmt::format("{:g} is subtracted instead of {:g}", right - by, right);
  };
  if (const double right = w.offset(); right > 0) {
    for (const double by : std::set<double, std::greater<>>{right, right / 2, 1.0, -1.0}) {
      misread_weights(out, w, subtracted(by, right), [by](const Decoded& b) {
        for (float& v : b.weights) v += static_cast<float>(by * b.scale());
      });
    }
  }
  if (w.is({Format::q6_k})) {
    for (const double by : {32.0, 16.0, 1.0, -1.0}) {
      misread_weights(out, w, subtracted(by, 32), [by](const Decoded& b) {
        for (std::size_t i = 0; i < b.weights.size(); ++i) {
          const auto sub = static_cast<std::int8_t>(b.layout.scales.of(b.bytes)[i / 16]);
          b.weights[i] += static_cast<float>(by * sub * b.scale());
        }
      });
    }
  }
  if (w.is({Format::q4_k, Format::q5_k})) {
    for (const double by : {8.0, 16.0}) {
      misread_weights(out, w, fmt::format("{:g} is subtracted; the format has a minimum in its place", by),
                      [by](const Decoded& b) {
                        const Packed p = unpack(b.layout.scales.of(b.bytes));
                        for (std::size_t i = 0; i < b.weights.size(); ++i)
                          b.weights[i] -= static_cast<float>(by * p.scale[i / 32] * b.scale());
                      });
    }
  }
}

// The upper two bits of one 6-bit number with the nibble of another.
std::uint8_t mix(std::uint8_t upper, std::uint8_t nibble) {
  return static_cast<std::uint8_t>((upper & 48) | (nibble & 15));
}

void packed_scales(const Question&, const Quantized& w, Candidates& out) {
  if (!w.is({Format::q4_k, Format::q5_k})) return;
  const auto add = [&](std::string detail, std::function<void(Packed&, ConstBytes)> change) {
    misread_field(out, w, w.layout.scales, std::move(detail), [change = std::move(change)](Bytes scales) {
      Packed p = unpack(scales);
      change(p, scales);
      pack(p, scales);
    });
  };
  add("scales and minimums exchanged", [](Packed& p, auto) { std::swap(p.scale, p.minimum); });
  // A change of each of the last four.
  const auto last_four = [](void (*change)(std::uint8_t & scale, std::uint8_t & minimum)) {
    return [change](Packed& p, auto) {
      for (std::size_t j = 4; j < 8; ++j) change(p.scale[j], p.minimum[j]);
    };
  };
  add("the upper bits of the last four left out", last_four([](auto& s, auto& m) { s &= 15, m &= 15; }));
  add("the nibbles of the last four exchanged",
      last_four([](auto& s, auto& m) { std::tie(s, m) = std::pair(mix(s, m), mix(m, s)); }));
  add("the upper bits of scales and minimums exchanged",
      last_four([](auto& s, auto& m) { std::tie(s, m) = std::pair(mix(m, s), mix(s, m)); }));
  add("read byte by byte, the packing ignored", [](Packed& p, ConstBytes s) {
    for (std::size_t j = 0; j < 8; ++j) p.scale[j] = s[j] & 63;
    for (std::size_t j = 0; j < 4; ++j) p.minimum[j] = s[j + 8] & 63, p.minimum[j + 4] = s[j + 8] & 63;
  });
  add("byte j for scale j and byte j + 4 for minimum j, the packing ignored", [](Packed& p, ConstBytes s) {
    for (std::size_t j = 0; j < 8; ++j) p.scale[j] = s[j] & 63, p.minimum[j] = s[j + 4] & 63;
  });
  add("the last four read like the first", [](Packed& p, auto) {
    for (std::size_t j = 0; j < 4; ++j) p.scale[j + 4] = p.scale[j], p.minimum[j + 4] = p.minimum[j];
  });
  const auto next = [](std::array<std::uint8_t, 8>& of) { std::rotate(of.begin(), of.begin() + 1, of.end()); };
  const auto previous = [](std::array<std::uint8_t, 8>& of) { std::rotate(of.begin(), of.end() - 1, of.end()); };
  add("the next sub-block's", [next](Packed& p, auto) { next(p.scale), next(p.minimum); });
  add("the previous sub-block's", [previous](Packed& p, auto) { previous(p.scale), previous(p.minimum); });
  add("the next sub-block's scale", [next](Packed& p, auto) { next(p.scale); });
  add("the previous sub-block's scale", [previous](Packed& p, auto) { previous(p.scale); });
  add("the next sub-block's minimum", [next](Packed& p, auto) { next(p.minimum); });
  add("the previous sub-block's minimum", [previous](Packed& p, auto) { previous(p.minimum); });
  add("scale and minimum of the first four taken for neighbours", [](Packed& p, ConstBytes s) {
    for (std::size_t j = 0; j < 4; ++j) p.scale[j] = s[2 * j] & 63, p.minimum[j] = s[2 * j + 1] & 63;
  });
  // Values above 6 bits do not fit the packing; the excess is added to the weights.
  for (const bool minimum_too : {true, false}) {
    misread_weights(out, w, minimum_too ? "the first four not cut to 6 bits" : "the first four scales not cut to 6 bits",
                    [minimum_too](const Decoded& b) {
                      const std::vector<int> values = integers(b);
                      const ConstBytes scales = b.layout.scales.of(b.bytes);
                      for (std::size_t i = 0; i < values.size() / 2; ++i) {
                        b.weights[i] += b.scale() * static_cast<float>((scales[i / 32] & 192) * values[i]);
                        if (minimum_too) b.weights[i] -= b.minimum() * static_cast<float>(scales[i / 32 + 4] & 192);
                      }
                    });
  }
  add("in reverse", [](Packed& p, auto) {
    std::reverse(p.scale.begin(), p.scale.end());
    std::reverse(p.minimum.begin(), p.minimum.end());
  });
}

// Nonlinear 4-bit values read as linear ones.
void linear_values(const Question&, const Quantized& w, Candidates& out) {
  if (!w.is({Format::iq4_nl})) return;
  misread_weights(out, w, "", [](const Decoded& b) {
    const ConstBytes bytes = b.layout.low.of(b.bytes);
    for (std::size_t i = 0; i < 16; ++i) {
      b.weights[i] = b.scale() * static_cast<float>((bytes[i] & 15) - 8);
      b.weights[i + 16] = b.scale() * static_cast<float>((bytes[i] >> 4) - 8);
    }
  });
}

// A layout with all scales first and then all values, of the tensor or of each row.
void planar(const Question&, const Quantized& w, Candidates& out) {
  if (!w.layout.scale.exists() || w.layout.scale.begin != 0 || w.format.block_size != 32 || w.layout.minimum.exists())
    return;
  const std::size_t n = w.blocks_of_row();
  for (const bool of_row : {false, true}) {
    if (of_row && n == 1) continue;
    out.with_weight(of_row ? "of each row" : "of the tensor", w.id,
                    [&format = w.format, n, of_row, data = w.tensor.data](std::uint64_t row, std::span<float> decoded) {
                      const std::size_t n_scales = of_row ? n : data.size() / format.block_bytes,
                                        values = format.block_bytes - 2;
                      const auto from = data.subspan(of_row ? row * n * format.block_bytes : 0);
                      std::vector<std::byte> block(format.block_bytes);
                      for (std::size_t b = 0; b < n; ++b) {
                        const std::size_t index = of_row ? b : row * n + b;
                        std::memcpy(block.data(), from.data() + 2 * index, 2);
                        std::memcpy(block.data() + 2, from.data() + 2 * n_scales + values * index, values);
                        format.decode(block.data(), decoded.data() + b * format.block_size, 1);
                      }
                    });
  }
}

// Types to which the file's weight may have been requantized. A few outputs show which one, since encoding takes long.
void requantized(const Question& q, Candidates& out) {
  const auto* linear = q.as<plan::Linear>();
  const auto* embed = q.as<plan::Embed>();
  if ((linear == nullptr && embed == nullptr) || !q.has_both()) return;
  const plan::WeightId id = linear != nullptr ? linear->weight : embed->table;
  const plan::Weight& weight = q.plan().weight(id);
  const quants::FormatInfo& own = quants::info(weight.tensor.format);
  const RowSource rows = backends::reference::rows_of(weight.tensor);
  const std::size_t width = q.width(), n_in = weight.in();
  constexpr std::size_t n_compared = 24;
  const Values x = linear != nullptr ? q.replay.value(linear->x) : nullptr;
  for (const quants::FormatInfo& format : quants::formats()) {
    // A finer type than the file's would lose nothing.
    const bool is_coarser = format.block_bytes * own.block_size < own.block_bytes * format.block_size;
    if (format.encode == nullptr || format.block_size == 1 || !is_coarser || n_in % format.block_size != 0) continue;
    const RowSource coarse = [rows, &format](std::uint64_t row, std::span<float> decoded) {
      rows(row, decoded);
      std::vector<std::byte> blocks(format.row_bytes(decoded.size()));
      format.encode(decoded.data(), blocks.data(), decoded.size() / format.block_size);
      format.decode(blocks.data(), decoded.data(), decoded.size() / format.block_size);
    };
    double wrong = 0, right = 0;
    std::vector<float> w(n_in), exact(n_in);
    const auto compare = [&](double found, double expected, double guess) {
      wrong += std::pow(found - guess, 2);
      right += std::pow(found - expected, 2);
    };
    if (linear != nullptr) {
      for (std::size_t k = 0; k < n_compared; ++k) {
        const std::size_t j = k * width / n_compared;
        const float* const in = x->data() + q.rows[0] * n_in;
        coarse(j, w);
        rows(j, exact);
        double change = 0;
        for (std::size_t i = 0; i < n_in; ++i) change += (double{w[i]} - exact[i]) * in[i];
        compare(q.found[j], q.expected[j], q.expected[j] + change);
      }
    } else {
      const backends::Row& row = q.replay.rows()[q.rows[0]];
      coarse(embed->row(row.token, row.position), w);
      for (std::size_t i = 0; i < n_in; ++i) compare(q.found[i], q.expected[i], double{w[i]} * embed->scale);
    }
    if (!(wrong < 0.25 * right)) continue;
    out.with_weight(fmt::format("to {} from {}", format.name, own.name), id, coarse);
  }
}

// float16 and bfloat16 weights read as each other.
void sixteen_bits(const Question& q, Candidates& out) {
  const auto id = weight_of(q);
  if (!id || q.as<plan::ExpertLinear>() != nullptr) return;
  const gguf::Tensor tensor = q.plan().weight(*id).tensor;
  if (tensor.format != Format::f16 && tensor.format != Format::bf16) return;
  gguf::Tensor wrong = tensor;
  wrong.format = tensor.format == Format::f16 ? Format::bf16 : Format::f16;
  out.with_weight(fmt::format("{} read as {}", quants::info(tensor.format).name, quants::info(wrong.format).name), *id,
                  backends::reference::rows_of(wrong));
}

constexpr Hypothesis table[] = {
    {"quant-block-order", Kind::weight, of<block_order>, R"(blocks of quantized weights are read in another order
The block's index is off, or runs the other way.
block b of row r lies at (r * blocks in a row + b) * bytes of a block)"},
    {"quant-part-decoded", Kind::weight, of<first_block_only>, R"(a part of the quantized weights is decoded
The loop over blocks, or within one, ends early; the rest is zero.
decode all blocks of a row, and all weights of a block)"},
    {"quant-nibble-order", Kind::weight, of<nibble_order>, R"(4-bit values are taken apart in another order
In a block of 32 byte j holds weight j in its low and weight j + 16 in its high four bits (in K-quants j + 32 of 64).
low nibbles are the first half, high nibbles the second)"},
    {"quant-high-bits", Kind::weight, of<high_bits>, R"(the high bits of quantized weights are wrong
Q5 and Q6 keep the fifth and sixth bits apart from the nibbles.
combine nibble and high bits as the format says)"},
    {"quant-minimum", Kind::weight, of<minimum>, R"(the blocks' minimum is wrong
Q4_1 and Q5_1 add m, Q2_K, Q4_K and Q5_K subtract dmin times the sub-block's.
apply the minimum)"},
    {"quant-offset", Kind::weight, of<offset>, R"(another offset is subtracted from the integers
8 for Q4_0, 16 for Q5_0, 32 for Q6_K.
subtract the format's offset)"},
    {"quant-signedness", Kind::weight, of<signedness>, R"(signed bytes are read as unsigned
The weights of Q8_0 and the sub-block scales of Q6_K are int8.
read them as int8)"},
    {"quant-scale-type", Kind::weight, of<scale_type>, R"(the blocks' scale is read as another type
Scales are little-endian float16.
convert the scale from float16)"},
    {"quant-neighbour-scale", Kind::weight, of<neighbour_scale>, R"(another block's scale is used
The scale's index does not follow the weights'.
use each block's own scale)"},
    {"quant-packed-scales", Kind::weight, of<packed_scales>, R"(the packed scales of a K-quant are taken apart wrongly
Q4_K and Q5_K pack eight 6-bit scales and minimums in 12 bytes: the last four keep their upper bits with the first four.
unpack the 12 bytes as the format says)"},
    {"quant-linear-values", Kind::weight, of<linear_values>, R"(IQ4_NL's values are read as linear
Its 16 values are a table, not q - 8.
look the value up in the table)"},
    {"quant-planar", Kind::weight, of_shown<planar>, R"(scales and values of quantized weights are read from separate arrays
An engine that repacks its weights has all scales first and all values after them; the file has them block by block.
repack the weights when they are loaded, or read them as they are)"},
    {"weight-requantized", Kind::weight, of<requantized>, R"(the weight was quantized to another type
The engine ran another quantization of the model than the file that it is compared with, or made one when it loaded.
run the file that the trace is compared with, and keep the types that it has)"},
    {"weight-sixteen-bits", Kind::weight, of<sixteen_bits>, R"(float16 and bfloat16 are exchanged
Both have 16 bits, and other exponents.
decode the type that the file states)"},
};

}  // namespace
}  // namespace in_quantization

std::span<const Hypothesis> quantization() { return in_quantization::table; }

}  // namespace plumb::diagnose::families
