// The kernels that the CUDA backend launches for a step, in order: the ops that it fuses, and the ops that it leaves to the
// shared kernels.
#include <gtest/gtest.h>

#include "backends/checker/checker.h"
#include "backends/cuda/tuning.h"
#include "backends/gpu/executor.h"
#include "backends/small_model.h"

namespace plumb::backends {
namespace {

// Runs the tuned path on the checker, and notes the names of its launches.
class NotingDevice final : public gpu::Device {
 public:
  explicit NotingDevice(std::string& names) : names_(names) {}
  [[nodiscard]] std::string_view name() const override { return "noting"; }
  [[nodiscard]] std::string description() const override { return "for a test"; }
  [[nodiscard]] bool isolates_values() const override { return true; }
  [[nodiscard]] std::uint32_t preferred_batch() const override { return tuned_->preferred_batch(); }
  Result<std::unique_ptr<gpu::Memory>> allocate(std::uint64_t bytes, std::string_view what) override {
    return tuned_->allocate(bytes, what);
  }
  Result<void> upload(const gpu::View& to, std::span<const std::byte> from) override { return tuned_->upload(to, from); }
  Result<void> download(const gpu::View& from, std::span<std::byte> to) override { return tuned_->download(from, to); }
  Result<bool> prepare(const gpu::StepContext& step) override { return tuned_->prepare(step); }
  std::size_t emit(const gpu::StepContext& step, std::size_t op, gpu::Launches& to) override {
    return tuned_->emit(step, op, to);
  }
  Result<void> run(std::span<const gpu::Launch> launches, std::uint64_t tag) override {
    for (const gpu::Launch& launch : launches) {
      names_ += launch.native ? static_cast<const cuda::TunedLaunch&>(*launch.native).name
                              : gpu::kernel_infos()[static_cast<std::size_t>(launch.kernel)].name;
      names_ += ' ';
    }
    return tuned_->run(launches, tag);
  }

