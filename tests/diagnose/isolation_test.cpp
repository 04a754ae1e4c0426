// The allowances for healthy arithmetic.
#include "diagnose/isolation.h"

#include <gtest/gtest.h>

#include <bit>
#include <map>

#include "diagnose/committed_run.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

float to_bfloat16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

// Attention of an engine with a bfloat16 cache.
std::vector<float> with_bfloat16_cache(const Site& site) {
  backends::reference::Scene scene = site.scene;
  scene.n_threads = 1;
  std::map<const float*, std::vector<float>> rounded;
  const auto of = [&](auto right) {
    return [&rounded, right, width = site.scene.plan->value(site.replay.kv_write(0).k).width](
               std::uint32_t layer, std::uint64_t row, std::uint32_t position) -> const float* {
      const float* at = right(layer, row, position);
      std::vector<float>& values = rounded[at];
      for (std::size_t i = values.size(); i < width; ++i) values.push_back(to_bfloat16(at[i]));
      return values.data();
    };
  };
  scene.key = of(site.scene.key);
  scene.cached_value = of(site.scene.cached_value);
  return site.compute(site.op, scene);
}

// error / allowance of the first layer's attention with such a cache.
double ratio_of(const std::vector<std::int32_t>& tokens) {
  const auto model = model::Model::load(*gguf::File::open(model::testing::golden_path("qwen2", ".gguf")));
  const std::vector<backends::Row> rows = testing::rows_of(tokens, static_cast<std::uint32_t>(tokens.size()));
  const plan::ValueId out = *model->plan()->find("blk.0.attn_ctx");
  Replay right(*model, rows, nullptr, {}, 1), wrong(*model, rows, nullptr, {}, 1);
  const std::size_t op = right.producer(out);
  wrong.commit({.op = op, .rows = {}, .mistake = with_bfloat16_cache});
  const std::vector<float> expected = right.compute(op), found = wrong.compute(op);
  const Arithmetic arithmetic{.name = "a bfloat16 cache", .cache = unit_bf16};
  const std::vector<float> variance = right.variance(op, expected, {}, arithmetic);
  return misfit({found, expected, variance, right.plan().value(out).width});
}

TEST(Variance, AllowsACacheOfBfloat16AndNoMore) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 200; ++i) tokens.push_back(i * 7 % 60);
  EXPECT_LT(ratio_of(tokens), 1);
  EXPECT_GT(ratio_of(tokens), 0.1);
}

// The same error at every position does not average out.
TEST(Variance, OfATokenThatComesAgainAddsUp) {
  const std::vector<std::int32_t> tokens(200, 1);
  EXPECT_LT(ratio_of(tokens), 1);
  EXPECT_GT(ratio_of(tokens), 0.1);
}

}  // namespace
}  // namespace plumb::diagnose
