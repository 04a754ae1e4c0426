// Small transformer plans with random weights, and functions for tests of executors.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/maker.h"
#include "quants/format.h"

namespace plumb::backends {

struct ModelShape {
  std::uint32_t vocab = 40;
  std::uint32_t d = 48;
  std::uint32_t n_layers = 2;
  std::uint32_t n_heads = 6;
  std::uint32_t n_kv_heads = 2;
  std::uint32_t head_dim = 10;
  std::uint32_t n_rot = 6;
  std::uint32_t d_ff = 80;
  std::uint32_t window = 0;
  plan::RopePairing pairing = plan::RopePairing::adjacent;
  plan::Activation activation = plan::Activation::silu;
  bool bias = false;
  bool yarn = false;
  float soft_cap = 0;  // of attention and of the logits
  bool sinks = false;
  std::uint32_t n_experts = 0;  // replace the feed-forward network; each has d_ff elements
  std::uint32_t n_used = 0;
  plan::Gating gating = plan::Gating::softmax_of_chosen;
  quants::Format format = quants::Format::f32;  // of the matrices
  // What each layer keeps, where not all keep n_kv_heads of head_dim. A layer that keeps nothing reads the cache of the
  // last one that keeps something.
  std::vector<plan::LayerCache> layers = {};
  bool causal = true;

  [[nodiscard]] plan::CacheShape cache() const {
    return layers.empty() ? plan::CacheShape(n_layers, n_kv_heads, head_dim) : plan::CacheShape(layers);
  }
};

// Adds the ops of such a model and returns its logits. Queries and keys, and different layers, rotate by different angles.
inline plan::ValueId add_model(Maker& m, const ModelShape& shape) {
  plan::Builder& b = m.builder;
  const auto linear = [&](const std::string& name, plan::ValueId x, std::uint64_t out, std::uint64_t in,
                          bool biased = false, plan::Rows rows = plan::Rows::tokens) {
    const auto bias = biased && shape.bias ? std::optional(m.vector(out)) : std::nullopt;
    return b.linear(name, x, m.matrix(shape.format, {in, out}), bias, rows);
  };
  const auto norm = [&](const std::string& name, plan::ValueId x, std::uint32_t n, float eps) {
    return b.norm(name, x, m.vector(n), eps);
  };
  const auto factors = shape.yarn ? std::optional(m.vector(shape.n_rot / 2, 1.5F, 0.1F)) : std::nullopt;
  plan::ValueId x = b.embed("token_embd", m.matrix(quants::Format::f16, {shape.d, shape.vocab}, 1), 1.5F);
  const std::vector<plan::LayerCache> caches = shape.cache().layers;
  std::uint32_t read = 0;  // the layer whose cache is read
  for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    const bool keeps = caches[layer].n_kv_heads > 0;
    if (keeps) read = layer;
    const auto [n_kv_heads, head_dim] = caches[read];
    const std::uint32_t q_width = shape.n_heads * head_dim, kv_width = n_kv_heads * head_dim;
    const std::string blk = fmt::format("blk.{}.", layer);
    plan::Rope rope{.head_dim = head_dim, .n_rot = shape.n_rot, .pairing = shape.pairing, .factors = factors};
    if (shape.yarn) {
      rope.position_scale = 0.25F;
      rope.magnitude = 1.1F;
      rope.yarn = plan::Yarn{.factor = 4, .original_context = 64};
    }
    const auto input = norm(blk + "attn_norm", x, shape.d, 1e-5F);
    const auto q = linear(blk + "attn_q", input, q_width, shape.d, true);
    const auto k = keeps ? linear(blk + "attn_k", input, kv_width, shape.d, true) : q;
    const auto v = keeps ? linear(blk + "attn_v", input, kv_width, shape.d) : q;
    const auto q_norm = norm(blk + "attn_q_norm", q, head_dim, 1e-6F);
    rope.theta = 1000.0F * static_cast<float>(layer + 1);
    const auto q_rope = b.rope(blk + "attn_q_rope", q_norm, rope);
    rope.theta /= 3;
    if (keeps) b.kv_write(layer, b.rope(blk + "attn_k_rope", k, rope), v);
    const plan::Attention attention{.layer = read,
                                    .n_heads = shape.n_heads,
                                    .n_kv_heads = n_kv_heads,
                                    .head_dim = head_dim,
                                    .scale = 0.3F,
                                    .window = shape.window,
                                    .soft_cap = shape.soft_cap,
                                    .sinks = shape.sinks ? std::optional(m.vector(shape.n_heads)) : std::nullopt,
                                    .causal = shape.causal};
    const auto out = linear(blk + "attn_out", b.attention(blk + "attn_ctx", q_rope, attention), shape.d, q_width);
    x = b.add(blk + "attn_resid", x, out);
    auto y = norm(blk + "ffn_norm", x, shape.d, 1e-5F);
    if (shape.n_experts == 0) {
      const auto gate = linear(blk + "ffn_gate", y, shape.d_ff, shape.d),
                 up = linear(blk + "ffn_up", y, shape.d_ff, shape.d);
      y = linear(blk + "ffn_down", b.activate(blk + "ffn_act", gate, up, shape.activation), shape.d, shape.d_ff);
    } else {
      const auto router = linear(blk + "ffn_router", y, shape.n_experts, shape.d);
      const auto chosen = b.top_k(blk + "ffn_experts", router, shape.n_used);
      const auto weights = b.expert_weights(blk + "ffn_expert_weights", router, chosen, shape.gating, 1.5F);
      const auto experts = [&](const char* name, plan::ValueId from, std::uint64_t n_out, std::uint64_t n_in) {
        const std::uint64_t n = shape.n_experts;
        const auto bias = shape.bias ? std::optional(m.vector_of(m.normals(n_out * n), {n_out, n})) : std::nullopt;
        return b.expert_linear(blk + name, from, chosen, m.matrix(shape.format, {n_in, n_out, n}), bias);
      };
      const auto gate = experts("ffn_gate_exps", y, shape.d_ff, shape.d),
                 up = experts("ffn_up_exps", y, shape.d_ff, shape.d);
      const auto act = b.activate(blk + "ffn_act", gate, up, shape.activation);
      y = b.expert_sum(blk + "ffn_out", experts("ffn_down_exps", act, shape.d, shape.d_ff), weights);
    }
    x = b.add(blk + "output", x, y);
  }
  x = norm("output_norm", x, shape.d, 1e-5F);
  const bool capped = shape.soft_cap > 0;
  const auto logits = linear(capped ? "logits_uncapped" : "logits", x, shape.vocab, shape.d, false, plan::Rows::outputs);
  return capped ? b.soft_cap("logits", logits, shape.soft_cap) : logits;
}

