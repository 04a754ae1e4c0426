#include "plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "plan/fields.h"

namespace plumb::plan {
namespace {

using testing::HasSubstr;

gguf::Tensor tensor(std::string_view name, std::initializer_list<std::uint64_t> dims) {
  gguf::Tensor made{.name = name, .format = quants::Format::f32};
  for (const std::uint64_t dim : dims) made.dims[made.n_dims++] = dim;
  return made;
}

// d 8, 2 heads of 4, 1 KV head, vocabulary 10.
struct Fixture {
  Builder builder{CacheShape(1, 1, 4)};
  MatrixId table = builder.matrix(tensor("token_embd.weight", {8, 10}));
  ValueId x = builder.embed("token_embd", table);

  Result<Plan> finish() {
    const ValueId logits = builder.linear("logits", x, table, {}, Rows::outputs);
    return builder.finish(logits, 16);
  }
  std::string message() {
    auto plan = finish();
    return plan ? "no error" : plan.error().message;
  }
};

void write_cache(Fixture& f) {
  const ValueId key = f.builder.linear("key", f.x, f.builder.matrix(tensor("k.weight", {8, 4})));
  f.builder.kv_write(0, key, key);
}

TEST(Plan, ListsOpsOverNamedValues) {
  Fixture f;
  const MatrixId k = f.builder.matrix(tensor("blk.0.attn_k.weight", {8, 4}));
  const ValueId key = f.builder.linear("blk.0.attn_k", f.x, k);
  f.builder.kv_write(0, key, key);
  const ValueId context =
      f.builder.attention("blk.0.attn_ctx", f.x, {.layer = 0, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .scale = 0.5f});
  f.builder.add("blk.0.attn_resid", f.x, context);
  const auto plan = f.finish();
  ASSERT_TRUE(plan) << plan.error().message;
  std::vector<std::string> names;
  for (const Op& op : plan->ops) names.emplace_back(name(op));
  EXPECT_THAT(names, testing::ElementsAre("embed", "linear", "kv_write", "attention", "add", "linear"));
  ASSERT_TRUE(plan->find("blk.0.attn_ctx"));
  EXPECT_EQ(plan->value(*plan->find("blk.0.attn_ctx")).width, 8);
  EXPECT_EQ(plan->vocab, 10);
  EXPECT_EQ(inputs(plan->ops[4]).size(), 2);
  EXPECT_FALSE(output(plan->ops[2]));
  EXPECT_EQ(plan->weights.size(), 2) << "a tied weight is bound once";
}

TEST(Plan, AnOpsOperandsAreWhatItsFieldsTypesSay) {
  static_assert(n_fields<Add> == 3 && n_fields<ExpertLinear> == 5 && n_fields<Rope> == 12 && n_fields<Attention> == 13);
  const auto index = [](const auto& ids) {
    std::vector<std::uint32_t> list;
    for (const auto id : ids) list.push_back(id.index);
    return list;
  };
  ExpertLinear op{.x = {1}, .experts = {2}, .weight = {{3}}, .bias = VectorId{{4}}, .out = {{5}}};
  EXPECT_EQ(name(op), "expert_linear");
  EXPECT_THAT(index(inputs(op)), testing::ElementsAre(1, 2));
  EXPECT_THAT(index(weights(op)), testing::ElementsAre(3, 4));
  EXPECT_THAT(index(vectors(op)), testing::ElementsAre(4)) << "the matrix is not decoded";
  EXPECT_EQ(output(op), ValueId{5});
  op.bias.reset();
  EXPECT_THAT(index(weights(op)), testing::ElementsAre(3));
  EXPECT_THAT(vectors(op), testing::IsEmpty());
  EXPECT_THAT(index(vectors(Attention{.sinks = VectorId{{7}}})), testing::ElementsAre(7));
  EXPECT_THAT(index(vectors(Rope{.factors = VectorId{{8}}})), testing::ElementsAre(8));
}

TEST(Plan, AWeightStoredInByOutIsRefused) {
  Fixture f;
  f.builder.linear("blk.0.ffn_up", f.x, f.builder.matrix(tensor("blk.0.ffn_up.weight", {12, 8})));
  EXPECT_THAT(f.message(),
              HasSubstr("linear 'blk.0.ffn_up': the weight 'blk.0.ffn_up.weight' with dimensions [12, 8] must be [out, in] "
                        "with in = 8"));
}

TEST(Plan, TheFirstBrokenRuleIsReported) {
  Fixture f;
  f.builder.norm("first", f.x, f.builder.vector(tensor("w", {3})), 1e-5f);
  f.builder.linear("second", f.x, f.builder.matrix(tensor("v", {3, 3})));
  EXPECT_THAT(f.message(), HasSubstr("norm 'first'"));
}

TEST(Plan, EachRuleNamesItsOp) {
  {
    Fixture f;
    f.builder.embed("token_embd", f.table);
    EXPECT_THAT(f.message(), HasSubstr("the name is taken"));
  }
  {
    Fixture f;
    f.builder.linear("y", f.x, f.table, f.builder.vector(tensor("bias", {9})));
    EXPECT_THAT(f.message(), HasSubstr("the bias 'bias' with dimensions [9] must be one vector of 10 values"));
  }
  {
    Fixture f;
    f.builder.rope("r", f.x, {.head_dim = 4, .n_rot = 3, .theta = 10000.0f});
    EXPECT_THAT(f.message(), HasSubstr("3 rotated components must be even"));
  }
  {
    Fixture f;
    f.builder.rope("r", f.x, {.head_dim = 3, .n_rot = 2, .theta = 10000.0f});
    EXPECT_THAT(f.message(), HasSubstr("head_dim 3 must divide the width 8"));
  }
  {
    Fixture f;
    f.builder.kv_write(1, f.x, f.x);
    EXPECT_THAT(f.message(), HasSubstr("kv_write 'layer 1': the cache has 1 layers"));
  }
  {
    Fixture f;
    write_cache(f);
    f.builder.attention("a", f.x, {.n_heads = 4, .n_kv_heads = 1, .head_dim = 4, .scale = 1.0f});
    EXPECT_THAT(f.message(), HasSubstr("'token_embd' has width 8, n_heads * head_dim is 16"));
  }
  {
    Fixture f;
    f.builder.norm("n", f.x, f.builder.vector(tensor("w", {8})), 0.0f);
    EXPECT_THAT(f.message(), HasSubstr("eps must be a positive number"));
  }
}

TEST(Plan, KeysAndValuesFitTheCache) {
  for (const bool k_is_wide : {true, false}) {
    Fixture f;
    const ValueId narrow = f.builder.linear("narrow", f.x, f.builder.matrix(tensor("w", {8, 4})));
    f.builder.kv_write(0, k_is_wide ? f.x : narrow, k_is_wide ? narrow : f.x);
    EXPECT_THAT(f.message(), HasSubstr("'token_embd' has width 8, the cache holds n_kv_heads * head_dim = 4"));
  }
}

TEST(Plan, LogitsMustHaveOutputRows) {
  Fixture f;
  const ValueId logits = f.builder.linear("logits", f.x, f.table);
  const auto plan = f.builder.finish(logits, 16);
  ASSERT_FALSE(plan);
  EXPECT_THAT(plan.error().message, HasSubstr("one row an output"));
}

// What the builder says to an op that breaks a rule, and to its neighbour that does not.
class Rules : public testing::Test {
 protected:
  using Build = std::function<void(Fixture&)>;
  static std::string message(const Build& build) {
    Fixture f;
    build(f);
    return f.message();
  }
  static void accepted(const Build& build) { EXPECT_EQ(message(build), "no error"); }
  static void refused(const Build& build, std::string_view says) { EXPECT_THAT(message(build), HasSubstr(says)); }