 private:
  std::unique_ptr<gpu::Device> tuned_ = make_cuda_checker_device();
  std::string& names_;
};

struct Case {
  std::string_view name;
  std::vector<std::pair<std::size_t, Outputs>> sequences;  // tokens of each in the step
  quants::Format format;
  std::string_view launches;
  void (*vary)(ModelShape&) = [](ModelShape&) {};
  KvType type = KvType::f16;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class CudaLaunches : public testing::TestWithParam<Case> {};

TEST_P(CudaLaunches, AreTheseInThisOrder) {
  const Case& c = GetParam();
  ModelShape shape;
  shape.n_layers = 1;
  shape.d = shape.d_ff = 64;
  shape.n_heads = 4;
  shape.head_dim = shape.n_rot = 64;
  shape.format = c.format;
  c.vary(shape);
  const SmallModel model(shape);
  std::string names;
  auto executor = gpu::load(model.plan, std::make_unique<NotingDevice>(names), {.max_batch = 256});
  ASSERT_TRUE(executor) << executor.error().message;
  auto caches = (*executor)->new_caches(static_cast<std::uint32_t>(c.sequences.size()), 200, c.type);
  ASSERT_TRUE(caches) << caches.error().message;
  const auto tokens = some_tokens(200);
  std::vector<Step> steps;
  for (std::size_t i = 0; i < c.sequences.size(); ++i) {
    steps.push_back({(*caches)[i].get(), std::span(tokens).first(c.sequences[i].first), c.sequences[i].second});
  }
  logits_of(**executor, steps);
  EXPECT_EQ(names, std::string(c.launches) + " ");
}

using quants::Format;
constexpr auto last = Outputs::last;
constexpr auto all = Outputs::all;
constexpr auto biased = [](ModelShape& shape) { shape.bias = true; };

// clang-format off
INSTANTIATE_TEST_SUITE_P(
    Steps, CudaLaunches,
    testing::Values(Case{"OneToken",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write decode_attention attention_merge_round "
                         "multiply norm_round multiply round_row multiply norm_round multiply"},
                    Case{"OneTokenOfFloats",
                         {{1, last}},
                         Format::f16,
                         "embed_f16 multiply normalize rope_write decode_attention attention_merge_round multiply multiply "
                         "multiply multiply"},
                    Case{"OneTokenF32Cache",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write attention_f32 attention_merge round_row "
                         "multiply norm_round multiply round_row multiply norm_round multiply",
                         [](ModelShape&) {},
                         KvType::f32},
                    Case{"OneTokenWithBias",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write decode_attention attention_merge_round "
                         "multiply norm_round multiply round_row multiply norm_round multiply",
                         biased},
                    Case{"OneTokenCapped",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write attention_f16 attention_merge round_row "
                         "multiply norm_round multiply round_row multiply norm_round multiply soft_cap",
                         [](ModelShape& shape) { shape.soft_cap = 2; }},
                    // Heads of 64 in the first layer and of 16 in the second; the third reads the second's cache.
                    Case{"OneTokenOfOtherHeadsByLayer",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write decode_attention attention_merge_round "
                         "multiply norm_round multiply round_row multiply "
                         "norm_round multiply normalize rope_write attention_f16 attention_merge round_row multiply "
                         "norm_round multiply round_row multiply "
                         "norm_round multiply normalize rope attention_f16 attention_merge round_row multiply "
                         "norm_round multiply round_row multiply norm_round multiply",
                         [](ModelShape& shape) {
                           shape.layers = {{2, 64}, {1, 16}, {}};
                           shape.n_layers = 3;
                           shape.n_rot = 6;
                         }},
                    Case{"PromptThatIsReadAsAWhole",
                         {{6, last}},
                         Format::f32,
                         "embed_f16 normalize linear_mat_f32 linear_mat_f32 linear_mat_f32 normalize rope_write "
                         "attention_f16 attention_merge linear_mat_f32 add normalize linear_mat_f32 linear_mat_f32 "
                         "activated linear_mat_f32 add normalize multiply",
                         [](ModelShape& shape) { shape.causal = false; }},
                    Case{"OneTokenWithExperts",
                         {{1, last}},
                         Format::q8_0,
                         "embed_f16 norm_round multiply normalize rope_write decode_attention attention_merge_round "
                         "multiply norm_round multiply top_k expert_weights linear_vec_q8_0 linear_vec_q8_0 activated "
                         "linear_vec_q8_0 expert_sum add norm_round multiply",
                         [](ModelShape& shape) {
                           shape.n_experts = 4;
                           shape.n_used = 2;
                         }},
                    Case{"OneTokenOfOddSizes",
                         {{1, last}},
                         Format::f16,
                         "embed_f16 normalize linear_vec_f16 linear_vec_f16 linear_vec_f16 normalize rope_write "
                         "attention_f16 attention_merge linear_vec_f16 add normalize linear_vec_f16 linear_vec_f16 activated "
                         "multiply normalize linear_vec_f16",
                         [](ModelShape& shape) {
                           shape.d = 48;
                           shape.head_dim = 10;
                           shape.n_rot = 6;
                         }},
                    Case{"ThreeTokens",
                         {{3, last}},
                         Format::q8_0,
                         "embed_f16 norm_rows_to_half multiply_few normalize rope_write decode_attention "
                         "attention_merge_round rows_to_half multiply_few norm_rows_to_half multiply_few rows_to_half "
                         "multiply_few normalize round_row multiply"},
                    Case{"ThreeTokensOfF32",
                         {{3, all}},
                         Format::f32,
                         "embed_f16 normalize linear_vec_f32 linear_vec_f32 linear_vec_f32 normalize rope_write "
                         "decode_attention attention_merge_round linear_vec_f32 add normalize linear_vec_f32 "
                         "linear_vec_f32 activated linear_vec_f32 add normalize linear_vec_f32"},
                    Case{"ThreeSequences",
                         {{1, last}, {1, last}, {1, last}},
                         Format::q4_0,
                         "embed_f16 norm_rows_to_half multiply_few normalize rope_write decode_attention "
                         "attention_merge_round rows_to_half multiply_few norm_rows_to_half multiply_few rows_to_half "
                         "multiply_few norm_rows_to_half multiply_few"},
                    Case{"Prompt",
                         {{80, last}},
                         Format::q8_0,
                         "embed_f16 normalize activations_to_half weights_to_half cublasLt weights_to_half cublasLt "
                         "weights_to_half cublasLt normalize rope_write prompt_attention activations_to_half "
                         "weights_to_half cublasLt add normalize activations_to_half weights_to_half cublasLt "
                         "weights_to_half cublasLt activated activations_to_half weights_to_half cublasLt add normalize "
                         "round_row multiply"},
                    Case{"PromptOfFloatsAllOutputs",
                         {{80, all}},
                         Format::f16,
                         "embed_f16 normalize activations_to_half cublasLt add_bias cublasLt add_bias cublasLt normalize "
                         "rope_write prompt_attention activations_to_half cublasLt add normalize activations_to_half "
                         "cublasLt cublasLt activated activations_to_half cublasLt add normalize activations_to_half cublasLt",
                         biased},
                    Case{"PromptBesideSingleTokens",
                         {{1, last}, {1, last}, {80, last}, {1, last}},
                         Format::q8_0,
                         "embed_f16 normalize activations_to_half weights_to_half cublasLt weights_to_half cublasLt "
                         "weights_to_half cublasLt normalize rope_write prompt_attention decode_attention "
                         "attention_merge_round activations_to_half weights_to_half cublasLt add normalize "
                         "activations_to_half weights_to_half cublasLt weights_to_half cublasLt activated activations_to_half "
                         "weights_to_half cublasLt add normalize rows_to_half multiply_few"}),
    [](const auto& param) { return std::string(param.param.name); });
// clang-format on

}  // namespace
}  // namespace plumb::backends