struct SmallModel {
  explicit SmallModel(const ModelShape& shape) {
    Maker maker(shape.cache());
    plan = maker.finish_at(add_model(maker, shape));
  }
  std::shared_ptr<const plan::Plan> plan;
};

inline std::unique_ptr<Executor> load(const SmallModel& model, Backend& backend, std::uint32_t n_threads = 2) {
  auto executor = backend.load(model.plan, {.n_threads = n_threads, .max_batch = 256});
  EXPECT_TRUE(executor) << (executor ? "" : executor.error().message);
  return std::move(*executor);
}

inline std::unique_ptr<KvCache> cache_for(Executor& executor, std::uint32_t capacity = 400, KvType type = KvType::f32) {
  return std::move(*executor.new_cache(capacity, type));
}

inline std::vector<TokenId> some_tokens(std::size_t n) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = static_cast<TokenId>((i * i + 3 * i + 1) % 40);
  return tokens;
}

// Runs tokens in steps of the given lengths. Returns the logits, one row for each token.
inline std::vector<float> logits_of(Executor& executor, KvCache& cache, std::span<const TokenId> tokens,
                                    const std::vector<std::size_t>& steps) {
  std::vector<float> all;
  std::size_t at = 0;
  for (const std::size_t n : steps) {
    const auto logits = executor.run({&cache, tokens.subspan(at, n), Outputs::all});
    EXPECT_TRUE(logits) << (logits ? "" : logits.error().message);
    all.insert(all.end(), logits->begin(), logits->end());
    at += n;
  }
  return all;
}

inline std::vector<float> logits_of(Executor& executor, std::span<const Step> steps) {
  const auto logits = executor.run(steps);
  EXPECT_TRUE(logits) << (logits ? "" : logits.error().message);
  return logits ? std::vector<float>(logits->begin(), logits->end()) : std::vector<float>();
}

inline void expect_close(const std::vector<float>& actual, const std::vector<float>& expected, double relative) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * largest) << i << " of " << actual.size();
  }
}

// Runs three sequences together, in several steps: prompts of different lengths; one token each; a prompt beside single
// tokens; one sequence alone. Compares them with the same sequences run one by one on `expected_by`.
inline void expect_batches_as_alone(Executor& executor, Executor& expected_by, KvType type, double relative) {
  struct Part {
    std::size_t sequence, n;
    Outputs outputs;
  };
  const std::vector<std::vector<Part>> batches{{{0, 7, Outputs::last}, {1, 1, Outputs::last}, {2, 30, Outputs::last}},
                                               {{0, 1, Outputs::last}, {1, 1, Outputs::last}, {2, 1, Outputs::last}},
                                               {{2, 1, Outputs::last}, {0, 1, Outputs::last}},
                                               {{2, 1, Outputs::last}, {0, 1, Outputs::last}},
                                               {{0, 1, Outputs::last}, {1, 140, Outputs::last}, {2, 2, Outputs::all}},
                                               {{1, 1, Outputs::last}},
                                               {{1, 3, Outputs::all}, {0, 12, Outputs::all}}};
  const auto tokens = some_tokens(200);
  auto caches = executor.new_caches(3, 200, type);
  ASSERT_TRUE(caches) << caches.error().message;
  auto alone = expected_by.new_caches(3, 200, type);
  ASSERT_TRUE(alone) << alone.error().message;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    SCOPED_TRACE(fmt::format("batch {}", b));
    std::vector<Step> steps;
    std::vector<float> expected;
    for (const Part& part : batches[b]) {
      KvCache& cache = *(*caches)[part.sequence];
      // Sequences begin with different tokens, so that no two are equal.
      const auto fed = std::span(tokens).subspan(cache.length() + 5 * part.sequence, part.n);
      steps.push_back({&cache, fed, part.outputs});
      const auto one = logits_of(expected_by, std::vector<Step>{{(*alone)[part.sequence].get(), fed, part.outputs}});
      expected.insert(expected.end(), one.begin(), one.end());
    }
    expect_close(logits_of(executor, steps), expected, relative);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ((*caches)[i]->length(), (*alone)[i]->length());
  }
}

}  // namespace plumb::backends
