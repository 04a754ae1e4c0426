#include "plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  Builder builder{{.n_layers = 1, .n_kv_heads = 1, .head_dim = 4}};
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
  static_assert(n_fields<Add> == 3 && n_fields<ExpertLinear> == 5 && n_fields<Rope> == 9 && n_fields<Attention> == 10);
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

}  // namespace
}  // namespace plumb::plan
