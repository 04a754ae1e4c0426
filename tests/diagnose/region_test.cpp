// Faults between values that the trace lacks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "diagnose/committed_run.h"
#include "diagnose/diagnose.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

// Half of ffn_up is never written. A sum in ffn_down that ends early would have the same effect.
TEST(Regions, ThatHideTheFaultAllowNoHighConfidence) {
  const auto model = model::Model::load(*gguf::File::open(model::testing::golden_path("qwen2", ".gguf")));
  ASSERT_TRUE(model.has_value());
  const auto tokens = model::testing::read_golden("qwen2").tokens;
  const plan::Plan& plan = *model->plan();
  const plan::ValueId up = *plan.find("blk.1.ffn_up");
  Commit half{.op = 0, .rows = {}, .mistake = [&](const Site& site) {
                std::vector<float> y = site.compute();
                const std::size_t width = plan.value(up).width;
                for (std::size_t i = 0; i < y.size(); ++i) {
                  if (i % width >= width / 2) y[i] = 0;
                }
                return y;
              }};
  while (plan::output(plan.ops[half.op]) != up) ++half.op;
  gguf::test::TemporaryFolder folder;
  for (const bool is_thin : {true, false}) {
    const auto wanted = [&](const std::string& name) {
      return !is_thin || (name.find("ffn_up") == std::string::npos && name.find("ffn_gate") == std::string::npos &&
                          name.find("ffn_act") == std::string::npos);
    };
    const auto trace = testing::run_as_trace(*model, tokens, static_cast<std::uint32_t>(tokens.size()) - 1, {half},
                                             folder.path() / "t.safetensors", {}, wanted);
    ASSERT_TRUE(trace.has_value()) << trace.error().message;
    const auto report = diagnose_trace(*model, *trace, {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    ASSERT_EQ(report->faults.size(), 1u) << to_text(*report, false);
    const Fault& fault = report->faults[0];
    ASSERT_EQ(fault.places.size(), 1u);
    if (is_thin) {
      EXPECT_THAT(fault.places[0].region, ::testing::Contains("blk.1.ffn_up"));
      EXPECT_NE(fault.confidence, Confidence::high) << to_text(*report, false);
    } else {
      EXPECT_EQ(fault.places[0].value, "blk.1.ffn_up");
      ASSERT_NE(fault.hypothesis, nullptr);
      EXPECT_EQ(fault.hypothesis->name, "buffer-partly-written");
      EXPECT_EQ(fault.confidence, Confidence::medium);  // the cause only says what was found
    }
  }
}

}  // namespace
}  // namespace plumb::diagnose
