#include "diagnose/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "diagnose/committed_run.h"
#include "diagnose/diagnose.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

model::Model golden_model(const std::string& name) {
  auto file = gguf::File::open(model::testing::golden_path(name, ".gguf"));
  auto model = model::Model::load(std::move(*file));
  EXPECT_TRUE(model.has_value());
  return std::move(*model);
}

const StageResult& stage(const Report& report) {
  return *std::find_if(report.stages.begin(), report.stages.end(),
                       [](const StageResult& s) { return s.stage == Stage::parameters; });
}

TEST(Parameters, AreComparedByName) {
  const model::Model model = golden_model("qwen2");
  const auto& h = model.parameters();
  const DeclaredParameters declared = compare({{"n_heads", std::to_string(h.n_heads)},
                                               {"rms_eps", fmt::format("{:.9g}", static_cast<float>(h.norm_eps))},
                                               {"rope_pairing", "\"adjacent\""},
                                               {"rope_theta", "5e5"},
                                               {"colour", "3"},
                                               {"n_layers", "{"}},
                                              model);
  EXPECT_THAT(declared.agree, ElementsAre("n_heads", "rms_eps"));
  ASSERT_EQ(declared.differ.size(), 2);
  EXPECT_EQ(declared.differ[0], "rope_pairing is adjacent where the file has halves");
  EXPECT_THAT(declared.differ[1], HasSubstr("rope_theta is 500000 where the file has "));
  EXPECT_THAT(declared.unknown, ElementsAre("colour", "n_layers"));
}

TEST(Parameters, OfARunPassWhereItsOpsFollowAndFailWhereTheEngineSaysOtherwise) {
  const model::Model model = golden_model("qwen2");
  const auto tokens = model::testing::read_golden("qwen2").tokens;
  gguf::test::TemporaryFolder folder;
  const auto diagnosed = [&](std::vector<trace::Parameter> parameters) {
    const auto trace = testing::run_as_trace(model, tokens, static_cast<std::uint32_t>(tokens.size()) - 1, {},
                                             folder.path() / "t.safetensors", std::move(parameters));
    EXPECT_TRUE(trace.has_value());
    return *diagnose_trace(model, *trace, {});
  };
  const Report silent = diagnosed({});
  EXPECT_EQ(stage(silent).outcome, Outcome::pass) << stage(silent).evidence;
  EXPECT_TRUE(silent.follows());
  const Report other = diagnosed({{"rms_eps", "0.5"}});
  EXPECT_EQ(stage(other).outcome, Outcome::fail);
  ASSERT_EQ(other.faults.size(), 1);
  EXPECT_EQ(other.faults[0].hypothesis->name, "parameter-differs");
  EXPECT_EQ(other.faults[0].confidence, Confidence::medium);
}

}  // namespace
}  // namespace plumb::diagnose
