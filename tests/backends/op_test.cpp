// The table of op tests that every backend inherits. A case is an op, its sizes, the formats of its weights and its input
// numbers. It becomes a plan, made by plan::Builder and run by the backend's Executor. The result is compared with the
// reference, within the difference that diagnosis allows (held.h). To add a backend: a row of ways(). To add an op: a
// function below that adds its cases.
//
// Sizes are around the edges of what kernels take at a time: one less, equal, one more. The edges: cpu/kernels.h (kv_block,
// row_tile, head_multiple), cpu/row_ops.cpp (row_chunk), cpu/attention.cpp (split_cache_up_to, attention_rows),
// cpu/products.cpp (items_a_thread), gpu/kernels/list.h and shared.h (threads, tiles), cuda/ (most_few_rows, tile_tokens,
// outputs_a_block), and the limits of integers: 2^15, 2^16 and, for offsets, 2^31.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "backends/held.h"
#include "backends/maker.h"
#include "backends/small_model.h"
#include "quants/format.h"

namespace plumb::backends {
namespace {

using plan::ValueId;
using quants::Format;
using Sizes = std::vector<std::uint32_t>;

struct Made {
  ValueId value;
  std::uint32_t width = 0;
  bool is_logits = false;  // it can be the plan's: it has output rows, and a column for each token
};

struct Case {
  std::string name;
  std::function<Made(Maker&)> op;
  Sizes steps{3};  // tokens of each
  plan::CacheShape cache{};
  KvType type = KvType::f16;
  std::uint32_t vocab = 61;
  std::uint32_t first_token = 0;
  std::uint32_t n_unchecked = 0;  // steps that only fill the cache
  Outputs outputs = Outputs::all;
  bool sparse = false;  // weights of gigabytes, nearly all of them never read
};
using Table = std::vector<Case>;

Sizes around(Sizes edges) {
  Sizes all;
  for (const std::uint32_t edge : edges) all.insert(all.end(), {edge - 1, edge, edge + 1});
  return all;
}
const Sizes integers = around({1U << 15, 1U << 16});
Sizes operator+(Sizes a, const Sizes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
std::vector<Format> all_formats() {
  std::vector<Format> all;
  for (const quants::FormatInfo& info : quants::formats()) all.push_back(info.format);
  return all;
}
std::string name_of(Format format) { return std::string(quants::info(format).name); }
std::uint32_t block(Format format) { return quants::info(format).block_size; }
// Lengths around each edge; for formats with blocks, the multiples of a block before, at and after it.
Sizes lengths(Format format, const Sizes& of_floats, const Sizes& of_blocks) {
  if (block(format) == 1) return of_floats;
  Sizes all;
  for (const std::uint32_t n : of_blocks) all.push_back(n * block(format));
  return all;
}

void embeddings(Table& table) {
  const auto add = [&](Format format, std::uint32_t width, std::uint32_t vocab, std::uint32_t first) {
    table.push_back({.name = fmt::format("{} [{}, {}] from {}", name_of(format), vocab, width, first),
                     .op =
                         [=](Maker& m) {
                           return Made{m.builder.embed("op", m.bits(format, {width, vocab}), 3.0F), width};
                         },
                     .steps = {5},
                     .vocab = vocab,
                     .first_token = first});
  };
  for (const Format format : all_formats()) {
    for (const std::uint32_t width : lengths(format, Sizes{1} + around({64, 128}), {1, 2, 5})) add(format, width, 61, 0);
  }
  for (const Format format : {Format::f32, Format::f16, Format::q8_0}) {
    table.push_back({.name = fmt::format("{} by position", name_of(format)),
                     .op =
                         [=](Maker& m) {
                           const plan::MatrixId positions = m.bits(format, {64, 12});
                           return Made{m.builder.embed("op", {.table = positions, .by = plan::EmbedBy::position}), 64};
                         },
                     .steps = {5, 1, 1, 5}});
  }
  table.push_back({.name = "by segment",
                   .op =
                       [=](Maker& m) {
                         const plan::MatrixId segments = m.bits(Format::f32, {64, 2});
                         return Made{m.builder.embed("op", {.table = segments, .by = plan::EmbedBy::segment}), 64};
                       },
                   .steps = {5, 1},
                   .first_token = 3});
  for (const std::uint32_t edge : {1U << 15, 1U << 16}) add(Format::f16, 3, edge + 3, edge - 2);
  for (const std::uint32_t width : integers) add(Format::f32, width, 7, 0);
  // Rows that begin before and after bytes 2^31 and 2^32.
  for (const std::uint32_t gigabytes : {2U, 4U}) {
    const std::uint32_t width = 1U << 20, row_bytes = width * 2, edge = (gigabytes << 30) / row_bytes;
    table.push_back(
        {.name = fmt::format("rows of F16 around byte 2^{}", gigabytes == 2 ? 31 : 32),
         .op =
             [=](Maker& m) {
               const auto bytes = m.zeros(std::uint64_t{row_bytes} * (edge + 2));
               for (std::uint32_t row = edge - 2; row < edge + 2; ++row) {
                 const auto values = random_rows(quants::info(Format::f16), 64, 1, m.random);
                 std::copy(values.begin(), values.end(), bytes.begin() + std::size_t{row} * row_bytes);
               }
               return Made{m.builder.embed("op", m.builder.matrix(m.tensor(Format::f16, {width, edge + 2}, bytes))), width};
             },
         .steps = {4},
         .vocab = edge + 2,
         .first_token = edge - 2,
         .sparse = true});
  }
}

void norms(Table& table) {
  const auto add_norm = [&](plan::NormKind kind, bool bias, std::uint32_t group, std::uint32_t n_groups,
                            std::uint32_t n_rows) {
    table.push_back({.name = fmt::format("{}{}, {} groups of {}, {} rows", kind == plan::NormKind::rms ? "RMS" : "layer",
                                         bias ? ", bias" : "", n_groups, group, n_rows),
                     .op =
                         [=](Maker& m) {
                           const std::uint32_t width = group * n_groups;
                           plan::Norm norm{.weight = m.vector(group), .eps = 1e-5F, .kind = kind};
                           norm.x = m.in(width, m.extremes(std::size_t{width} * m.vocab));
                           if (bias) norm.bias = m.vector(group);
                           return Made{m.builder.norm("op", norm), width};
                         },
                     .steps = {n_rows},
                     .vocab = std::min(61U, n_rows)});
  };
  const auto add = [&](std::uint32_t group, std::uint32_t n_groups, std::uint32_t n_rows) {
    add_norm(plan::NormKind::rms, false, group, n_groups, n_rows);
    add_norm(plan::NormKind::rms, true, group, n_groups, n_rows);
    add_norm(plan::NormKind::layer, false, group, n_groups, n_rows);
    add_norm(plan::NormKind::layer, true, group, n_groups, n_rows);
  };
  for (const std::uint32_t n : Sizes{1, 2} + around({8, 16, 32, 64, 128, 256, 1024})) {
    add(n, 1, 2);
    add(n, 3, 1);
  }
  for (const std::uint32_t n : integers) add(n, 1, 2);
  for (const std::uint32_t n : around({5, 64, 1U << 15, 1U << 16})) add(3, 1, n);
  // A weight for the whole row, and none, with and without a bias.
  for (const plan::NormKind kind : {plan::NormKind::rms, plan::NormKind::layer}) {
    for (const std::uint32_t group : Sizes{1, 8, 33, 256}) {
      for (const bool weighed : {false, true}) {
        for (const bool biased : {false, true}) {
          table.push_back(
              {.name = fmt::format("{}, 3 groups of {}{}{}", kind == plan::NormKind::rms ? "RMS" : "layer", group,
                                   weighed ? ", weight of the row" : ", no weight", biased ? ", bias of the row" : ""),
               .op =
                   [=](Maker& m) {
                     plan::Norm norm{.eps = 1e-5F, .kind = kind, .group = group};
                     if (weighed) norm.weight = m.vector(std::uint64_t{3} * group);
                     if (biased) norm.bias = m.vector(std::uint64_t{3} * group);
                     norm.x = m.in(3 * group);
                     return Made{m.builder.norm("op", norm), 3 * group};
                   },
               .steps = {5}});
        }
      }
    }
  }
}

Case product(Format format, std::uint32_t n_in, std::uint32_t n_out, std::uint32_t n_rows, bool biased = false) {
  return {.name = fmt::format("{} {} x {}, {} rows{}", name_of(format), n_out, n_in, n_rows, biased ? ", bias" : ""),
          .op =
              [=](Maker& m) {
                const ValueId x = m.in(n_in, m.extremes(std::size_t{n_in} * m.vocab));
                const auto bias = biased ? std::optional(m.vector(n_out)) : std::nullopt;
                return Made{m.builder.linear("op", x, m.bits(format, {n_in, n_out}), bias, plan::Rows::outputs), n_out,
                            n_out >= m.vocab};
              },
          .steps = {n_rows},
          .vocab = std::min(61U, n_rows)};
}

void products(Table& table) {
  for (const Format format : all_formats()) {
    const std::uint32_t some = block(format) == 1 ? 37 : 3 * block(format);
    for (const std::uint32_t n_rows : Sizes{1, 2, 3, 4, 5, 6, 7, 8, 9} + around({16, 32, 64}))
      table.push_back(product(format, some, 5, n_rows, n_rows % 2 == 0));
    for (const std::uint32_t n_out : Sizes{1, 2} + around({4, 16, 32, 64, 128})) {
      for (const std::uint32_t n_rows : {1U, 3U, 9U})
        table.push_back(product(format, block(format) == 1 ? 32 : block(format), n_out, n_rows, true));
    }
    for (const std::uint32_t n_in :
         lengths(format, Sizes{1, 34, 36, 38, 44} + around({8, 16, 32, 64, 128}), {1, 2, 3, 4, 5, 7, 8, 9, 33})) {
      for (const std::uint32_t n_rows : {1U, 9U}) table.push_back(product(format, n_in, 3, n_rows));
    }
    table.push_back(product(format, some, 7, 9, true));
    table.back().name += ", the last alone";
    table.back().outputs = Outputs::last;
  }
}

void large_products(Table& table) {
  for (const Format format : {Format::f32, Format::q8_0}) {
    for (const std::uint32_t n : format == Format::f32 ? integers : around({1U << 16})) {
      table.push_back(product(format, n / block(format) * block(format), 2, 6));
      table.push_back(product(format, block(format) == 1 ? 4 : block(format), n, 1, true));
      table.push_back(product(format, block(format) == 1 ? 4 : block(format), 3, n));
    }
    table.push_back(product(format, block(format) == 1 ? 4 : block(format), (1U << 16) + 1, 6));
  }
  for (const Format format : all_formats()) {
    table.push_back(product(format, (1U << 16) + (block(format) == 1 ? 1 : block(format)), 2, 2));
  }
  // The last rows of the weight are after byte 2^31.
  constexpr std::uint32_t n_in = 1U << 15, n_out = (1U << 14) + 16;
  table.push_back({.name = "rows of F32 around byte 2^31",
                   .op =
                       [](Maker& m) {
                         const auto bytes = m.zeros(std::uint64_t{n_in} * n_out * 4);
                         for (std::uint32_t row = n_out - 32; row < n_out; ++row) {
                           const auto values = random_rows(quants::info(Format::f32), 64, 1, m.random);
                           std::copy(values.begin(), values.end(), bytes.begin() + std::size_t{row} * n_in * 4);
                         }
                         const auto weight = m.builder.matrix(m.tensor(Format::f32, {n_in, n_out}, bytes));
                         return Made{m.builder.linear("op", m.in(n_in), weight, {}, plan::Rows::outputs), n_out, true};
                       },
                   .steps = {1},
                   .vocab = 1,
                   .sparse = true});
}

void rotations(Table& table) {
  const auto add = [&](plan::Rope rope, std::uint32_t n_heads, Sizes steps, bool factors, std::string_view what) {
    table.push_back({.name = fmt::format("{} heads of {}, {} turn{}", n_heads, rope.head_dim, rope.n_rot, what),
                     .op =
                         [=](Maker& m) {
                           plan::Rope own = rope;
                           if (factors) own.factors = m.vector(rope.n_rot / 2, 2, 0.2F);
                           const std::uint32_t width = n_heads * rope.head_dim;
                           return Made{m.builder.rope("op", m.in(width), own), width};
                         },
                     .steps = std::move(steps)});
  };
  const Sizes late = {(1U << 15) - 2, 1, 1, 3, (1U << 15) - 5, 1, 2, 1};
  for (const auto pairing : {plan::RopePairing::adjacent, plan::RopePairing::halves}) {
    const plan::Rope rope{.head_dim = 64, .n_rot = 64, .pairing = pairing, .theta = 10000.0F};
    for (const std::uint32_t n_rot : Sizes{2, 6, 14, 16, 18, 30, 32, 34, 62, 64}) {
      plan::Rope part = rope;
      part.n_rot = n_rot;
      add(part, 3, {1, 5}, n_rot % 4 == 0, "");
    }
    for (const std::uint32_t head_dim : Sizes{2, 3, 5, 6, 10, 80, 95, 96, 128, 256}) {
      plan::Rope other = rope;
      other.head_dim = head_dim;
      other.n_rot = head_dim / 2 * 2;
      add(other, 2, {4, 1}, false, "");
    }
    plan::Rope scaled = rope;
    scaled.position_scale = 0.25F;
    add(scaled, 2, {70, 1}, true, ", scaled");
    scaled.magnitude = 1.1F;
    scaled.yarn = plan::Yarn{.factor = 4, .original_context = 64};
    add(scaled, 2, {70, 1}, false, ", YaRN");
    // LongRoPE: the cache holds as many positions as the steps have tokens.
    for (const std::uint32_t original : {69U, 70U, 71U, 72U}) {
      table.push_back({.name = fmt::format("long factors beyond {} positions", original),
                       .op =
                           [=](Maker& m) {
                             plan::Rope own = rope;
                             own.factors = m.vector(rope.n_rot / 2, 2, 0.2F);
                             own.long_factors = m.vector(rope.n_rot / 2, 8, 0.2F);
                             own.original_context = original;
                             own.magnitude = 1.1F;
                             return Made{m.builder.rope("op", m.in(128), own), 128};
                           },
                       .steps = {3, 67, 1}});
    }
    plan::Rope small = rope;
    small.head_dim = small.n_rot = 4;
    add(small, 1, late, false, ", to position 2^16");
    small.theta = 5e5F;
    add(small, 1, late, false, ", to position 2^16 slowly");
  }
}

struct Attending {
  std::uint32_t n_heads = 4, n_kv_heads = 2, head_dim = 64;
  Sizes steps;
  std::uint32_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
  KvType type = KvType::f16;
  Sizes spikes = {};  // positions with values of 30,000, which must not reach tokens that do not attend to them
  plan::WindowKind window_kind = plan::WindowKind::sliding;
  bool causal = true;
  float alibi_max_bias = 0;
};

Case attention(const Attending& a) {
  const plan::Attention op{.n_heads = a.n_heads,
                           .n_kv_heads = a.n_kv_heads,
                           .head_dim = a.head_dim,
                           .scale = 1 / std::sqrt(static_cast<float>(a.head_dim)),
                           .window = a.window,
                           .soft_cap = a.soft_cap,
                           .window_kind = a.window_kind,
                           .causal = a.causal,
                           .alibi_max_bias = a.alibi_max_bias};
  return {.name = fmt::format("{} of {} heads of {}, steps {}, {}window {}, cap {}, ALiBi {}{}{}{}, spikes {}", a.n_heads,
                              a.n_kv_heads, a.head_dim, fmt::join(a.steps, "+"),
                              a.window_kind == plan::WindowKind::chunked ? "chunked " : "", a.window, a.soft_cap,
                              a.alibi_max_bias, a.sinks ? ", sinks" : "", a.causal ? "" : ", both sides",
                              a.type == KvType::f32 ? ", F32" : "", fmt::join(a.spikes, " ")),
          .op =
              [=](Maker& m) {
                const std::uint32_t width = a.n_heads * a.head_dim, kv_width = a.n_kv_heads * a.head_dim;
                std::vector<float> values = m.normals(std::size_t{kv_width} * m.vocab);
                for (const std::uint32_t p : a.spikes) std::fill_n(values.begin() + p * kv_width, kv_width, 30000.0F);
                const ValueId q = m.in(width), k = m.in(kv_width), v = m.in(kv_width, std::move(values));
                m.builder.kv_write(0, k, v);
                plan::Attention own = op;
                if (a.sinks) own.sinks = m.vector(a.n_heads);
                return Made{m.builder.attention("op", q, own), width};
              },
          .steps = a.steps,
          .cache = {1, a.n_kv_heads, a.head_dim},
          .type = a.type,
          .vocab = std::min(1021U, std::accumulate(a.steps.begin(), a.steps.end(), 0U))};
}

void attentions(Table& table) {
  const auto add = [&](const Attending& a) { table.push_back(attention(a)); };
  for (const KvType type : {KvType::f16, KvType::f32}) {
    // Heads, and how many share a key's.
    for (const std::uint32_t head_dim : Sizes{1, 2, 10, 15, 16, 17, 36, 64, 80, 96, 128, 200, 256, 257, 511, 512}) {
      add({.n_heads = 2, .n_kv_heads = 1, .head_dim = head_dim, .steps = {1, 1, 6, 2}, .type = type});
    }
    for (const Sizes& heads : {Sizes{1, 1}, {3, 3}, {6, 2}, {9, 3}, {14, 2}, {7, 1}, {32, 4}, {97, 1}}) {
      add({.n_heads = heads[0], .n_kv_heads = heads[1], .head_dim = 16, .steps = {1, 40, 3, 1}, .type = type});
    }
    // Ends of blocks of the cache, of parts and of tiles of tokens.
    for (const std::uint32_t edge : {64U, 128U, 256U}) {
      for (const std::uint32_t n : around({edge})) {
        add({.n_heads = 2, .n_kv_heads = 1, .steps = {n, 1, 1, 4, 5}, .type = type});
      }
      add({.n_heads = 2, .n_kv_heads = 1, .steps = {edge - 2, 1, 1, 1, 1}, .type = type, .spikes = {edge - 1, edge}});
    }
    add({.n_heads = 1, .n_kv_heads = 1, .head_dim = 16, .steps = {510, 1, 1, 1, 1, 3, 500}, .type = type});
    // Windows that begin before, at and after the edge of a block, for single tokens and tiles. Values before the window,
    // and after the token, are 30,000.
    for (const std::uint32_t window : Sizes{1, 2, 5, 63, 64, 65, 79, 96, 127, 128, 129, 150, 257}) {
      for (const Sizes& spikes : {Sizes{127}, Sizes{128}, Sizes{126 + window}}) {
        add({.n_heads = 2,
             .n_kv_heads = 1,
             .steps = {126 + window - 1, 1, 1, 1, 1, 4, 5, 70},
             .window = window,
             .type = type,
             .spikes = spikes});
      }
    }
    // The same for the first token of a tile.
    for (const std::uint32_t window : {2U, 64U, 129U}) {
      for (const std::uint32_t begin : around({127})) {
        add({.n_heads = 2, .n_kv_heads = 1, .steps = {begin + window - 1, 6}, .window = window, .type = type});
      }
    }
    // Caps and sinks, with and without windows.
    for (const float cap : {0.0F, 1.5F, 30.0F}) {
      for (const bool sinks : {false, true}) {
        for (const std::uint32_t window : {0U, 20U, 130U}) {
          add({.steps = {1, 9, 3, 131, 1, 1},
               .window = window,
               .soft_cap = cap,
               .sinks = sinks,
               .type = type,
               .spikes = {3, 127}});
        }
      }
    }
    // Prompts of several tiles in one go, with windows of less and more than a tile.
    for (const std::uint32_t window : Sizes{3, 64, 79, 80, 100, 128, 129}) {
      add({.n_heads = 1, .n_kv_heads = 1, .steps = {150}, .window = window, .type = type, .spikes = {10}});
    }
    for (const std::uint32_t head_dim : {96U, 128U}) {
      add({.n_heads = 1,
           .n_kv_heads = 1,
           .head_dim = head_dim,
           .steps = {110},
           .window = 79,
           .type = type,
           .spikes = {10}});
    }
  }
  // Positions around 2^15 and 2^16. The steps before them are not checked.
  for (const std::uint32_t edge : {1U << 15, 1U << 16}) {
    table.push_back(
        attention({.n_heads = 2, .n_kv_heads = 1, .head_dim = 8, .steps = {edge - 2, 1, 1, 1, 5}, .window = 40}));
    table.back().n_unchecked = 1;
  }
}

// Windows that are parts of the sequence, attention that sees both sides, and ALiBi.
void other_attentions(Table& table) {
  const auto add = [&](const Attending& a) { table.push_back(attention(a)); };
  for (const KvType type : {KvType::f16, KvType::f32}) {
    // Tokens before, at and after the beginning of a part, alone and in tiles. Values at the end of a part, and at its
    // beginning, are 30,000.
    for (const std::uint32_t window : Sizes{1, 2, 5, 63, 64, 65, 79, 96, 127, 128, 129, 150}) {
      for (const std::uint32_t spike : {window - 1, window}) {
        Attending a{.n_heads = 2, .n_kv_heads = 1, .window = window, .type = type, .spikes = {spike}};
        a.window_kind = plan::WindowKind::chunked;
        a.steps = {window, 1, 1, std::max(3U, window) - 2, 1, 1, 4, 70};
        add(a);
        a.steps = {2 * window + 9};
        add(a);
      }
    }
    for (const bool sinks : {false, true}) {
      Attending a{
          .steps = {1, 9, 3, 131, 1, 1}, .window = 20, .soft_cap = sinks ? 0.0F : 1.5F, .sinks = sinks, .type = type};
      a.window_kind = plan::WindowKind::chunked;
      add(a);
    }
    // Both sides: tiles of tokens and blocks of the cache that end before, at and after the text, with windows that begin
    // and end inside them. The first and the last value are 30,000.
    for (const std::uint32_t n : Sizes{1, 2, 3, 5, 9} + around({64, 96, 128, 256})) {
      for (const std::uint32_t window : Sizes{0, 1, 2, 3, 8, 127, 128, 130}) {
        Attending a{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .steps = {n}, .window = window, .type = type};
        a.causal = false;
        if (window > 0) a.spikes = {0, n - 1};
        add(a);
      }
    }
    for (const Sizes& heads : {Sizes{1, 1}, {6, 2}, {14, 2}, {97, 1}}) {
      for (const std::uint32_t head_dim : {10U, 64U}) {
        Attending a{.n_heads = heads[0], .n_kv_heads = heads[1], .head_dim = head_dim, .steps = {40}, .type = type};
        a.causal = false;
        a.window = 9;
        a.sinks = heads[0] == 6;
        a.soft_cap = heads[0] == 14 ? 2.0F : 0.0F;
        add(a);
      }
    }
    // ALiBi for numbers of heads that are powers of two and others.
    for (const std::uint32_t n_heads : {1U, 2U, 3U, 6U, 8U, 12U, 33U}) {
      Attending a{.n_heads = n_heads, .n_kv_heads = 1, .head_dim = 16, .steps = {1, 9, 3, 131, 1, 1}, .type = type};
      a.alibi_max_bias = 8;
      add(a);
      a.n_kv_heads = n_heads;
      a.alibi_max_bias = 3;
      a.window = 20;
      a.spikes = {3, 127};
      add(a);
      a.soft_cap = 1.5F;
      a.sinks = true;
      add(a);
    }
    Attending late{.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .steps = {510, 1, 1, 1, 1, 3, 100}, .type = type};
    late.alibi_max_bias = 8;
    add(late);
  }
}

// Queries and keys rotate by different angles. Tuned kernels rotate both and write the cache in one launch.
void rotated_attentions(Table& table) {
  const auto add = [&](std::string name, plan::Rope of_q, plan::Rope of_k, Sizes steps) {
    table.push_back({.name = std::move(name),
                     .op =
                         [=](Maker& m) {
                           const std::uint32_t d = of_q.head_dim;
                           const ValueId q = m.in(4 * d), k = m.in(2 * d), v = m.in(2 * d);
                           const ValueId q_rope = m.builder.rope("q", q, of_q), k_rope = m.builder.rope("k", k, of_k);
                           m.builder.kv_write(0, k_rope, v);
                           const plan::Attention op{.n_heads = 4, .n_kv_heads = 2, .head_dim = d, .scale = 0.5F};
                           return Made{m.builder.attention("op", q_rope, op), 4 * d};
                         },
                     .steps = std::move(steps),
                     .cache = {1, 2, of_q.head_dim}});
  };
  for (const auto pairing : {plan::RopePairing::adjacent, plan::RopePairing::halves}) {
    for (const Sizes& steps : {Sizes{1, 1, 1}, Sizes{7, 3, 1}}) {
      for (const std::uint32_t d : {16U, 64U}) {
        const plan::Rope q{.head_dim = d, .n_rot = d, .pairing = pairing, .theta = 100};
        plan::Rope k = q;
        const std::string of = fmt::format(", heads of {}, steps {}", d, fmt::join(steps, "+"));
        add("alike" + of, q, k, steps);
        k.theta = 7;
        add("other angles" + of, q, k, steps);
        k.n_rot = d / 2;
        add("other parts" + of, q, k, steps);
        k = q;
        k.pairing = pairing == plan::RopePairing::adjacent ? plan::RopePairing::halves : plan::RopePairing::adjacent;
        add("other pairs" + of, q, k, steps);
        k = q;
        k.magnitude = 1.1F;
        k.yarn = plan::Yarn{.factor = 4, .original_context = 8};
        add("YaRN for keys" + of, q, k, steps);
      }
    }
  }
}

constexpr plan::Activation activations[] = {
    plan::Activation::silu, plan::Activation::gelu_tanh,    plan::Activation::gelu_erf,
    plan::Activation::relu, plan::Activation::relu_squared, plan::Activation::sigmoid,
    plan::Activation::tanh, plan::Activation::identity,     plan::Activation::xielu};
constexpr plan::Xielu some_xielu{.positive = 0.8F, .negative = 1.3F, .beta = 0.5F, .eps = -1e-6F};

void elementwise(Table& table) {
  const auto add = [&](std::string name, std::uint32_t n, std::uint32_t n_rows,
                       std::function<ValueId(Maker&, ValueId, ValueId)> op) {
    table.push_back({.name = fmt::format("{} of {}, {} rows", name, n, n_rows),
                     .op =
                         [=](Maker& m) {
                           std::vector<float> a = m.extremes(std::size_t{n} * m.vocab);
                           for (std::size_t i = 0; i < a.size(); i += 7) a[i] *= 5;
                           const ValueId x = m.in(n, std::move(a));
                           return Made{op(m, x, m.in(n, m.extremes(std::size_t{n} * m.vocab))), n};
                         },
                     .steps = {n_rows},
                     .vocab = std::min(61U, n_rows)});
  };
  const auto sizes = Sizes{1, 7} + around({8, 16, 32, 64, 128, 256, 1024});
  const auto sweep = [&](const std::string& name, const std::function<ValueId(Maker&, ValueId, ValueId)>& op) {
    for (const std::uint32_t n : sizes) add(name, n, 2, op);
    for (const std::uint32_t n : integers) {
      add(name, n, 1, op);
      add(name, 2, n, op);
    }
    for (const std::uint32_t n_rows : around({5})) add(name, 5, n_rows, op);
  };
  for (const auto activation : activations) {
    sweep(fmt::format("activation {}", static_cast<int>(activation)), [=](Maker& m, ValueId a, ValueId b) {
      return m.builder.activate("op", {.gate = a, .up = b, .activation = activation, .xielu = some_xielu});
    });
    sweep(fmt::format("activation {} without a gate", static_cast<int>(activation)), [=](Maker& m, ValueId a, ValueId) {
      return m.builder.activate("op", {.gate = a, .activation = activation, .xielu = some_xielu});
    });
    sweep(fmt::format("activation {} with a limit", static_cast<int>(activation)), [=](Maker& m, ValueId a, ValueId b) {
      return m.builder.activate("op", {.gate = a,
                                       .up = b,
                                       .activation = activation,
                                       .limit = 0.75F,
                                       .alpha = 1.702F,
                                       .up_offset = 1,
                                       .xielu = some_xielu});
    });
    for (const std::uint32_t n_gates : Sizes{1, 3, 32}) {
      for (const std::uint32_t each : Sizes{2, 7, 64}) {
        table.push_back(
            {.name = fmt::format("activation {} of {} gates for {} each", static_cast<int>(activation), n_gates, each),
             .op =
                 [=](Maker& m) {
                   const ValueId gate = m.in(n_gates), up = m.in(n_gates * each);
                   return Made{
                       m.builder.activate("op", {.gate = gate, .up = up, .activation = activation, .xielu = some_xielu}),
                       n_gates * each};
                 },
             .steps = {5}});
      }
    }
  }
  sweep("scaled", [](Maker& m, ValueId a, ValueId) { return m.builder.scale("op", a, -0.3F); });
  sweep("scaled by a number of the file", [](Maker& m, ValueId a, ValueId) {
    return m.builder.scale("op", {.x = a, .weight = m.vector(1, 2), .factor = 3}, m.width(a));
  });
  sweep("scaled by a vector", [](Maker& m, ValueId a, ValueId) {
    return m.builder.scale("op", {.x = a, .weight = m.vector(m.width(a)), .factor = 3}, m.width(a));
  });
  for (const Sizes& part : {Sizes{0, 1}, {31, 33}, {64, 64}, {1, 127}, {100, 28}}) {
    table.push_back({.name = fmt::format("{} values from {} on", part[1], part[0]),
                     .op =
                         [=](Maker& m) {
                           return Made{m.builder.scale("op", {.x = m.in(128), .first = part[0]}, part[1]), part[1]};
                         },
                     .steps = {5}});
  }
  for (const float offset : {0.0F, 1.0F}) {
    table.push_back({.name = fmt::format("temperature by position + {}", offset),
                     .op =
                         [=](Maker& m) {
                           const plan::Temperature temperature{.beta = 0.4F, .length = 8, .offset = offset};
                           return Made{m.builder.scale("op", {.x = m.in(40), .temperature = temperature}, 40), 40};
                         },
                     .steps = {7, 1, 1, 20, 1}});
  }
  sweep("sum", [](Maker& m, ValueId a, ValueId b) { return m.builder.add("op", a, b); });
  sweep("sum of one", [](Maker& m, ValueId a, ValueId) { return m.builder.add("op", a, a); });
  for (const float cap : {0.5F, 30.0F, 1e4F}) {
    sweep(fmt::format("cap {}", cap), [=](Maker& m, ValueId a, ValueId) { return m.builder.soft_cap("op", a, cap); });
  }
}

void largest(Table& table) {
  for (const std::uint32_t n : Sizes{1, 2, 8} + around({32, 64, 128, 256}) + integers) {
    for (const std::uint32_t k : {1U, 4U, 40U}) {
      if (k > n || (k > 4 && n > 1000)) continue;
      table.push_back({.name = fmt::format("{} of {}", k, n),
                       .op =
                           [=](Maker& m) {
                             std::vector<float> x = m.extremes(std::size_t{n} * m.vocab);
                             for (std::uint32_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 3);  // equals
                             std::fill_n(x.begin() + n, n, -HUGE_VALF);
                             for (std::uint32_t i = 2 * n; i < 3 * n; i += 2) x[i] = NAN;
                             return Made{m.builder.top_k("op", m.in(n, std::move(x)), k), k};
                           },
                       .steps = {5},
                       .vocab = 5});
    }
  }
  // A bias that changes the order, and groups. The numbers are multiples of 1/2, so that backends agree about their order.
  for (const plan::Score score : {plan::Score::logit, plan::Score::softmax, plan::Score::sigmoid}) {
    for (const Sizes& groups : {Sizes{1, 1}, {2, 1}, {4, 2}, {8, 3}, {16, 16}, {64, 5}}) {
      for (const std::uint32_t n : Sizes{64, 128, 256, 320}) {
        for (const bool biased : {false, true}) {
          table.push_back(
              {.name = fmt::format("3 of {} by score {}, {} of {} groups{}", n, static_cast<int>(score), groups[1],
                                   groups[0], biased ? ", bias" : ""),
               .op =
                   [=](Maker& m) {
                     std::vector<float> x(std::size_t{n} * m.vocab), bias(n);
                     for (float& v : x) v = static_cast<float>(m.random() % 16) / 2;
                     for (float& v : bias) v = static_cast<float>(m.random() % 16) / 2;
                     return Made{m.builder.top_k("op", {.x = m.in(n, x),
                                                        .bias = biased ? std::optional(m.vector_of(bias)) : std::nullopt,
                                                        .k = 3,
                                                        .score = score,
                                                        .n_groups = groups[0],
                                                        .n_groups_used = groups[1]}),
                                 3};
                   },
               .steps = {5},
               .vocab = 5});
        }
      }
    }
  }
}

constexpr plan::Gating gatings[] = {plan::Gating::softmax, plan::Gating::softmax_of_chosen, plan::Gating::sigmoid,
                                    plan::Gating::sigmoid_normalized};

// k experts for each row, in an order that differs between rows.
ValueId chosen(Maker& m, std::uint32_t n_experts, std::uint32_t k) {
  std::vector<float> experts(std::size_t{k} * m.vocab);
  for (std::size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<float>((i / k * 3 + i % k * 5 + 2) % n_experts);
  return m.in(k, std::move(experts));
}

Case experts(Format format, std::uint32_t n_in, std::uint32_t n_out, std::uint32_t n_experts, std::uint32_t k,
             std::uint32_t n_rows, bool in_parts, bool biased) {
  return {.name = fmt::format("{} of {} experts {} {} x {}, {} rows{}{}", k, n_experts, name_of(format), n_out, n_in,
                              n_rows, in_parts ? ", in parts" : "", biased ? ", bias" : ""),
          .op =
              [=](Maker& m) {
                const ValueId of = chosen(m, n_experts, k), x = m.in(n_in * (in_parts ? k : 1));
                const auto bias =
                    biased ? std::optional(m.vector_of(m.normals(std::size_t{n_out} * n_experts, 100), {n_out, n_experts}))
                           : std::nullopt;
                const auto weight = m.bits(format, {n_in, n_out, n_experts});
                return Made{m.builder.expert_linear("op", x, of, weight, bias), k * n_out};
              },
          .steps = {n_rows},
          .vocab = std::min(61U, n_rows)};
}

void experts(Table& table) {
  for (const Format format : all_formats()) {
    const std::uint32_t n_in = block(format) == 1 ? 45 : 2 * block(format);
    for (const bool in_parts : {false, true}) {
      for (const std::uint32_t n_out : Sizes{1, 9, 17}) {
        for (const std::uint32_t n_rows : {1U, 5U}) {
          table.push_back(experts(format, n_in, n_out, 7, 3, n_rows, in_parts, n_out != 9));
        }
      }
    }
    // Weights that the cpu backend cuts into several parts, of at least 16 rows.
    for (const std::uint32_t n_out : around({128})) table.push_back(experts(format, 4096, n_out, 3, 2, 2, false, true));
  }
  for (const std::uint32_t n_experts : integers) table.push_back(experts(Format::f32, 3, 2, n_experts, 2, 3, false, true));
  // The last experts of 2^31 bytes.
  table.push_back({.name = "experts of F32 around byte 2^31",
                   .op =
                       [](Maker& m) {
                         constexpr std::uint32_t n_in = 512, n_out = 32, bytes_of_one = n_in * n_out * 4;
                         constexpr std::uint32_t n_experts = (1U << 31) / bytes_of_one + 2;
                         const auto bytes = m.zeros(std::uint64_t{bytes_of_one} * n_experts);
                         std::vector<float> of;
                         for (const std::uint32_t expert : {n_experts - 1, n_experts - 3, n_experts - 2, 0U}) {
                           of.push_back(static_cast<float>(expert));
                           const auto values = random_rows(quants::info(Format::f32), n_in, n_out, m.random);
                           std::copy(values.begin(), values.end(), bytes.begin() + std::size_t{expert} * bytes_of_one);
                         }
                         const auto weight = m.builder.matrix(m.tensor(Format::f32, {n_in, n_out, n_experts}, bytes));
                         return Made{m.builder.expert_linear("op", m.in(n_in), m.in(4, of), weight), 4 * n_out};
                       },
                   .steps = {1},
                   .vocab = 1,
                   .sparse = true});
  for (const auto gating : gatings) {
    for (const std::uint32_t n : Sizes{2, 8} + around({32, 64, 128, 256, 512}) + integers) {
      table.push_back({.name = fmt::format("weights by gating {} of {}", static_cast<int>(gating), n),
                       .op =
                           [=](Maker& m) {
                             const std::uint32_t k = std::min(n, 6U);
                             const ValueId logits = m.in(n, m.normals(std::size_t{n} * m.vocab, 5));
                             return Made{m.builder.expert_weights("op", logits, chosen(m, n, k), gating, 2.5F), k};
                           },
                       .steps = {3},
                       .vocab = 3});
    }
  }
  for (const std::uint32_t n : Sizes{1, 9} + around({64, 128, 256}) + integers) {
    table.push_back({.name = fmt::format("sum of {}", n),
                     .op =
                         [=](Maker& m) {
                           const ValueId x = m.in(3 * n), weights = m.in(3);
                           return Made{m.builder.expert_sum("op", x, weights), n};
                         },
                     .steps = {3},
                     .vocab = 3});
  }
}

// The ops that tuned kernels run together: norms with the products that read them, gated products, and products with the
// sum that follows.
void chains(Table& table) {
  struct Formats {
    Format a, b, c;
  };
  constexpr Formats mixtures[] = {{Format::f32, Format::f32, Format::f32},    {Format::f16, Format::f16, Format::f16},
                                  {Format::bf16, Format::f16, Format::q8_0},  {Format::q8_0, Format::q8_0, Format::q8_0},
                                  {Format::q4_0, Format::q5_1, Format::q4_0}, {Format::q4_k, Format::q4_k, Format::q6_k},
                                  {Format::q6_k, Format::q6_k, Format::q4_k}, {Format::iq4_xs, Format::q2_k, Format::q3_k},
                                  {Format::q5_k, Format::q5_k, Format::q8_0}, {Format::q5_0, Format::q5_0, Format::q4_1}};
  for (const Formats& f : mixtures) {
    for (const std::uint32_t n_rows : {1U, 2U, 5U, 9U, 63U, 64U, 65U}) {
      for (const bool gated : {false, true}) {
        // GPT-2's norm and activation every third time.
        const bool layer = n_rows % 3 == 2, has_up = n_rows % 3 != 0;
        table.push_back(
            {.name = fmt::format("{} {} {} {}, {} rows{}{}", gated ? "gated" : "three products", name_of(f.a), name_of(f.b),
                                 name_of(f.c), n_rows, layer ? ", layer norm" : "", has_up || !gated ? "" : ", without up"),
             .op =
                 [=](Maker& m) {
                   constexpr std::uint32_t n = 256, n_out = 40;
                   plan::Builder& b = m.builder;
                   const auto linear = [&](ValueId x, Format format, std::uint32_t out, std::uint32_t in) {
                     return b.linear(
                         m.fresh("product"), x,
                         quants::info(format).encode != nullptr ? m.matrix(format, {in, out}) : m.bits(format, {in, out}),
                         m.vector(out));
                   };
                   plan::Norm own{.weight = m.vector(n, 1, 0.1F), .eps = 1e-5F};
                   own.kind = layer ? plan::NormKind::layer : plan::NormKind::rms;
                   if (layer) own.bias = m.vector(n);
                   own.x = m.in(n);
                   const ValueId x = own.x, norm = b.norm("norm", own);
                   const ValueId first = linear(norm, f.a, gated ? n : n_out, n);
                   const ValueId second = linear(norm, f.b, gated ? n : n_out, n);
                   if (gated) {
                     plan::Activate activate{.gate = first, .activation = activations[n_rows % 4]};
                     if (has_up) activate.up = second;
                     const ValueId act = b.activate("act", activate);
                     return Made{b.add("op", x, linear(act, f.c, n, n)), n};
                   }
                   const ValueId third = linear(norm, f.c, n_out, n);
                   return Made{b.add("op", b.add("sum", first, second), third), n_out};
                 },
             .steps = {n_rows}});
      }
    }
  }
}

// Whole models: many ops, and several steps.
void models(Table& table) {
  const auto add = [&](std::string name, const ModelShape& shape, Sizes steps, KvType type = KvType::f32) {
    table.push_back({.name = std::move(name),
                     .op =
                         [=](Maker& m) {
                           return Made{add_model(m, shape), shape.vocab, true};
                         },
                     .steps = std::move(steps),
                     .cache = shape.cache(),
                     .type = type,
                     .vocab = shape.vocab});
  };
  ModelShape shape;
  add("plain", shape, {1, 1, 2, 5, 17, 1, 3});
  add("plain, long", shape, {200, 1, 1, 4, 100});
  shape.pairing = plan::RopePairing::halves;
  shape.window = 5;
  shape.bias = true;
  shape.activation = plan::Activation::gelu_tanh;
  add("window of 5", shape, {1, 9, 3, 40, 1});
  shape.window = 130;
  add("window of 130", shape, {150, 150, 1, 2});
  shape.n_kv_heads = 1;
  shape.head_dim = shape.n_rot = 16;
  shape.yarn = true;
  shape.activation = plan::Activation::relu;
  add("YaRN", shape, {33, 1});
  shape.n_kv_heads = shape.n_heads;
  shape.head_dim = 36;
  shape.activation = plan::Activation::gelu_erf;
  add("heads of 36", shape, {2, 129, 1}, KvType::f16);
  shape = {};
  shape.soft_cap = 2;
  add("caps", shape, {1, 9, 3, 140, 1});
  shape.sinks = true;
  shape.window = 40;
  add("caps and sinks", shape, {1, 9, 3, 140, 1});
  shape.soft_cap = 0;
  add("sinks", shape, {1, 9, 3, 140, 1});
  shape.n_experts = 8;
  shape.n_used = 3;
  for (const auto gating : gatings) {
    shape.gating = gating;
    shape.bias = !shape.bias;
    add(fmt::format("experts by gating {}", static_cast<int>(gating)), shape, {1, 9, 3, 20, 1});
  }
  // Layers with heads of other numbers and sizes, some of which tuned kernels take; and layers that share an earlier cache.
  shape = {};
  shape.layers = {{2, 10}, {3, 64}, {}, {1, 16}, {}, {}, {2, 64}};
  shape.n_layers = static_cast<std::uint32_t>(shape.layers.size());
  for (const KvType type : {KvType::f16, KvType::f32}) add("heads by layer", shape, {1, 5, 1, 4, 30, 1}, type);
  shape.window = 4;
  add("heads by layer in windows", shape, {1, 5, 1, 4, 30, 1}, KvType::f16);
  // Of sizes that tuned kernels take.
  for (const quants::FormatInfo& format : quants::formats()) {
    if (format.encode == nullptr) continue;
    for (const std::uint32_t n_experts : {0U, 4U}) {
      ModelShape tuned;
      tuned.d = tuned.d_ff = std::max(64U, format.block_size);
      tuned.n_heads = 4;
      tuned.head_dim = tuned.n_rot = 64;
      tuned.n_layers = 1;
      tuned.n_experts = n_experts;
      tuned.n_used = 2;
      tuned.format = format.format;
      add(fmt::format("{}, {} experts", format.name, n_experts), tuned, {1, 1, 20, 3, 1}, KvType::f16);
    }
  }
}

const std::map<std::string, void (*)(Table&)> families{{"embeddings", embeddings},
                                                       {"norms", norms},
                                                       {"products", products},
                                                       {"large_products", large_products},
                                                       {"rotations", rotations},
                                                       {"attention", attentions},
                                                       {"other_attention", other_attentions},
                                                       {"rotated_attention", rotated_attentions},
                                                       {"elementwise", elementwise},
                                                       {"largest", largest},
                                                       {"experts", experts},
                                                       {"chains", chains},
                                                       {"models", models}};

class Ops : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(Ops, FollowFromTheirInputs) {
  const auto& [family, way_name] = GetParam();
  const Way& way = backends::way(way_name);
  if (const auto backend = way.make(); !backend) GTEST_SKIP() << backend.error().message;
  Table table;
  families.at(family)(table);
  std::size_t n_run = 0, n_ops = 0;
  for (const Case& c : table) {
    SCOPED_TRACE(c.name);
    if ((c.sparse && !way.takes_gigabytes) || (c.n_unchecked > 0 && way.fused)) continue;
    Maker maker(c.cache, c.vocab);
    const Made made = c.op(maker);
    const auto plan = made.is_logits ? maker.finish_at(made.value)
                                     : maker.finish(way.fused ? std::optional(made.value) : std::nullopt, made.width);
    ASSERT_NE(plan, nullptr);
    std::uint32_t n_tokens = 0;
    double work = 0;
    for (const std::uint32_t n : c.steps) {
      work += work_of(*plan, n, n_tokens);
      n_tokens += n;
    }
    if (work > way.most_work) continue;
    // Where logits show nothing, one row of them is enough.
    const bool last = !way.fused && plan->value(made.value).rows == plan::Rows::tokens;
    Held held(plan, way, c.type, n_tokens);
    std::uint32_t next = c.first_token;
    for (std::size_t step = 0; step < c.steps.size(); ++step) {
      std::vector<TokenId> tokens(c.steps[step]);
      for (TokenId& token : tokens) token = static_cast<TokenId>(next++ % c.vocab);
      held.step(tokens, last ? Outputs::last : c.outputs, step >= c.n_unchecked);
      if (HasFailure()) return;
    }
    ++n_run;
    n_ops += held.n_checked();
  }
  std::printf("[   cases  ] %s on %s: %zu of %zu, %zu ops checked\n", family.c_str(), way_name.c_str(), n_run, table.size(),
              n_ops);
  EXPECT_GT(n_run, 0);
}

// 8-bit activations matter only in products.
std::vector<std::tuple<std::string, std::string>> families_and_ways() {
  std::vector<std::tuple<std::string, std::string>> all;
  for (const auto& [family, add] : families) {
    for (const Way& way : ways()) {
      const bool products = std::set<std::string>{"products", "experts", "chains", "models"}.contains(family);
      if (products || way.options.activations == Activations::int16) all.emplace_back(family, way.name);
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, Ops, testing::ValuesIn(families_and_ways()), [](const auto& instance) {
  return std::get<0>(instance.param) + "_" + std::get<1>(instance.param);
});

}  // namespace
}  // namespace plumb::backends
