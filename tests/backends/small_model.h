// Small plans with random weights, of a transformer's shape, and what tests of executors do with them.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backends/backend.h"
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
  std::uint32_t n_experts = 0;  // in place of the feed-forward network; of d_ff elements each
  std::uint32_t n_used = 0;
  plan::Gating gating = plan::Gating::softmax_of_chosen;
  quants::Format format = quants::Format::f32;  // of the matrices
};

// A plan over weights of its own, of a transformer's shape but for what ModelShape varies.
class SmallModel {
 public:
  explicit SmallModel(const ModelShape& shape, std::uint32_t seed = 1) : random_(seed) {
    plan::Builder builder({shape.n_layers, shape.n_kv_heads, shape.head_dim});
    const std::uint32_t q_width = shape.n_heads * shape.head_dim;
    const std::uint32_t kv_width = shape.n_kv_heads * shape.head_dim;
    const auto matrix = [&](std::string name, std::uint32_t out, std::uint32_t in) {
      return this->matrix(builder, shape, std::move(name), {in, out});
    };
    const auto vector = [&](std::string name, std::uint32_t n) {
      return builder.vector(tensor(std::move(name), quants::Format::f32, {n}, 1.0f));
    };
    plan::ValueId x = builder.embed(
        "token_embd", builder.matrix(tensor("token_embd.weight", quants::Format::f16, {shape.d, shape.vocab}, 1.0f)), 1.5f);
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
      const std::string blk = fmt::format("blk.{}.", layer);
      const auto bias = [&](const std::string& name, std::uint32_t n) {
        return shape.bias ? std::optional(vector(name, n)) : std::nullopt;
      };
      plan::Rope rope;
      rope.head_dim = shape.head_dim;
      rope.n_rot = shape.n_rot;
      rope.pairing = shape.pairing;
      rope.theta = 1000.0f;
      if (shape.yarn) {
        rope.position_scale = 0.25f;
        rope.yarn = plan::Yarn{.factor = 4, .original_context = 64, .attention_factor = 1.1f};
        rope.factors = builder.vector(tensor("rope_freqs.weight", quants::Format::f32, {shape.n_rot / 2}, 0.0f, 1.5f));
      }
      const auto norm = builder.norm(blk + "attn_norm", x, vector(blk + "attn_norm.weight", shape.d), 1e-5f);
      const auto q = builder.linear(blk + "attn_q", norm, matrix(blk + "attn_q.weight", q_width, shape.d),
                                    bias(blk + "attn_q.bias", q_width));
      const auto k = builder.linear(blk + "attn_k", norm, matrix(blk + "attn_k.weight", kv_width, shape.d),
                                    bias(blk + "attn_k.bias", kv_width));
      const auto v = builder.linear(blk + "attn_v", norm, matrix(blk + "attn_v.weight", kv_width, shape.d));
      const auto q_norm = builder.norm(blk + "attn_q_norm", q, vector(blk + "q_norm.weight", shape.head_dim), 1e-6f);
      const auto q_rope = builder.rope(blk + "attn_q_rope", q_norm, rope);
      const auto k_rope = builder.rope(blk + "attn_k_rope", k, rope);
      builder.kv_write(layer, k_rope, v);
      plan::Attention attention;
      attention.layer = layer;
      attention.n_heads = shape.n_heads;
      attention.n_kv_heads = shape.n_kv_heads;
      attention.head_dim = shape.head_dim;
      attention.scale = 0.3f;
      attention.window = shape.window;
      attention.soft_cap = shape.soft_cap;
      if (shape.sinks) attention.sinks = vector(blk + "attn_sinks.weight", shape.n_heads);
      const auto ctx = builder.attention(blk + "attn_ctx", q_rope, attention);
      const auto out = builder.linear(blk + "attn_out", ctx, matrix(blk + "attn_output.weight", shape.d, q_width));
      x = builder.add(blk + "attn_resid", x, out);
      const auto ffn_norm = builder.norm(blk + "ffn_norm", x, vector(blk + "ffn_norm.weight", shape.d), 1e-5f);
      x = builder.add(
          blk + "output", x,
          shape.n_experts > 0 ? experts(builder, shape, blk, ffn_norm) : feed_forward(builder, shape, blk, ffn_norm));
    }
    const auto norm = builder.norm("output_norm", x, vector("output_norm.weight", shape.d), 1e-5f);
    auto logits = builder.linear(shape.soft_cap > 0 ? "logits_uncapped" : "logits", norm,
                                 matrix("output.weight", shape.vocab, shape.d), {}, plan::Rows::outputs);
    if (shape.soft_cap > 0) logits = builder.soft_cap("logits", logits, shape.soft_cap);
    auto made = builder.finish(logits, 512);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    plan = std::make_shared<plan::Plan>(std::move(*made));
  }

  std::shared_ptr<const plan::Plan> plan;

 private:
  plan::MatrixId matrix(plan::Builder& builder, const ModelShape& shape, std::string name,
                        std::vector<std::uint64_t> dims) {
    const float deviation = 1.0f / std::sqrt(static_cast<float>(dims[0]));
    return builder.matrix(tensor(std::move(name), shape.format, std::move(dims), deviation));
  }

  plan::ValueId feed_forward(plan::Builder& builder, const ModelShape& shape, const std::string& blk, plan::ValueId x) {
    const auto linear = [&](const char* name, plan::ValueId from, std::uint64_t out, std::uint64_t in) {
      return builder.linear(blk + name, from, matrix(builder, shape, blk + name + ".weight", {in, out}));
    };
    const auto gate = linear("ffn_gate", x, shape.d_ff, shape.d);
    const auto up = linear("ffn_up", x, shape.d_ff, shape.d);
    return linear("ffn_down", builder.activate(blk + "ffn_act", gate, up, shape.activation), shape.d, shape.d_ff);
  }

  plan::ValueId experts(plan::Builder& builder, const ModelShape& shape, const std::string& blk, plan::ValueId x) {
    const std::uint64_t n = shape.n_experts;
    const auto router = builder.linear(blk + "ffn_router", x, matrix(builder, shape, blk + "router.weight", {shape.d, n}));
    const auto chosen = builder.top_k(blk + "ffn_experts", router, shape.n_used);
    const auto weights = builder.expert_weights(blk + "ffn_expert_weights", router, chosen, shape.gating, 1.5f);
    const auto linear = [&](const char* name, plan::ValueId from, std::uint64_t out, std::uint64_t in) {
      const auto bias = shape.bias
                            ? std::optional(builder.vector(tensor(blk + name + ".bias", quants::Format::f32, {out, n}, 1)))
                            : std::nullopt;
      return builder.expert_linear(blk + name, from, chosen, matrix(builder, shape, blk + name + ".weight", {in, out, n}),
                                   bias);
    };
    const auto gate = linear("ffn_gate_exps", x, shape.d_ff, shape.d);
    const auto up = linear("ffn_up_exps", x, shape.d_ff, shape.d);
    const auto act = builder.activate(blk + "ffn_act", gate, up, shape.activation);
    return builder.expert_sum(blk + "ffn_out", linear("ffn_down_exps", act, shape.d, shape.d_ff), weights);
  }

  gguf::Tensor tensor(std::string name, quants::Format format, std::vector<std::uint64_t> dims, float deviation,
                      float mean = 0) {
    const quants::FormatInfo& info = quants::info(format);
    std::uint64_t n = 1;
    for (const std::uint64_t dim : dims) n *= dim;
    std::normal_distribution<float> normal(mean, deviation > 0 ? deviation : 0.1f);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    auto& bytes = bytes_.emplace_back(info.row_bytes(n));
    info.encode(values.data(), bytes.data(), n / info.block_size);
    gguf::Tensor result;
    result.name = names_.emplace_back(std::move(name));
    result.format = format;
    result.n_dims = static_cast<std::uint32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), result.dims.begin());
    result.data = bytes;
    return result;
  }

  std::mt19937 random_;
  std::deque<std::string> names_;
  std::deque<std::vector<std::byte>> bytes_;
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

// The logits of the tokens fed in steps of the given lengths, one row a token.
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

// Three sequences in one step after another: prompts of different lengths, one token each, a prompt beside single tokens,
// one alone; against the same sequences run one by one by `expected_by`.
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
      // Sequences begin at different tokens, so that no two are alike.
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
