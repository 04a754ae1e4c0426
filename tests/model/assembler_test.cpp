// A tensor that several roles share is bound to each as its rows.
#include "model/assembler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gguf/file.h"
#include "gguf/writer.h"
#include "model/blocks.h"
#include "quants/format.h"

namespace plumb::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One block whose q is 32 wide, and whose k and v are 16 wide.
HyperParameters shape() {
  HyperParameters p;
  p.architecture = "fused";
  p.n_layers = 1;
  p.d_model = 32;
  p.n_heads = 2;
  p.n_kv_heads = 1;
  p.head_dim = 16;
  p.vocab = 8;
  p.context = 4;
  p.norm_eps = 1e-5;
  p.attention_scale = 0.25;
  p.layers = {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .rotates = false}};
  return p;
}

class FusedTest : public ::testing::Test {
 protected:
  void add(const std::string& name, std::vector<std::uint64_t> dims, quants::Format format = quants::Format::f32) {
    writer_.add_tensor(name, format, dims, [](std::span<std::byte> bytes) -> Result<void> {
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 61);
      return {};
    });
  }
  // The same tensors with attn_qkv.weight of those dimensions and its bias in that format.
  Result<Assembler::Draft> assemble(quants::Format weight, std::uint64_t rows = 64,
                                    quants::Format bias = quants::Format::f32) {
    add("token_embd.weight", {32, 8});
    add("blk.0.attn_qkv.weight", {32, rows}, weight);
    add("blk.0.attn_qkv.bias", {64}, bias);
    add("blk.0.attn_output.weight", {32, 32});
    bytes_ = writer_.to_memory().value();
    file_.emplace(gguf::File::from_memory(bytes_, "fused").value());
    p_ = shape();
    p_.tied_embeddings = true;
    Assembler a(*file_, p_);
    plan::ValueId x = a.embed();
    for (const Block& b : blocks(a)) {
      x = b.attention(x, {.fused_qkv = true, .qkv_bias = Bias::required});
    }
    return a.finish(a.logits(x));
  }

  gguf::Writer writer_;
  std::vector<std::byte> bytes_;
  std::optional<gguf::File> file_;
  HyperParameters p_;
};

TEST_F(FusedTest, RolesAreRowsOfATensor) {
  const auto draft = assemble(quants::Format::q8_0);
  ASSERT_TRUE(draft) << draft.error().message;
  EXPECT_TRUE(draft->unused_tensors.empty());
  std::vector<std::string_view> names;
  for (const plan::Weight& weight : draft->plan.weights) names.push_back(weight.tensor.name);
  EXPECT_THAT(names, ElementsAre("token_embd.weight", "blk.0.attn_qkv.weight[0:32]", "blk.0.attn_qkv.bias[0:32]",
                                 "blk.0.attn_qkv.weight[32:48]", "blk.0.attn_qkv.bias[32:48]",
                                 "blk.0.attn_qkv.weight[48:64]", "blk.0.attn_qkv.bias[48:64]", "blk.0.attn_output.weight"));

  const gguf::Tensor& weight = *file_->tensor("blk.0.attn_qkv.weight");
  const gguf::Tensor& bias = *file_->tensor("blk.0.attn_qkv.bias");
  const std::size_t row_bytes = quants::info(quants::Format::q8_0).row_bytes(32);
  const std::vector<std::pair<std::size_t, std::size_t>> parts{{0, 32}, {32, 16}, {48, 16}};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto [first, n] = parts[i];
    const gguf::Tensor& rows = draft->plan.weights[1 + 2 * i].tensor;
    EXPECT_EQ(rows.format, quants::Format::q8_0);
    EXPECT_EQ(rows.n_dims, 2u);
    EXPECT_THAT(rows.dims, ElementsAre(32, n, 1, 1));
    EXPECT_EQ(rows.data.data(), weight.data.data() + first * row_bytes);
    EXPECT_EQ(rows.data.size(), n * row_bytes);
    EXPECT_EQ(rows.file_offset, weight.file_offset + first * row_bytes);
    const gguf::Tensor& values = draft->plan.weights[2 + 2 * i].tensor;
    EXPECT_EQ(values.n_dims, 1u);
    EXPECT_THAT(values.dims, ElementsAre(n, 1, 1, 1));
    EXPECT_EQ(values.data.data(), bias.data.data() + first * sizeof(float));
    EXPECT_EQ(values.data.size(), n * sizeof(float));
  }
}

TEST_F(FusedTest, TheWholeTensorHasTheRowsOfAllRoles) {
  const auto draft = assemble(quants::Format::f32, 96);
  ASSERT_FALSE(draft);
  EXPECT_THAT(draft.error().message,
              AllOf(HasSubstr("'blk.0.attn_qkv.weight' has dims {32, 96}"), HasSubstr("[out = 64, in = 32]")));
}

TEST_F(FusedTest, BlocksAreNotCut) {
  const auto draft = assemble(quants::Format::f32, 64, quants::Format::q8_0);
  ASSERT_FALSE(draft);
  EXPECT_THAT(draft.error().message, AllOf(HasSubstr("'blk.0.attn_qkv.bias'"), HasSubstr("cannot be cut at value 48")));
}

}  // namespace
}  // namespace plumb::model
