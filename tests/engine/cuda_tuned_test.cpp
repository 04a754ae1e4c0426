// The CUDA backend's tuned path, executed on the CPU by the checker. Its fusions, roundings and kernels give the
// reference's logits within the noise of their roundings, and access only their own memory.
//
// The noise is measured: the reference runs once exactly, and once with an F16 cache and with the inputs of Linears rounded
// as the tuned path does (to halves in prompts; to steps of amax / 16256 in blocks of 32 for single tokens and quantized
// weights).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backends/checker/cuda_checker.h"
#include "backends/gpu/executor.h"
#include "backends/reference/reference.h"
#include "base/half.h"
#include "engine/quantized_canary.h"
#include "quants/format.h"

namespace plumb::engine {
namespace {

using backends::KvType;
using backends::Outputs;

class CudaTunedPath : public testing::TestWithParam<std::tuple<model::FileType, KvType>> {};

TEST_P(CudaTunedPath, GivesTheReferencesLogits) {
  const auto [type, kv_type] = GetParam();
  const auto loaded = quantized_canary(type);
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto plan = (*loaded)->model.plan();
  const text::Tokenizer& tokenizer = (*loaded)->tokenizer;
  auto tuned = backends::gpu::load(plan, backends::make_cuda_checker_device(), {});
  ASSERT_TRUE(tuned) << tuned.error().message;

  std::map<std::string, std::uint64_t, std::less<>> rounded;  // inputs of Linears, with the weight's block size
  for (const plan::Op& op : plan->ops) {
    const auto* linear = std::get_if<plan::Linear>(&op);
    if (linear == nullptr) continue;
    rounded[plan->value(linear->x).name] = quants::info(plan->weight(linear->weight).tensor.format).block_size;
  }
  const auto rounding =
      backends::load_reference(plan, [&](std::string_view name, std::uint64_t rows, std::uint64_t, std::span<float> data) {
        const auto found = rounded.find(name);
        if (found == rounded.end()) return;
        if (rows > 1) {
          for (float& x : data) x = f16_to_f32(f32_to_f16(x));
        } else if (found->second > 1) {
          for (std::size_t start = 0; start < data.size(); start += 32) {
            const auto block = data.subspan(start, 32);
            float largest = 0;
            for (const float x : block) largest = std::max(largest, std::abs(x));
            const float step = largest / (127 * 128);
            for (float& x : block) x = step > 0 ? step * std::nearbyint(x / step) : 0;
          }
        }
      });
  const auto reference = backends::load_reference(plan, {});
  const auto tuned_cache = std::move(*(*tuned)->new_cache(128, kv_type));
  const auto rounding_cache = std::move(*rounding->new_cache(128, KvType::f16));
  const auto reference_cache = std::move(*reference->new_cache(128, kv_type));

  const auto prompt = tokenizer.encode("<|user|>\nupper hello</s>\n<|assistant|>\nHE", {.parse_special = true});
  ASSERT_TRUE(prompt);
  std::vector<std::vector<text::TokenId>> steps{*prompt};
  for (const char* piece : {"L", "L", "O"}) steps.push_back({*tokenizer.find(piece)});
  double noise = 0, difference = 0, power = 0;
  for (const auto& tokens : steps) {
    const auto a = (*tuned)->run({.cache = tuned_cache.get(), .tokens = tokens, .outputs = Outputs::last});
    ASSERT_TRUE(a) << a.error().message;
    const auto b = rounding->run({.cache = rounding_cache.get(), .tokens = tokens, .outputs = Outputs::last});
    const auto c = reference->run({.cache = reference_cache.get(), .tokens = tokens, .outputs = Outputs::last});
    ASSERT_TRUE(b && c);
    for (std::size_t i = 0; i < c->size(); ++i) {
      noise += std::pow(double{(*b)[i]} - (*c)[i], 2);
      difference += std::pow(double{(*a)[i]} - (*c)[i], 2);
      power += std::pow(double{(*c)[i]}, 2);
    }
  }
  // Three times the noise: weights are rounded to halves too, and two equally good roundings differ.
  EXPECT_LE(std::sqrt(difference), 3 * std::sqrt(noise) + 1e-5 * std::sqrt(power));
  EXPECT_LE(std::sqrt(difference), 2e-3 * std::sqrt(power));
}

std::string tuned_test_name(const testing::TestParamInfo<CudaTunedPath::ParamType>& info) {
  return std::string(model::name(std::get<0>(info.param))) + (std::get<1>(info.param) == KvType::f16 ? "_kv16" : "_kv32");
}
INSTANTIATE_TEST_SUITE_P(Canary, CudaTunedPath,
                         testing::Combine(testing::ValuesIn(model::file_types().begin(), model::file_types().end()),
                                          testing::Values(KvType::f16)),
                         tuned_test_name);
INSTANTIATE_TEST_SUITE_P(CanaryF32Cache, CudaTunedPath,
                         testing::Combine(testing::Values(*model::parse_file_type("Q4_K_M")), testing::Values(KvType::f32)),
                         tuned_test_name);

}  // namespace
}  // namespace plumb::engine
