#include "diagnose/replay.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "diagnose/committed_run.h"
#include "engine/quantized_canary.h"

namespace plumb::diagnose {
namespace {

TEST(ReplaySite, HasTheRowsInTheOrderGiven) {
  const auto loaded = engine::quantized_canary(model::FileType::f16);
  ASSERT_TRUE(loaded.has_value());
  const std::vector<backends::Row> rows = testing::rows_of({1, 5, 9}, 3);
  Replay replay((*loaded)->model, rows, nullptr, {2}, 1);
  const plan::ValueId id = *replay.plan().find("token_embd");
  const std::size_t width = replay.plan().value(id).width;
  const Values all = replay.value(id);
  const std::vector<std::uint32_t> order = {2, 0, 1};
  const Site site(replay, replay.producer(replay.plan().logits), order);
  const std::span<const float> seen = site.scene.value(id);
  ASSERT_EQ(seen.size(), 3 * width);
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_TRUE(std::equal(seen.begin() + static_cast<std::ptrdiff_t>(i * width),
                           seen.begin() + static_cast<std::ptrdiff_t>((i + 1) * width),
                           all->begin() + static_cast<std::ptrdiff_t>(order[i] * width)))
        << i;
  }
}

}  // namespace
}  // namespace plumb::diagnose