  static VectorId vector(Fixture& f, std::initializer_list<std::uint64_t> dims) {
    return f.builder.vector(tensor("vector", dims));
  }
  static MatrixId matrix(Fixture& f, std::initializer_list<std::uint64_t> dims) {
    return f.builder.matrix(tensor("matrix", dims));
  }
  // A value of that width, with a row for each token or each output.
  static ValueId value(Fixture& f, std::string name, std::uint64_t width, Rows rows = Rows::tokens) {
    static std::set<std::string> names;  // a tensor views its name
    const MatrixId weight = f.builder.matrix(tensor(*names.insert("w" + std::to_string(width)).first, {8, width}));
    return f.builder.linear(std::move(name), f.x, weight, {}, rows);
  }

  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  static constexpr float infinity = std::numeric_limits<float>::infinity();
};

TEST_F(Rules, OfWidths) {
  accepted([](Fixture& f) { value(f, "v", 1); });
  refused([](Fixture& f) { value(f, "v", 0); }, "value 'v': the width must be between 1 and 2^31");
  accepted([](Fixture& f) { value(f, "v", (std::uint64_t{1} << 31) - 1); });
  refused([](Fixture& f) { value(f, "v", std::uint64_t{1} << 31); }, "value 'v': the width must be between 1 and 2^31");
}

TEST_F(Rules, OfEmbed) {
  refused([](Fixture& f) { f.builder.embed("e", matrix(f, {8})); }, "embed 'e': the table 'matrix' with dimensions [8]");
  refused([](Fixture& f) { f.builder.embed("e", matrix(f, {8, 4, 2})); }, "must be [vocab, d]");
}

TEST_F(Rules, OfNorm) {
  for (const std::uint64_t length : {1, 2, 4, 8})
    accepted([&](Fixture& f) { f.builder.norm("n", f.x, vector(f, {length}), 1e-5f); });
  for (const std::uint64_t length : {0, 3, 7, 9, 16})
    refused([&](Fixture& f) { f.builder.norm("n", f.x, vector(f, {length}), 1e-5f); }, "must divide the width 8");
  refused([](Fixture& f) { f.builder.norm("n", f.x, vector(f, {8, 1}), 1e-5f); }, "must be one vector of 8 values");
  accepted([](Fixture& f) { f.builder.norm("n", {.x = f.x, .eps = 1e-5f}); });
  accepted([](Fixture& f) { f.builder.norm("n", {.x = f.x, .eps = 1e-5f, .group = 4}); });
  accepted([](Fixture& f) { f.builder.norm("n", {.x = f.x, .weight = vector(f, {8}), .eps = 1e-5f, .group = 4}); });
  refused([](Fixture& f) { f.builder.norm("n", {.x = f.x, .eps = 1e-5f, .group = 3}); }, "must divide the width 8");
  const auto with_bias = [](std::initializer_list<std::uint64_t> dims) {
    return [dims](Fixture& f) {
      const VectorId weight = f.builder.vector(tensor("weight", {4}));
      f.builder.norm("n", {.x = f.x, .weight = weight, .bias = vector(f, dims), .eps = 1e-5f});
    };
  };
  accepted(with_bias({4}));
  accepted(with_bias({8}));
  refused(with_bias({2}), "norm 'n': the weight 'vector' with dimensions [2]");
  refused(with_bias({4, 1}), "norm 'n': the weight 'vector' with dimensions [4, 1]");
  accepted([](Fixture& f) { f.builder.norm("n", f.x, vector(f, {8}), std::numeric_limits<float>::min()); });
  for (const float eps : {0.0f, -1e-5f, nan, infinity})
    refused([&](Fixture& f) { f.builder.norm("n", f.x, vector(f, {8}), eps); }, "eps must be a positive number");
}

TEST_F(Rules, OfLinear) {
  accepted([](Fixture& f) { f.builder.linear("y", f.x, matrix(f, {8, 3})); });
  for (const auto dims : {std::initializer_list<std::uint64_t>{8}, {7, 3}, {9, 3}, {8, 3, 1}})
    refused([&](Fixture& f) { f.builder.linear("y", f.x, matrix(f, dims)); }, "must be [out, in] with in = 8");
  refused(
      [](Fixture& f) {
        const ValueId outputs = value(f, "v", 8, Rows::outputs);
        f.builder.linear("y", outputs, matrix(f, {8, 3}), {}, Rows::tokens);
      },
      "linear 'y': output rows cannot become token rows");
  accepted([](Fixture& f) {
    const ValueId outputs = value(f, "v", 8, Rows::outputs);
    f.builder.linear("y", outputs, matrix(f, {8, 3}), {}, Rows::outputs);
  });
  accepted([](Fixture& f) { f.builder.linear("y", f.x, matrix(f, {8, 3}), vector(f, {3})); });
  for (const auto dims : {std::initializer_list<std::uint64_t>{2}, {4}, {8}, {3, 1}})
    refused(
        [&](Fixture& f) {
          f.builder.linear("y", f.x, matrix(f, {8, 3}), vector(f, dims));
        },
        "must be one vector of 3 values");
}

TEST_F(Rules, OfRope) {
  const auto rope = [](Rope op) { return [op](Fixture& f) { f.builder.rope("r", f.x, op); }; };
  for (const std::uint32_t n_rot : {2u, 4u}) accepted(rope({.head_dim = 4, .n_rot = n_rot, .theta = 1.0f}));
  for (const std::uint32_t n_rot : {0u, 1u, 3u, 5u, 6u})
    refused(rope({.head_dim = 4, .n_rot = n_rot, .theta = 1.0f}), "must be even and at most head_dim 4");
  for (const std::uint32_t head_dim : {0u, 3u, 5u, 16u})
    refused(rope({.head_dim = head_dim, .n_rot = 2, .theta = 1.0f}), "must divide the width 8");
  for (const float theta : {0.0f, -1.0f, nan, infinity})
    refused(rope({.head_dim = 4, .n_rot = 4, .theta = theta}), "theta must be a positive number");
  refused(
      [](Fixture& f) { f.builder.rope("r", value(f, "v", 8, Rows::outputs), {.head_dim = 4, .n_rot = 4, .theta = 1.0f}); },
      "rope 'r': the input must have one row a token");
  const auto with_factors = [](std::initializer_list<std::uint64_t> dims) {
    return [dims](Fixture& f) {
      f.builder.rope("r", f.x, {.head_dim = 4, .n_rot = 4, .theta = 1.0f, .factors = vector(f, dims)});
    };
  };
  accepted(with_factors({2}));
  const auto with_long_factors = [](bool has_short, std::uint32_t original, std::uint64_t n) {
    return [=](Fixture& f) {
      Rope op{.head_dim = 4, .n_rot = 4, .theta = 1.0f, .original_context = original};
      if (has_short) op.factors = vector(f, {2});
      op.long_factors = f.builder.vector(tensor("long", {n}));
      f.builder.rope("r", f.x, op);
    };
  };
  accepted(with_long_factors(true, 8, 2));
  refused(with_long_factors(true, 8, 3), "must be one vector of 2 values");
  refused(with_long_factors(false, 8, 2), "long factors need short ones");
  refused(with_long_factors(true, 0, 2), "long factors need short ones");
  for (const auto dims : {std::initializer_list<std::uint64_t>{1}, {3}, {4}, {2, 1}})
    refused(with_factors(dims), "must be one vector of 2 values");
}

TEST_F(Rules, OfTheCache) {
  accepted([](Fixture& f) { f.builder.kv_write(0, value(f, "k", 4), value(f, "v", 4)); });
  refused([](Fixture& f) { f.builder.kv_write(1, value(f, "k", 4), value(f, "v", 4)); }, "the cache has 1 layers");
  refused(
      [](Fixture& f) {
        write_cache(f);
        f.builder.kv_write(0, value(f, "k", 4), value(f, "v", 4));
      },
      "the layer's cache is written already");
  for (const std::uint64_t width : {3, 5}) {
    refused([&](Fixture& f) { f.builder.kv_write(0, value(f, "k", width), value(f, "v", 4)); }, "'k' has width");
    refused([&](Fixture& f) { f.builder.kv_write(0, value(f, "k", 4), value(f, "v", width)); }, "'v' has width");
  }
  refused([](Fixture& f) { f.builder.kv_write(0, value(f, "k", 4, Rows::outputs), value(f, "v", 4)); }, "'k' has width 4");
  refused([](Fixture& f) { f.builder.kv_write(0, value(f, "k", 4), value(f, "v", 4, Rows::outputs)); }, "'v' has width 4");
}

TEST_F(Rules, OfAttention) {
  constexpr Attention right{.layer = 0, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .scale = 0.5f};
  const auto with = [&](auto change) {
    Attention op = right;
    change(op);
    return [op](Fixture& f) {
      write_cache(f);
      f.builder.attention("a", f.x, op);
    };
  };
  accepted(with([](Attention&) {}));
  refused([&](Fixture& f) { f.builder.attention("a", f.x, right); }, "nothing is written to the cache of layer 0");
  refused(with([](Attention& a) { a.n_heads = 1; }), "n_heads * head_dim is 4");
  refused(with([](Attention& a) { a.n_heads = 3; }), "n_heads * head_dim is 12");
  refused(
      [&](Fixture& f) {
        write_cache(f);
        f.builder.attention("a", value(f, "q", 8, Rows::outputs), right);
      },
      "'q' has width 8");
  refused(with([](Attention& a) { a.n_kv_heads = 0; }), "n_kv_heads 0 must divide n_heads 2");
  refused(with([](Attention& a) { a.n_kv_heads = 3; }), "n_kv_heads 3 must divide n_heads 2");
  refused(with([](Attention& a) { a.n_kv_heads = 2; }), "the cache of layer 0 was made for another shape");
  refused(with([](Attention& a) { a.n_heads = 4, a.head_dim = 2; }), "the cache of layer 0 was made for another shape");
  refused(with([](Attention& a) { a.layer = 1; }), "nothing is written to the cache of layer 1");
  for (const float scale : {0.0f, -0.5f, nan, infinity})
    refused(with([&](Attention& a) { a.scale = scale; }), "the scale must be a positive number");
  accepted(with([](Attention& a) { a.soft_cap = 50.0f; }));
  for (const float cap : {-1.0f, nan, infinity})
    refused(with([&](Attention& a) { a.soft_cap = cap; }), "the soft cap must be a positive number");
  accepted(with([](Attention& a) { a.alibi_max_bias = 8.0f; }));
  for (const float bias : {-1.0f, nan, infinity})
    refused(with([&](Attention& a) { a.alibi_max_bias = bias; }), "ALiBi's largest bias must be a positive number");
  accepted(with([](Attention& a) { a.window = 2, a.causal = false; }));
  accepted(with([](Attention& a) { a.window = 2, a.window_kind = WindowKind::chunked; }));
  refused(with([](Attention& a) { a.window = 2, a.window_kind = WindowKind::chunked, a.causal = false; }),
          "are for causal attention");
  refused(with([](Attention& a) { a.alibi_max_bias = 8.0f, a.causal = false; }), "are for causal attention");
  const auto with_sinks = [&](std::initializer_list<std::uint64_t> dims) {
    return [right, dims](Fixture& f) {
      Attention op = right;
      op.sinks = vector(f, dims);
      write_cache(f);
      f.builder.attention("a", f.x, op);
    };
  };
  accepted(with_sinks({2}));
  for (const auto dims : {std::initializer_list<std::uint64_t>{1}, {3}, {4}, {2, 1}})
    refused(with_sinks(dims), "must be one vector of 2 values");
}

TEST_F(Rules, OfOneShape) {
  accepted([](Fixture& f) { f.builder.add("s", value(f, "a", 4), value(f, "b", 4)); });
  refused([](Fixture& f) { f.builder.add("s", value(f, "a", 4), value(f, "b", 5)); },
          "add 's': 'a' and 'b' must have one shape");
  refused([](Fixture& f) { f.builder.add("s", value(f, "a", 4), value(f, "b", 4, Rows::outputs)); },
          "add 's': 'a' and 'b' must have one shape");
  accepted([](Fixture& f) { f.builder.activate("s", {.gate = value(f, "a", 4)}); });
  accepted([](Fixture& f) { f.builder.activate("s", value(f, "a", 4), value(f, "b", 4), Activation::silu); });
  accepted([](Fixture& f) { f.builder.activate("s", value(f, "a", 2), value(f, "b", 4), Activation::silu); });
  refused([](Fixture& f) { f.builder.activate("s", value(f, "a", 4), value(f, "b", 3), Activation::silu); },
          "the width 3 of 'b' must be a multiple of 4, that of 'a'");
  refused([](Fixture& f) { f.builder.activate("s", {.gate = f.x, .limit = 7}); }, "only a gated activation has a limit");
  refused([](Fixture& f) { f.builder.activate("s", {.gate = f.x, .up = f.x, .limit = nan}); }, "must be numbers");
  refused([](Fixture& f) { f.builder.activate("s", value(f, "a", 4, Rows::outputs), value(f, "b", 4), Activation::silu); },
          "with as many rows");
}

TEST_F(Rules, OfSoftCap) {
  accepted([](Fixture& f) { f.builder.soft_cap("c", f.x, 30.0f); });
  for (const float cap : {0.0f, -1.0f, nan, infinity})
    refused([&](Fixture& f) { f.builder.soft_cap("c", f.x, cap); }, "soft_cap 'c': the cap must be a positive number");
}

TEST_F(Rules, OfTopK) {
  for (const std::uint32_t k : {1u, 8u}) accepted([&](Fixture& f) { f.builder.top_k("t", f.x, k); });
  for (const std::uint32_t k : {0u, 9u})
    refused([&](Fixture& f) { f.builder.top_k("t", f.x, k); }, "must be between 1 and 8, from the width of 'token_embd'");
  accepted([](Fixture& f) { f.builder.top_k("t", value(f, "v", (1u << 24) - 1), 2); });
  refused([](Fixture& f) { f.builder.top_k("t", value(f, "v", 1u << 24), 2); }, "must be below 2^24");
  const auto groups = [](std::uint32_t k, std::uint32_t n, std::uint32_t used) {
    return [=](Fixture& f) { f.builder.top_k("t", {.x = f.x, .k = k, .n_groups = n, .n_groups_used = used}); };
  };
  accepted(groups(4, 4, 2));
  refused(groups(5, 4, 2), "must be between 1 and 4");
  for (const std::uint32_t n : {0u, 3u, 16u}) refused(groups(1, n, 1), "must be at least one, at most 64, and divide");
  for (const std::uint32_t used : {0u, 5u}) refused(groups(1, 4, used), "must be at least one, at most 64, and divide");
  accepted([](Fixture& f) { f.builder.top_k("t", {.x = f.x, .bias = vector(f, {8}), .k = 2}); });
  refused([](Fixture& f) { f.builder.top_k("t", {.x = f.x, .bias = vector(f, {7}), .k = 2}); }, "the bias");
}

TEST_F(Rules, OfScale) {
  const auto part = [](std::uint32_t first, std::uint64_t width) {
    return [=](Fixture& f) { f.builder.scale("s", {.x = f.x, .first = first}, width); };
  };
  accepted(part(0, 8));
  accepted(part(5, 3));
  refused(part(6, 3), "scale 's': values 6 to 9 must be within the width 8 of 'token_embd'");
  refused(part(0, 0), "the width must be between 1 and 2^31");
  for (const std::uint64_t n : {1, 8})
    accepted([&](Fixture& f) { f.builder.scale("s", {.x = f.x, .weight = vector(f, {n})}, 8); });
  refused([](Fixture& f) { f.builder.scale("s", {.x = f.x, .weight = vector(f, {4})}, 8); }, "the weight");
  for (const float factor : {nan, infinity})
    refused([&](Fixture& f) { f.builder.scale("s", f.x, factor); }, "the factor must be a number");
  const Temperature temperature{.beta = 1, .length = 8};
  accepted([&](Fixture& f) { f.builder.scale("s", {.x = f.x, .temperature = temperature}, 8); });
  refused([&](Fixture& f) { f.builder.scale("s", {.x = value(f, "o", 8, Rows::outputs), .temperature = temperature}, 8); },
          "only rows of tokens have positions");
  refused([&](Fixture& f) { f.builder.scale("s", {.x = f.x, .temperature = Temperature{.beta = 1, .length = 0}}, 8); },
          "its length positive");
}

TEST_F(Rules, OfExpertWeights) {
  const auto weights = [](std::uint64_t all, Rows all_rows, std::uint64_t chosen, Rows chosen_rows, float scale = 1.0f) {
    return [=](Fixture& f) {
      const ValueId logits = value(f, "logits_of_router", all, all_rows);
      f.builder.expert_weights("e", logits, value(f, "chosen", chosen, chosen_rows), Gating::softmax, scale);
    };
  };
  accepted(weights(4, Rows::tokens, 2, Rows::tokens));
  accepted(weights(4, Rows::outputs, 4, Rows::outputs));
  accepted(weights(4, Rows::tokens, 4, Rows::tokens, -2.0f));
  refused(weights(4, Rows::tokens, 5, Rows::tokens), "'chosen' must choose among the 4 of 'logits_of_router'");
  refused(weights(4, Rows::outputs, 2, Rows::tokens), "'chosen' must choose among");
  refused(weights(4, Rows::tokens, 2, Rows::tokens, nan), "the scale must be a number");
  refused(weights(4, Rows::tokens, 2, Rows::tokens, infinity), "the scale must be a number");
}

TEST_F(Rules, OfExpertLinear) {
  // Four experts, of which two are chosen.
  struct Case {
    std::uint64_t x = 8;
    Rows x_rows = Rows::tokens;
    std::vector<std::uint64_t> weight{8, 3, 4};
    std::vector<std::uint64_t> bias{};
  };
  const auto op = [](const Case& c) {
    return [c](Fixture& f) {
      const ValueId experts = f.builder.top_k("top", value(f, "router", 4), 2);
      gguf::Tensor weight{.name = "experts", .format = quants::Format::f32};
      for (const std::uint64_t dim : c.weight) weight.dims[weight.n_dims++] = dim;
      gguf::Tensor bias{.name = "bias", .format = quants::Format::f32};
      for (const std::uint64_t dim : c.bias) bias.dims[bias.n_dims++] = dim;
      const auto optional = c.bias.empty() ? std::nullopt : std::optional(f.builder.vector(bias));
      f.builder.expert_linear("e", value(f, "input", c.x, c.x_rows), experts, f.builder.matrix(weight), optional);
    };
  };
  const std::string_view shape = "must be [n_experts, out, in] with in = ";
  accepted(op({}));
  accepted(op({.x = 16}));
  refused(op({.x = 24}), shape);
  refused(op({.x = 4}), shape);
  refused(op({.x_rows = Rows::outputs}), shape);
  refused(op({.weight = {8, 12}}), shape);
  refused(op({.weight = {8, 3, 4, 1}}), shape);
  refused(op({.weight = {8, 3, 3}}), "must have 4 experts, as many as 'router' has logits");
  refused(op({.weight = {8, 3, 5}}), "must have 4 experts, as many as 'router' has logits");
  accepted(op({.bias = {3, 4}}));
  for (const std::vector<std::uint64_t>& bias : {std::vector<std::uint64_t>{3}, {2, 4}, {4, 4}, {3, 3}, {3, 5}, {3, 4, 1}})
    refused(op({.bias = bias}), "the bias 'bias' with dimensions [");
}

TEST_F(Rules, OfExpertSum) {
  const auto sum = [](std::uint64_t x, Rows x_rows, std::uint64_t weights, Rows rows) {
    return [=](Fixture& f) {
      const ValueId of_x = value(f, "input", x, x_rows);
      f.builder.expert_sum("e", of_x, value(f, "weights", weights, rows));
    };
  };
  accepted(sum(6, Rows::tokens, 2, Rows::tokens));
  accepted(sum(6, Rows::outputs, 6, Rows::outputs));
  refused(sum(7, Rows::tokens, 2, Rows::tokens), "the width 7 of 'input' must be a multiple of 2, that of 'weights'");
  refused(sum(6, Rows::tokens, 12, Rows::tokens), "must be a multiple of 12");
  refused(sum(6, Rows::outputs, 2, Rows::tokens), "must be a multiple of 2");
}

TEST_F(Rules, OfTheEnd) {
  Fixture f;
  const ValueId logits = f.builder.linear("logits", f.x, f.table, {}, Rows::outputs);
  EXPECT_THAT(f.builder.finish(logits, 0).error().message, HasSubstr("the context length must be positive"));
  Fixture g;
  const auto plan = g.builder.finish(g.builder.linear("logits", g.x, g.table, {}, Rows::outputs), 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->context, 1u);
  EXPECT_EQ(plan->value(plan->logits).name, "logits");
  EXPECT_EQ(plan->cache.layers, std::vector<LayerCache>({{1, 4}}));
  EXPECT_FALSE(plan->find("nothing"));
}

// The shapes of the values that ops make.
TEST_F(Rules, OfResults) {
  Fixture f;
  const ValueId outputs = value(f, "o", 12, Rows::outputs);
  const ValueId router = value(f, "router", 4);
  const ValueId top = f.builder.top_k("top", router, 2);
  const ValueId weights = f.builder.expert_weights("gates", router, top, Gating::softmax);
  const ValueId each = f.builder.expert_linear("each", f.x, top, f.builder.matrix(tensor("experts", {8, 3, 4})));
  f.builder.expert_sum("sum", each, weights);
  f.builder.soft_cap("capped", outputs, 1.0f);
  f.builder.norm("normed", outputs, vector(f, {4}), 1e-5f);
  f.builder.activate("active", {.gate = outputs});
  f.builder.add("added", outputs, outputs);
  f.builder.rope("turned", f.x, {.head_dim = 4, .n_rot = 4, .theta = 1.0f});
  const auto plan = f.finish();
  ASSERT_TRUE(plan) << plan.error().message;
  struct Expected {
    const char* name;
    std::uint64_t width;
    Rows rows;
  };
  for (const auto& [name, width, rows] :
       {Expected{"top", 2, Rows::tokens}, Expected{"gates", 2, Rows::tokens}, Expected{"each", 6, Rows::tokens},
        Expected{"sum", 3, Rows::tokens}, Expected{"capped", 12, Rows::outputs}, Expected{"normed", 12, Rows::outputs},
        Expected{"active", 12, Rows::outputs}, Expected{"added", 12, Rows::outputs}, Expected{"turned", 8, Rows::tokens},
        Expected{"token_embd", 8, Rows::tokens}, Expected{"logits", 10, Rows::outputs}}) {
    const auto id = plan->find(name);
    ASSERT_TRUE(id) << name;
    EXPECT_EQ(plan->value(*id).width, width) << name;
    EXPECT_EQ(plan->value(*id).rows, rows) << name;
  }
}

}  // namespace
}  // namespace plumb::plan
