// Blocks of quantized weights, decoded wrongly. A mistake is made in the block's bytes before they are decoded rightly, or
// in the weights afterwards, so that each is stated once for all formats that it fits.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "diagnose/hypothesis.h"
#include "quants/blocks.h"
#include "quants/format.h"

namespace plumb::diagnose::families {

namespace in_quantization {
namespace {

using backends::reference::RowSource;
using quants::Format;

// Where the fields of a block lie; the layouts are those of quants/blocks.h.
struct Layout {
  Format format;
  int scale = -1;     // of the float16 scale, `d`
  int minimum = -1;   // of the float16 minimum, `m` or `dmin`
  int nibbles = -1;   // of the low bits
  int n_nibbles = 0;  // bytes of them
  int high = -1;      // of the high bits
  int n_high = 0;     // bytes of them
  int scales = -1;    // of the sub-blocks' scales
  int n_scales = 0;   // bytes of them
  double offset = 0;  // subtracted from every integer before it is scaled
};
constexpr Layout layouts[] = {
    {.format = Format::q4_0, .scale = 0, .nibbles = 2, .n_nibbles = 16, .offset = 8},
    {.format = Format::q4_1, .scale = 0, .minimum = 2, .nibbles = 4, .n_nibbles = 16},
    {.format = Format::q5_0, .scale = 0, .nibbles = 6, .n_nibbles = 16, .high = 2, .n_high = 4, .offset = 16},
    {.format = Format::q5_1, .scale = 0, .minimum = 2, .nibbles = 8, .n_nibbles = 16, .high = 4, .n_high = 4},
    {.format = Format::q8_0, .scale = 0},
    {.format = Format::q2_k, .scale = 80, .minimum = 82, .nibbles = 16, .n_nibbles = 64, .scales = 0, .n_scales = 16},
    {.format = Format::q3_k,
     .scale = 108,
     .nibbles = 32,
     .n_nibbles = 64,
     .high = 0,
     .n_high = 32,
     .scales = 96,
     .n_scales = 12},
    {.format = Format::q4_k, .scale = 0, .minimum = 2, .nibbles = 16, .n_nibbles = 128, .scales = 4, .n_scales = 12},
    {.format = Format::q5_k,
     .scale = 0,
     .minimum = 2,
     .nibbles = 48,
     .n_nibbles = 128,
     .high = 16,
     .n_high = 32,
     .scales = 4,
     .n_scales = 12},
    {.format = Format::q6_k,
     .scale = 208,
     .nibbles = 0,
     .n_nibbles = 128,
     .high = 128,
     .n_high = 64,
     .scales = 192,
     .n_scales = 16},
    {.format = Format::iq4_nl, .scale = 0, .nibbles = 2, .n_nibbles = 16},
    {.format = Format::iq4_xs, .scale = 0, .nibbles = 8, .n_nibbles = 128, .scales = 4, .n_scales = 4},
    {.format = Format::mxfp4, .nibbles = 1, .n_nibbles = 16},
};
static_assert(sizeof(quants::BlockQ4_0) == 18 && sizeof(quants::BlockQ4_K) == 144 && sizeof(quants::BlockQ6_K) == 210);

using Bytes = std::span<std::uint8_t>;

// A field of a block.
Bytes part(Bytes block, int at, int n) { return block.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n)); }

float half_at(std::span<const std::uint8_t> block, int at) {
  return f16_to_f32(
      static_cast<std::uint16_t>(block[static_cast<std::size_t>(at)] | (block[static_cast<std::size_t>(at) + 1] << 8)));
}

struct Misreading {
  // Changes a block's bytes; `all` is the tensor and `index` the block's place in it.
  std::function<void(const Layout&, Bytes block, std::span<const std::byte> all, std::size_t index)> bytes;
  // Changes a block's weights, decoded from the changed bytes; `block` has the file's own.
  std::function<void(const Layout&, std::span<float> weights, std::span<const std::uint8_t> block)> weights;
};

RowSource misread(const gguf::Tensor& tensor, const Layout& layout, const Misreading& mistake) {
  const quants::FormatInfo& format = quants::info(tensor.format);
  const std::size_t n_blocks = tensor.dims[0] / format.block_size;
  return [&format, n_blocks, data = tensor.data, &layout, mistake](std::uint64_t row, std::span<float> out) {
    std::vector<std::uint8_t> bytes(format.block_bytes), original(format.block_bytes);
    for (std::size_t b = 0; b < n_blocks; ++b) {
      const std::size_t index = row * n_blocks + b;
      std::memcpy(original.data(), data.data() + index * format.block_bytes, original.size());
      bytes = original;
      if (mistake.bytes) mistake.bytes(layout, bytes, data, index);
      const auto weights = out.subspan(b * format.block_size, format.block_size);
      format.decode(std::bit_cast<const std::byte*>(bytes.data()), weights.data(), 1);
      if (mistake.weights) mistake.weights(layout, weights, original);
    }
  };
}

struct Quantized {
  plan::WeightId id;
  const gguf::Tensor* tensor;
  const Layout* layout;
};
std::optional<Quantized> quantized_of(const Question& q) {
  std::optional<plan::WeightId> id;
  if (const auto* op = q.as<plan::Linear>()) id = op->weight;
  if (const auto* op = q.as<plan::Embed>()) id = op->table;
  if (const auto* op = q.as<plan::ExpertLinear>()) id = op->weight;
  if (!id) return std::nullopt;
  const gguf::Tensor& tensor = q.plan().weight(*id).tensor;
  const auto* layout =
      std::find_if(std::begin(layouts), std::end(layouts), [&](const Layout& l) { return l.format == tensor.format; });
  if (layout == std::end(layouts)) return std::nullopt;
  return Quantized{*id, &tensor, layout};
}

Candidate reading(const Quantized& w, const Misreading& mistake, std::string detail = "") {
  return with_weight(std::move(detail), w.id, misread(*w.tensor, *w.layout, mistake));
}

std::vector<Candidate> block_order(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  const quants::FormatInfo& format = quants::info(w->tensor->format);
  const std::size_t in = w->tensor->dims[0], n = in / format.block_size, rows = w->tensor->n_rows();
  const auto order = [&](std::string detail, auto from) {
    return with_weight(
        std::move(detail), w->id, [&format, n, data = w->tensor->data, from](std::uint64_t row, std::span<float> out) {
          for (std::size_t b = 0; b < n; ++b) {
            format.decode(data.data() + from(row, b) * format.block_bytes, out.data() + b * format.block_size, 1);
          }
        });
  };
  std::vector<Candidate> result;
  const std::size_t total = n * rows;
  result.push_back(
      order("the block after", [n, total](std::uint64_t r, std::size_t b) { return std::min(r * n + b + 1, total - 1); }));
  result.push_back(
      order("the block before", [n](std::uint64_t r, std::size_t b) { return r * n + b - (r * n + b > 0 ? 1 : 0); }));
  if (n > 1) {
    result.push_back(
        order("blocks of a row in reverse", [n](std::uint64_t r, std::size_t b) { return r * n + n - 1 - b; }));
    result.push_back(
        order("blocks exchanged in pairs", [n](std::uint64_t r, std::size_t b) { return r * n + std::min(b ^ 1, n - 1); }));
    result.push_back(order("the row's first block throughout", [n](std::uint64_t r, std::size_t) { return r * n; }));
    result.push_back(with_weight("the halves of a block exchanged", w->id,
                                 [rows_of = backends::reference::rows_of(*w->tensor), size = format.block_size](
                                     std::uint64_t row, std::span<float> out) {
                                   rows_of(row, out);
                                   for (auto at = out.begin(); at != out.end(); at += size)
                                     std::rotate(at, at + size / 2, at + size);
                                 }));
    result.push_back(
        order("blocks counted down the columns", [rows](std::uint64_t r, std::size_t b) { return b * rows + r; }));
  }
  return result;
}

std::vector<Candidate> first_block_only(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  const std::size_t size = quants::info(w->tensor->format).block_size;
  const RowSource rows = backends::reference::rows_of(*w->tensor);
  std::vector<Candidate> result;
  if (w->tensor->dims[0] > size) {
    result.push_back(with_weight("all blocks of a row but the first are zero", w->id,
                                 [rows, size](std::uint64_t row, std::span<float> out) {
                                   rows(row, out);
                                   std::fill(out.begin() + static_cast<std::ptrdiff_t>(size), out.end(), 0.0f);
                                 }));
  }
  const auto zero_after = [&](std::size_t n) {
    result.push_back(with_weight(fmt::format("all weights of a block but the first {} are zero", n), w->id,
                                 [rows, size, n](std::uint64_t row, std::span<float> out) {
                                   rows(row, out);
                                   for (std::size_t i = 0; i < out.size(); ++i) {
                                     if (i % size >= n) out[i] = 0;
                                   }
                                 }));
  };
  for (std::size_t n = 16; n < size; n *= 2) zero_after(n);
  return result;
}

std::vector<Candidate> nibble_order(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  std::vector<Candidate> result;
  const quants::FormatInfo& format = quants::info(w->tensor->format);
  if (w->layout->nibbles >= 0 && w->layout->format != Format::q2_k && w->layout->format != Format::q3_k) {
    result.push_back(reading(*w,
                             {.bytes =
                                  [](const Layout& l, Bytes block, auto, auto) {
                                    for (std::uint8_t& b : part(block, l.nibbles, l.n_nibbles)) {
                                      b = static_cast<std::uint8_t>(b << 4 | b >> 4);
                                    }
                                  }},
                             "low and high nibbles exchanged"));
  }
  // The weights of a nibble-split block laid out as if its bytes held neighbours, and the other way round.
  const std::size_t group = format.block_size == 256 ? 64 : 32;
  if (w->layout->nibbles >= 0) {
    result.push_back(reading(*w,
                             {.weights =
                                  [group](const Layout&, std::span<float> weights, auto) {
                                    const std::vector<float> right(weights.begin(), weights.end());
                                    for (std::size_t i = 0; i < weights.size(); ++i) {
                                      const std::size_t start = i / group * group, j = i % group;
                                      weights[i] = right[start + j / 2 + (j % 2) * group / 2];
                                    }
                                  }},
                             "a byte's nibbles taken for neighbours"));
    // With scales that stay in their place.
    if (format.block_size == 32) return result;
    if (w->layout->format == Format::q6_k) {
      result.push_back(reading(*w,
                               {.bytes =
                                    [](const Layout& l, Bytes block, auto, auto) {
                                      for (int start = 0; start < l.n_nibbles; start += 64) {
                                        const Bytes bytes = part(block, l.nibbles + start, 64);
                                        for (std::size_t i = 0; i < 32; ++i) {
                                          const std::uint8_t a = bytes[i], b = bytes[i + 32];
                                          bytes[i] = static_cast<std::uint8_t>((a & 15) | (b & 15) << 4);
                                          bytes[i + 32] = static_cast<std::uint8_t>(a >> 4 | (b & 0xf0));
                                        }
                                      }
                                    }},
                               "both nibbles of a byte taken for weights 32 apart, as in Q4_K"));
    }
    if (w->layout->format == Format::q4_k || w->layout->format == Format::q5_k) {
      result.push_back(reading(*w,
                               {.bytes =
                                    [](const Layout& l, Bytes block, auto, auto) {
                                      const Bytes bytes = part(block, l.nibbles, l.n_nibbles);
                                      const std::vector<std::uint8_t> right(bytes.begin(), bytes.end());
                                      for (std::size_t i = 0; i < 256; ++i) {
                                        const std::uint8_t v = i < 128 ? right[i] & 15 : right[i - 128] >> 4;
                                        std::uint8_t& b = bytes[i / 64 * 32 + i % 32];
                                        b = static_cast<std::uint8_t>(i % 64 < 32 ? (b & 0xf0) | v : (b & 15) | v << 4);
                                      }
                                    }},
                               "all low nibbles first, then all high ones"));
    }
    result.push_back(reading(*w,
                             {.bytes =
                                  [](const Layout& l, Bytes block, auto, auto) {
                                    for (int start = 0; start < l.n_nibbles; start += 32) {
                                      const Bytes bytes = part(block, l.nibbles + start, 32);
                                      std::array<std::uint8_t, 64> values{};
                                      for (std::size_t i = 0; i < 32; ++i) {
                                        values[2 * i] = bytes[i] & 15;
                                        values[2 * i + 1] = bytes[i] >> 4;
                                      }
                                      for (std::size_t i = 0; i < 32; ++i) {
                                        bytes[i] = static_cast<std::uint8_t>(values[i] | values[i + 32] << 4);
                                      }
                                    }
                                  }},
                             "a byte's nibbles taken for neighbours, scales in place"));
  }
  return result;
}

std::vector<Candidate> high_bits(const Question& q) {
  const auto w = quantized_of(q);
  if (!w || w->layout->high < 0) return {};
  std::vector<Candidate> result;
  const auto each = [&](std::string detail, std::function<std::uint8_t(std::uint8_t)> f) {
    result.push_back(reading(*w,
                             {.bytes =
                                  [f = std::move(f)](const Layout& l, Bytes block, auto, auto) {
                                    for (std::uint8_t& b : part(block, l.high, l.n_high)) b = f(b);
                                  }},
                             std::move(detail)));
  };
  each("left out", [](std::uint8_t) { return std::uint8_t{0}; });
  each("inverted", [](std::uint8_t b) { return static_cast<std::uint8_t>(~b); });
  each("in reverse within a byte", [](std::uint8_t b) {
    std::uint8_t r = 0;
    for (int i = 0; i < 8; ++i) r = static_cast<std::uint8_t>(r | ((b >> i & 1) << (7 - i)));
    return r;
  });
  if (w->layout->format == Format::q6_k) {
    each("pairs in reverse within a byte", [](std::uint8_t b) {
      return static_cast<std::uint8_t>((b & 3) << 6 | (b >> 2 & 3) << 4 | (b >> 4 & 3) << 2 | b >> 6);
    });
    each("the two bits of a pair exchanged",
         [](std::uint8_t b) { return static_cast<std::uint8_t>((b & 0x55) << 1 | (b & 0xaa) >> 1); });
    each("neighbouring pairs exchanged",
         [](std::uint8_t b) { return static_cast<std::uint8_t>((b & 0x33) << 2 | (b & 0xcc) >> 2); });
    each("the halves of a byte exchanged", [](std::uint8_t b) { return static_cast<std::uint8_t>(b << 4 | b >> 4); });
    each("the second and third pair exchanged",
         [](std::uint8_t b) { return static_cast<std::uint8_t>((b & 0xc3) | (b & 0x0c) << 2 | (b & 0x30) >> 2); });
  } else {
    each("neighbouring bits exchanged",
         [](std::uint8_t b) { return static_cast<std::uint8_t>((b & 0x55) << 1 | (b & 0xaa) >> 1); });
    each("the halves of a byte exchanged", [](std::uint8_t b) { return static_cast<std::uint8_t>(b << 4 | b >> 4); });
  }
  result.push_back(reading(*w,
                           {.bytes =
                                [](const Layout& l, Bytes block, auto, auto) {
                                  const auto begin = block.begin() + l.high;
                                  std::rotate(begin, begin + l.n_high / 2, begin + l.n_high);
                                }},
                           "first and second half exchanged"));
  return result;
}

std::vector<Candidate> minimum(const Question& q) {
  const auto w = quantized_of(q);
  if (!w || w->layout->minimum < 0) return {};
  std::vector<Candidate> result;
  result.push_back(reading(*w,
                           {.bytes =
                                [](const Layout& l, Bytes block, auto, auto) {
                                  block[static_cast<std::size_t>(l.minimum)] =
                                      block[static_cast<std::size_t>(l.minimum) + 1] = 0;
                                }},
                           "it is left out"));
  result.push_back(reading(
      *w,
      {.bytes = [](const Layout& l, Bytes block, auto, auto) { block[static_cast<std::size_t>(l.minimum) + 1] ^= 0x80; }},
      "its sign is wrong"));
  result.push_back(reading(*w,
                           {.bytes =
                                [](const Layout& l, Bytes block, auto, auto) {
                                  for (std::size_t i = 0; i < 2; ++i) {
                                    std::swap(block[static_cast<std::size_t>(l.scale) + i],
                                              block[static_cast<std::size_t>(l.minimum) + i]);
                                  }
                                }},
                           "scale and minimum are exchanged"));
  return result;
}

std::vector<Candidate> signedness(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  if (w->layout->format == Format::q8_0) {
    return {reading(*w,
                    {.weights =
                         [](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                           for (std::size_t i = 0; i < weights.size(); ++i)
                             weights[i] = half_at(block, l.scale) * block[2 + i];
                         }},
                    "values read as unsigned"),
            reading(*w,
                    {.weights =
                         [](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                           for (std::size_t i = 0; i < weights.size(); ++i)
                             weights[i] = half_at(block, l.scale) * static_cast<float>(block[2 + i] - 128);
                         }},
                    "values read as unsigned, less 128")};
  }
  if (w->layout->format == Format::q6_k) {
    return {reading(*w,
                    {.weights =
                         [](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                           for (std::size_t i = 0; i < weights.size(); ++i) {
                             const std::uint8_t sub = block[static_cast<std::size_t>(l.scales) + i / 16];
                             if (sub >= 128)
                               weights[i] *= static_cast<float>(sub) / static_cast<float>(static_cast<std::int8_t>(sub));
                           }
                         }},
                    "sub-block scales read as unsigned")};
  }
  return {};
}

std::vector<Candidate> scale_type(const Question& q) {
  const auto w = quantized_of(q);
  if (!w || w->layout->scale < 0) return {};
  const auto as = [](std::span<const std::uint8_t> block, int at) {
    const auto bits =
        static_cast<std::uint32_t>(block[static_cast<std::size_t>(at)] | block[static_cast<std::size_t>(at) + 1] << 8);
    return std::bit_cast<float>(bits << 16);
  };
  std::vector<Candidate> result;
  // weight = scale * a + minimum * b: decoded once with each of the two in place, as if 1.
  const gguf::Tensor tensor = *w->tensor;
  const quants::FormatInfo& format = quants::info(tensor.format);
  for (const bool minimum_too : {true, false}) {
    if (!minimum_too && w->layout->minimum < 0) break;
    result.push_back(
        with_weight(w->layout->minimum < 0 ? "as bfloat16"
                    : minimum_too          ? "as bfloat16, and the minimum"
                                           : "as bfloat16, the minimum right",
                    w->id, [tensor, &format, l = w->layout, as, minimum_too](std::uint64_t row, std::span<float> out) {
                      const std::size_t n = out.size() / format.block_size;
                      std::vector<std::uint8_t> block(format.block_bytes);
                      std::vector<float> a(format.block_size), b(format.block_size, 0.0f);
                      for (std::size_t i = 0; i < n; ++i) {
                        std::memcpy(block.data(), tensor.data.data() + (row * n + i) * format.block_bytes, block.size());
                        const float scale = as(block, l->scale), low = l->minimum < 0 ? 0
                                                                       : minimum_too  ? as(block, l->minimum)
                                                                                      : half_at(block, l->minimum);
                        const auto set = [&](int at, std::uint8_t high) {
                          if (at < 0) return;
                          block[static_cast<std::size_t>(at)] = 0;
                          block[static_cast<std::size_t>(at) + 1] = high;
                        };
                        constexpr std::uint8_t one = 0x3c;  // high byte of 1 as float16
                        set(l->scale, one);
                        set(l->minimum, 0);
                        format.decode(std::bit_cast<const std::byte*>(block.data()), a.data(), 1);
                        if (l->minimum >= 0) {
                          set(l->scale, 0);
                          set(l->minimum, one);
                          format.decode(std::bit_cast<const std::byte*>(block.data()), b.data(), 1);
                        }
                        for (std::size_t k = 0; k < format.block_size; ++k)
                          out[i * format.block_size + k] = scale * a[k] + low * b[k];
                      }
                    }));
  }
  result.push_back(reading(*w,
                           {.bytes =
                                [](const Layout& l, Bytes block, auto, auto) {
                                  std::swap(block[static_cast<std::size_t>(l.scale)],
                                            block[static_cast<std::size_t>(l.scale) + 1]);
                                }},
                           "with its bytes exchanged"));
  return result;
}

std::vector<Candidate> neighbour_scale(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  std::vector<Candidate> result;
  const std::size_t size = quants::info(w->tensor->format).block_bytes;
  const bool has_minimum = w->layout->minimum >= 0;
  for (const bool minimum_too : {false, true})
    for (const int by : {1, -1}) {
      if (w->layout->scale < 0 || (minimum_too && !has_minimum)) continue;
      result.push_back(reading(
          *w,
          {.bytes =
               [by, minimum_too, size](const Layout& l, Bytes block, std::span<const std::byte> all, std::size_t index) {
                 const auto n = static_cast<std::int64_t>(all.size() / size);
                 const auto other = static_cast<std::size_t>((static_cast<std::int64_t>(index) + by + n) % n);
                 std::memcpy(block.data() + l.scale, all.data() + other * size + l.scale, 2);
                 if (minimum_too) std::memcpy(block.data() + l.minimum, all.data() + other * size + l.minimum, 2);
               }},
          fmt::format("the {} block's{}", by > 0 ? "next" : "previous", minimum_too ? ", and its minimum" : "")));
    }
  if (w->layout->scale >= 0) {
    for (const bool of_row : {true, false}) {
      result.push_back(reading(
          *w,
          {.bytes =
               [of_row, size, n = w->tensor->dims[0] / quants::info(w->tensor->format).block_size](
                   const Layout& l, Bytes block, std::span<const std::byte> all, std::size_t index) {
                 const std::size_t first = of_row ? index / n * n : 0;
                 std::memcpy(block.data() + l.scale, all.data() + first * size + static_cast<std::size_t>(l.scale), 2);
               }},
          of_row ? "that of the row's first block for all" : "that of the tensor's first block for all"));
    }
  }
  if (w->layout->format == Format::q6_k || w->layout->format == Format::q2_k) {
    const auto sub_blocks = [&](std::string detail, std::size_t (*from)(std::size_t i, std::size_t n)) {
      result.push_back(reading(*w,
                               {.bytes =
                                    [from](const Layout& l, Bytes block, auto, auto) {
                                      const Bytes scales = part(block, l.scales, l.n_scales);
                                      const std::vector<std::uint8_t> right(scales.begin(), scales.end());
                                      for (std::size_t i = 0; i < right.size(); ++i)
                                        scales[i] = right[from(i, right.size())];
                                    }},
                               std::move(detail)));
    };
    sub_blocks("the next sub-block's", [](std::size_t i, std::size_t n) { return (i + 1) % n; });
    sub_blocks("the previous sub-block's", [](std::size_t i, std::size_t n) { return (i + n - 1) % n; });
    sub_blocks("sub-block scales in reverse", [](std::size_t i, std::size_t n) { return n - 1 - i; });
    sub_blocks("halves of the sub-block scales exchanged", [](std::size_t i, std::size_t n) { return (i + n / 2) % n; });
    sub_blocks("one for two sub-blocks, the first's", [](std::size_t i, std::size_t) { return i & ~std::size_t{1}; });
    sub_blocks("one for two sub-blocks, each in two", [](std::size_t i, std::size_t) { return i / 2; });
  }
  return result;
}

// The 6-bit scales and minimums of Q4_K and Q5_K.
struct Packed {
  std::array<std::uint8_t, 8> scale{}, minimum{};
};
Packed unpack(std::span<const std::uint8_t> s) {
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
std::vector<int> integers(const Layout& l, std::span<const std::uint8_t> block) {
  std::vector<int> q(256);
  for (std::size_t i = 0; i < q.size(); ++i) {
    const std::size_t sub = i / 32, byte = sub / 2 * 32 + i % 32;
    q[i] = block[static_cast<std::size_t>(l.nibbles) + byte] >> (sub % 2 * 4) & 15;
    if (l.high >= 0) q[i] |= (block[static_cast<std::size_t>(l.high) + i % 32] >> sub & 1) << 4;
  }
  return q;
}

std::vector<Candidate> offset(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  std::vector<Candidate> result;
  if (w->layout->offset > 0) {
    for (const double by : {w->layout->offset, w->layout->offset / 2, 1.0, -1.0}) {
      result.push_back(
          reading(*w,
                  {.weights =
                       [by](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                         for (float& v : weights) v += static_cast<float>(by * half_at(block, l.scale));
                       }},
                  fmt::format("{:g} is subtracted instead of {:g}", w->layout->offset - by, w->layout->offset)));
    }
  }
  if (w->layout->format == Format::q6_k) {
    for (const double by : {32.0, 16.0, 1.0, -1.0}) {
      result.push_back(reading(*w,
                               {.weights =
                                    [by](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                                      for (std::size_t i = 0; i < weights.size(); ++i) {
                                        const auto sub =
                                            static_cast<std::int8_t>(block[static_cast<std::size_t>(l.scales) + i / 16]);
                                        weights[i] += static_cast<float>(by * sub * half_at(block, l.scale));
                                      }
                                    }},
                               fmt::format("{:g} is subtracted instead of 32", 32 - by)));
    }
  }
  if (w->layout->format == Format::q4_k || w->layout->format == Format::q5_k) {
    for (const double by : {8.0, 16.0}) {
      result.push_back(reading(*w,
                               {.weights =
                                    [by](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                                      const Packed p = unpack(block.subspan(static_cast<std::size_t>(l.scales), 12));
                                      for (std::size_t i = 0; i < weights.size(); ++i)
                                        weights[i] -= static_cast<float>(by * p.scale[i / 32] * half_at(block, l.scale));
                                    }},
                               fmt::format("{:g} is subtracted; the format has a minimum in its place", by)));
    }
  }
  return result;
}

std::vector<Candidate> packed_scales(const Question& q) {
  const auto w = quantized_of(q);
  if (!w || (w->layout->format != Format::q4_k && w->layout->format != Format::q5_k)) return {};
  std::vector<Candidate> result;
  const auto add = [&](std::string detail, std::function<void(Packed&, std::span<const std::uint8_t>)> change) {
    result.push_back(reading(*w,
                             {.bytes =
                                  [change = std::move(change)](const Layout& l, Bytes block, auto, auto) {
                                    const auto scales = block.subspan(static_cast<std::size_t>(l.scales), 12);
                                    Packed p = unpack(scales);
                                    change(p, scales);
                                    pack(p, scales);
                                  }},
                             std::move(detail)));
  };
  add("scales and minimums exchanged", [](Packed& p, auto) { std::swap(p.scale, p.minimum); });
  add("the upper bits of the last four left out", [](Packed& p, auto) {
    for (std::size_t j = 4; j < 8; ++j) p.scale[j] &= 15, p.minimum[j] &= 15;
  });
  add("the nibbles of the last four exchanged", [](Packed& p, auto) {
    for (std::size_t j = 4; j < 8; ++j) {
      const std::uint8_t s = p.scale[j], m = p.minimum[j];
      p.scale[j] = static_cast<std::uint8_t>((s & 48) | (m & 15));
      p.minimum[j] = static_cast<std::uint8_t>((m & 48) | (s & 15));
    }
  });
  add("the upper bits of scales and minimums exchanged", [](Packed& p, auto) {
    for (std::size_t j = 4; j < 8; ++j) {
      const std::uint8_t s = p.scale[j], m = p.minimum[j];
      p.scale[j] = static_cast<std::uint8_t>((m & 48) | (s & 15));
      p.minimum[j] = static_cast<std::uint8_t>((s & 48) | (m & 15));
    }
  });
  add("read byte by byte, the packing ignored", [](Packed& p, std::span<const std::uint8_t> s) {
    for (std::size_t j = 0; j < 8; ++j) p.scale[j] = s[j] & 63;
    for (std::size_t j = 0; j < 4; ++j) p.minimum[j] = s[j + 8] & 63, p.minimum[j + 4] = s[j + 8] & 63;
  });
  add("byte j for scale j and byte j + 4 for minimum j, the packing ignored",
      [](Packed& p, std::span<const std::uint8_t> s) {
        for (std::size_t j = 0; j < 8; ++j) p.scale[j] = s[j] & 63, p.minimum[j] = s[j + 4] & 63;
      });
  add("the last four read like the first", [](Packed& p, auto) {
    for (std::size_t j = 0; j < 4; ++j) p.scale[j + 4] = p.scale[j], p.minimum[j + 4] = p.minimum[j];
  });
  add("the next sub-block's", [](Packed& p, auto) {
    std::rotate(p.scale.begin(), p.scale.begin() + 1, p.scale.end());
    std::rotate(p.minimum.begin(), p.minimum.begin() + 1, p.minimum.end());
  });
  add("the previous sub-block's", [](Packed& p, auto) {
    std::rotate(p.scale.begin(), p.scale.end() - 1, p.scale.end());
    std::rotate(p.minimum.begin(), p.minimum.end() - 1, p.minimum.end());
  });
  add("the next sub-block's scale",
      [](Packed& p, auto) { std::rotate(p.scale.begin(), p.scale.begin() + 1, p.scale.end()); });
  add("the previous sub-block's scale",
      [](Packed& p, auto) { std::rotate(p.scale.begin(), p.scale.end() - 1, p.scale.end()); });
  add("the next sub-block's minimum",
      [](Packed& p, auto) { std::rotate(p.minimum.begin(), p.minimum.begin() + 1, p.minimum.end()); });
  add("the previous sub-block's minimum",
      [](Packed& p, auto) { std::rotate(p.minimum.begin(), p.minimum.end() - 1, p.minimum.end()); });
  add("scale and minimum of the first four taken for neighbours", [](Packed& p, std::span<const std::uint8_t> s) {
    for (std::size_t j = 0; j < 4; ++j) p.scale[j] = s[2 * j] & 63, p.minimum[j] = s[2 * j + 1] & 63;
  });
  // Beyond 6 bits, which no packing holds: what is too much is added to the weights.
  for (const bool minimum_too : {true, false}) {
    result.push_back(
        reading(*w,
                {.weights =
                     [minimum_too](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                       const std::vector<int> values = integers(l, block);
                       const float d = half_at(block, l.scale), low = half_at(block, l.minimum);
                       for (std::size_t i = 0; i < weights.size() / 2; ++i) {
                         const auto at = static_cast<std::size_t>(l.scales) + i / 32;
                         weights[i] += d * static_cast<float>((block[at] & 192) * values[i]);
                         if (minimum_too) weights[i] -= low * static_cast<float>(block[at + 4] & 192);
                       }
                     }},
                minimum_too ? "the first four not cut to 6 bits" : "the first four scales not cut to 6 bits"));
  }
  add("in reverse", [](Packed& p, auto) {
    std::reverse(p.scale.begin(), p.scale.end());
    std::reverse(p.minimum.begin(), p.minimum.end());
  });
  return result;
}

// Nonlinear 4-bit values read as linear ones.
std::vector<Candidate> linear_values(const Question& q) {
  const auto w = quantized_of(q);
  if (!w) return {};
  if (w->layout->format != Format::iq4_nl) return {};
  return {reading(*w,
                  {.weights =
                       [](const Layout& l, std::span<float> weights, std::span<const std::uint8_t> block) {
                         for (std::size_t i = 0; i < 16; ++i) {
                           const std::uint8_t b = block[static_cast<std::size_t>(l.nibbles) + i];
                           weights[i] = half_at(block, l.scale) * static_cast<float>((b & 15) - 8);
                           weights[i + 16] = half_at(block, l.scale) * static_cast<float>((b >> 4) - 8);
                         }
                       }},
                  "")};
}

// All scales first, and then all values: of the tensor, or of each row.
std::vector<Candidate> planar(const Question& q) {
  if (q.is_inner()) return {};
  const auto w = quantized_of(q);
  if (!w || w->layout->scale != 0 || quants::info(w->tensor->format).block_size != 32 || w->layout->minimum >= 0) return {};
  const quants::FormatInfo& format = quants::info(w->tensor->format);
  const std::size_t n = w->tensor->dims[0] / format.block_size;
  std::vector<Candidate> result;
  for (const bool of_row : {false, true}) {
    if (of_row && n == 1) continue;
    result.push_back(with_weight(of_row ? "of each row" : "of the tensor", w->id,
                                 [&format, n, of_row, data = w->tensor->data](std::uint64_t row, std::span<float> out) {
                                   const std::size_t n_scales = of_row ? n : data.size() / format.block_bytes,
                                                     values = format.block_bytes - 2;
                                   const auto from = data.subspan(of_row ? row * n * format.block_bytes : 0);
                                   std::vector<std::byte> block(format.block_bytes);
                                   for (std::size_t b = 0; b < n; ++b) {
                                     const std::size_t index = of_row ? b : row * n + b;
                                     std::memcpy(block.data(), from.data() + 2 * index, 2);
                                     std::memcpy(block.data() + 2, from.data() + 2 * n_scales + values * index, values);
                                     format.decode(block.data(), out.data() + b * format.block_size, 1);
                                   }
                                 }));
  }
  return result;
}

// Types that a weight may have been quantized to from the file's. Some outputs tell which: encoders take their time.
std::vector<Candidate> requantized(const Question& q) {
  const auto* linear = q.as<plan::Linear>();
  const auto* embed = q.as<plan::Embed>();
  if ((linear == nullptr && embed == nullptr) || q.found.empty() || q.found.size() != q.expected.size()) return {};
  const plan::WeightId id = linear != nullptr ? linear->weight : embed->table;
  const plan::Weight& weight = q.plan().weight(id);
  const quants::FormatInfo& own = quants::info(weight.tensor.format);
  const RowSource rows = backends::reference::rows_of(weight.tensor);
  const std::size_t width = q.width(), n_in = weight.in();
  constexpr std::size_t n_compared = 24;
  const Values x = linear != nullptr ? q.replay.value(linear->x) : nullptr;
  std::vector<Candidate> result;
  for (const Format other :
       {Format::q8_0, Format::q6_k, Format::q5_k, Format::q5_1, Format::q5_0, Format::q4_k, Format::q4_1, Format::q4_0}) {
    const quants::FormatInfo& format = quants::info(other);
    // A finer type than the file's holds what the file has.
    const bool is_coarser = format.block_bytes * own.block_size < own.block_bytes * format.block_size;
    if (format.encode == nullptr || other == own.format || !is_coarser || n_in % format.block_size != 0) continue;
    const RowSource coarse = [rows, &format](std::uint64_t row, std::span<float> out) {
      rows(row, out);
      std::vector<std::byte> blocks(format.row_bytes(out.size()));
      format.encode(out.data(), blocks.data(), out.size() / format.block_size);
      format.decode(blocks.data(), out.data(), out.size() / format.block_size);
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
      coarse(static_cast<std::uint64_t>(q.replay.rows()[q.rows[0]].token), w);
      for (std::size_t i = 0; i < n_in; ++i) compare(q.found[i], q.expected[i], double{w[i]} * embed->scale);
    }
    if (!(wrong < 0.25 * right)) continue;
    result.push_back(with_weight(fmt::format("to {} from {}", format.name, own.name), id, coarse));
  }
  return result;
}

// float16 and bfloat16 weights read as each other.
std::vector<Candidate> sixteen_bits(const Question& q) {
  std::optional<plan::WeightId> id;
  if (const auto* op = q.as<plan::Linear>()) id = op->weight;
  if (const auto* op = q.as<plan::Embed>()) id = op->table;
  if (!id) return {};
  const gguf::Tensor tensor = q.plan().weight(*id).tensor;
  if (tensor.format != Format::f16 && tensor.format != Format::bf16) return {};
  const Format other = tensor.format == Format::f16 ? Format::bf16 : Format::f16;
  gguf::Tensor wrong = tensor;
  wrong.format = other;
  return {with_weight(fmt::format("{} read as {}", quants::info(tensor.format).name, quants::info(other).name), *id,
                      backends::reference::rows_of(wrong))};
}

constexpr Hypothesis table[] = {
    {"quant-block-order", "blocks of quantized weights are read in another order",
     "The block's index is off, or runs the other way.",
     "block b of row r lies at (r * blocks in a row + b) * bytes of a block", block_order},
    {"quant-part-decoded", "a part of the quantized weights is decoded",
     "The loop over blocks, or within one, ends early; the rest is zero.",
     "decode all blocks of a row, and all weights of a block", first_block_only},
    {"quant-nibble-order", "4-bit values are taken apart in another order",
     "In a block of 32 byte j holds weight j in its low and weight j + 16 in its high four bits (in K-quants j + 32 of "
     "64).",
     "low nibbles are the first half, high nibbles the second", nibble_order},
    {"quant-high-bits", "the high bits of quantized weights are wrong",
     "Q5 and Q6 keep the fifth and sixth bits apart from the nibbles.", "combine nibble and high bits as the format says",
     high_bits},
    {"quant-minimum", "the blocks' minimum is wrong",
     "Q4_1 and Q5_1 add m, Q2_K, Q4_K and Q5_K subtract dmin times the sub-block's.", "apply the minimum", minimum},
    {"quant-offset", "another offset is subtracted from the integers", "8 for Q4_0, 16 for Q5_0, 32 for Q6_K.",
     "subtract the format's offset", offset},
    {"quant-signedness", "signed bytes are read as unsigned",
     "The weights of Q8_0 and the sub-block scales of Q6_K are int8.", "read them as int8", signedness},
    {"quant-scale-type", "the blocks' scale is read as another type", "Scales are little-endian float16.",
     "convert the scale from float16", scale_type},
    {"quant-neighbour-scale", "another block's scale is used", "The scale's index does not follow the weights'.",
     "use each block's own scale", neighbour_scale},
    {"quant-packed-scales", "the packed scales of a K-quant are taken apart wrongly",
     "Q4_K and Q5_K pack eight 6-bit scales and minimums in 12 bytes: the last four keep their upper bits with the first "
     "four.",
     "unpack the 12 bytes as the format says", packed_scales},
    {"quant-linear-values", "IQ4_NL's values are read as linear", "Its 16 values are a table, not q - 8.",
     "look the value up in the table", linear_values},
    {"quant-planar", "scales and values of quantized weights are read from separate arrays",
     "An engine that repacks its weights has all scales first and all values after them; the file has them block by block.",
     "repack the weights when they are loaded, or read them as they are", planar},
    {"weight-requantized", "the weight was quantized to another type",
     "The engine ran another quantization of the model than the file that it is compared with, or made one when it loaded.",
     "run the file that the trace is compared with, and keep the types that it has", requantized},
    {"weight-sixteen-bits", "float16 and bfloat16 are exchanged", "Both have 16 bits, and other exponents.",
     "decode the type that the file states", sixteen_bits},
};

}  // namespace
}  // namespace in_quantization

std::span<const Hypothesis> quantization() { return in_quantization::table; }

}  // namespace plumb::diagnose::families
