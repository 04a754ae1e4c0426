// Healthy runs in other arithmetics than float32.
#include "diagnose/isolation.h"

#include <gtest/gtest.h>

#include <bit>
#include <map>

#include "diagnose/committed_run.h"
#include "diagnose/diagnose.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

float to_bfloat16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

// Attention as an engine computes it whose cache is of bfloat16.
std::vector<float> with_bfloat16_cache(const Site& site) {
  backends::reference::Scene scene = *site.scene;
  scene.n_threads = 1;
  std::map<const float*, std::vector<float>> rounded;
  const auto of = [&](auto right) {
    return [&rounded, right, width = site.scene->plan->value(site.replay->kv_write(0).k).width](
               std::uint32_t layer, std::uint64_t row, std::uint32_t position) -> const float* {
      const float* at = right(layer, row, position);
      std::vector<float>& values = rounded[at];
      for (std::size_t i = values.size(); i < width; ++i) values.push_back(to_bfloat16(at[i]));
      return values.data();
    };
  };
  scene.key = of(site.scene->key);
  scene.cached_value = of(site.scene->cached_value);
  return backends::reference::compute(*site.op, scene);
}

Report diagnosed(const std::vector<std::int32_t>& tokens, std::uint32_t n_prompt) {
  const auto model = model::Model::load(*gguf::File::open(model::testing::golden_path("qwen2", ".gguf")));
  std::vector<Commit> commits;
  for (std::size_t op = 0; op < model->plan()->ops.size(); ++op) {
    if (std::holds_alternative<plan::Attention>(model->plan()->ops[op]))
      commits.push_back({.op = op, .rows = {}, .mistake = with_bfloat16_cache});
  }
  gguf::test::TemporaryFolder folder;
  const auto trace = testing::run_as_trace(*model, tokens, n_prompt, commits, folder.path() / "t.safetensors");
  EXPECT_TRUE(trace.has_value());
  return *diagnose_trace(*model, *trace, {});
}

TEST(Isolation, AllowsACacheOfBfloat16) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 40; ++i) tokens.push_back(i * 7 % 60);
  const Report report = diagnosed(tokens, 38);
  EXPECT_TRUE(report.follows()) << to_text(report, false);
}

// The same error at every position does not average out.
TEST(Isolation, ValuesOfATokenThatComesAgainAreRoundedAlike) {
  const Report report = diagnosed(std::vector<std::int32_t>(90, 1), 88);
  EXPECT_TRUE(report.follows()) << to_text(report, false);
}

}  // namespace
}  // namespace plumb::diagnose
