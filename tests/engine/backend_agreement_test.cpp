// The canary in every file type, on every way to run. Each op is compared with the reference, within the difference that
// diagnosis allows (backends/held.h). The logits of the whole run differ from the reference's by about as much as the same
// rounding changes the reference's own logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "backends/held.h"
#include "backends/reference/reference.h"
#include "base/half.h"
#include "engine/quantized_canary.h"
#include "quants/format.h"

namespace plumb::engine {
namespace {

using backends::KvType;
using backends::Outputs;
using backends::Way;

// A prompt's pass and steps after it.
std::vector<std::vector<text::TokenId>> steps_for(const text::Tokenizer& tokenizer) {
  const auto prompt = tokenizer.encode("<|user|>\nupper hello</s>\n<|assistant|>\nHE", {.parse_special = true});
  std::vector<std::vector<text::TokenId>> steps{*prompt};
  for (const char* piece : {"L", "L", "O"}) steps.push_back({*tokenizer.find(piece)});
  return steps;
}

class BackendAgreement : public testing::TestWithParam<std::tuple<std::string, std::string, KvType>> {
 protected:
  void SetUp() override {
    if (const auto backend = way_.make(); !backend) GTEST_SKIP() << backend.error().message;
    auto loaded = quantized_canary(*model::parse_file_type(std::get<1>(GetParam())));
    ASSERT_TRUE(loaded) << loaded.error().message;
    loaded_ = std::move(*loaded);
  }

  const Way& way_ = backends::way(std::get<0>(GetParam()));
  const KvType kv_type_ = std::get<2>(GetParam());
  std::unique_ptr<Loaded> loaded_;
};

TEST_P(BackendAgreement, EachOpFollowsFromItsInputs) {
  if (way_.fused) GTEST_SKIP() << "ops that run together show nothing between them";
  const auto plan = loaded_->model.plan();
  backends::Held held(plan, way_, kv_type_, 128);
  for (const auto& tokens : steps_for(loaded_->tokenizer)) held.step(tokens, Outputs::all);
  EXPECT_GT(held.n_checked(), 3 * 10 * plan->cache.n_layers());
  // A bias or a truncation would double the errors.
  const double rms = held.rms_of_quantized();
  EXPECT_TRUE(rms == 0 || (rms > 0.7 && rms < 1.3)) << rms;
}

// Rounds a Linear's inputs as the way does.
void round_inputs(const Way& way, std::uint64_t block, std::uint64_t n_rows, std::span<float> data) {
  const diagnose::Arithmetic arithmetic = way.arithmetic(n_rows);
  if (arithmetic.operand > 0) {
    for (float& x : data) x = f16_to_f32(f32_to_f16(x));
  } else if (block > 1 && arithmetic.activations > 0) {
    if (way.fused) block = 32;
    for (std::size_t start = 0; start < data.size(); start += block) {
      const auto part = data.subspan(start, block);
      float largest = 0;
      for (const float x : part) largest = std::max(largest, std::abs(x));
      const float step = largest / static_cast<float>(127 * arithmetic.activations);
      for (float& x : part) x = step > 0 ? step * std::nearbyint(x / step) : 0;
    }
  }
}

TEST_P(BackendAgreement, LogitsStayWithinTheNoiseOfTheirFormats) {
  const auto plan = loaded_->model.plan();
  std::map<std::string, std::uint64_t, std::less<>> rounded;  // inputs of Linears, with the block of the weight's format
  for (const plan::Op& op : plan->ops) {
    const auto* linear = std::get_if<plan::Linear>(&op);
    if (linear == nullptr) continue;
    rounded[plan->value(linear->x).name] = quants::info(plan->weight(linear->weight).tensor.format).block_size;
  }
  const auto rounding =
      backends::load_reference(plan, [&](std::string_view name, std::uint64_t rows, std::uint64_t, std::span<float> data) {
        if (const auto found = rounded.find(name); found != rounded.end()) round_inputs(way_, found->second, rows, data);
      });
  const auto reference = backends::load_reference(plan, {});
  const auto executor = std::move(*(*way_.make())->load(plan, way_.options));
  const auto cache = std::move(*executor->new_cache(128, kv_type_));
  // An F16 cache adds noise too: one of the two runs has none, so that their difference includes both kinds. Tuned kernels
  // round their own rounded values to the cache, so there both runs have one.
  const auto rounding_cache = std::move(*rounding->new_cache(128, way_.fused ? KvType::f16 : KvType::f32));
  const auto reference_cache = std::move(*reference->new_cache(128, kv_type_));
  const Outputs outputs = way_.fused ? Outputs::last : Outputs::all;
  double noise = 0, difference = 0, power = 0;
  for (const auto& tokens : steps_for(loaded_->tokenizer)) {
    const auto a = executor->run({.cache = cache.get(), .tokens = tokens, .outputs = outputs});
    ASSERT_TRUE(a) << a.error().message;
    const auto b = rounding->run({.cache = rounding_cache.get(), .tokens = tokens, .outputs = outputs});
    const auto c = reference->run({.cache = reference_cache.get(), .tokens = tokens, .outputs = outputs});
    ASSERT_TRUE(b && c);
    for (std::size_t i = 0; i < c->size(); ++i) {
      noise += std::pow(double{(*b)[i]} - (*c)[i], 2);
      difference += std::pow(double{(*a)[i]} - (*c)[i], 2);
      power += std::pow(double{(*c)[i]}, 2);
    }
  }
  // Twice the noise, since two equally good roundings differ; three times where weights are rounded to halves too. Plus
  // float32's own noise, for files in which nothing is rounded.
  EXPECT_LE(std::sqrt(difference), (way_.fused ? 3 : 2) * std::sqrt(noise) + 1e-5 * std::sqrt(power));
  EXPECT_LE(std::sqrt(difference), (way_.fused ? 2e-3 : HUGE_VAL) * std::sqrt(power));
}

// All file types on the processor and on tuned kernels. backends/op_test.cpp tests kernels with 8-bit activations in each
// format; here one file of each family of blocks is enough.
std::vector<std::tuple<std::string, std::string, KvType>> runs() {
  std::vector<std::tuple<std::string, std::string, KvType>> all;
  for (const Way& way : backends::ways()) {
    const bool every =
        way.fused || (way.name.starts_with("cpu") && way.options.activations == backends::Activations::int16);
    for (const model::FileTypeInfo& listed : model::file_types()) {
      const model::FileType type = listed.type;
      const std::string name(model::name(type));
      if (every || name == "Q8_0" || name == "Q4_1" || name == "Q4_K_M") all.emplace_back(way.name, name, KvType::f16);
    }
    all.emplace_back(way.name, "Q4_K_M", KvType::f32);
  }
  return all;
}
std::string name_of(const testing::TestParamInfo<BackendAgreement::ParamType>& run) {
  const auto& [way, type, kv_type] = run.param;
  return way + "_" + type + (kv_type == KvType::f16 ? "_kv16" : "_kv32");
}
INSTANTIATE_TEST_SUITE_P(Canary, BackendAgreement, testing::ValuesIn(runs()), name_of);

}  // namespace
}  // namespace plumb::engine
