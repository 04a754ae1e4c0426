// Tokens chosen by wrong rules, and by no rule: a mistake is named if it explains every token.
#include "diagnose/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "diagnose/committed_run.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

using ::testing::HasSubstr;

std::int32_t best(std::span<const float> row) {
  return static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

class Sampling : public ::testing::Test {
 protected:
  // Chooses a token from the logits of all rows so far, [n_rows, vocab].
  using Rule = std::function<std::int32_t(const std::vector<std::span<const float>>& rows)>;

  SamplingCheck after(std::size_t n_steps, const Rule& rule) {
    std::vector<backends::TokenId> tokens = {1, 9, 33, 20, 47, 12};
    const auto n_prompt = static_cast<std::uint32_t>(tokens.size());
    for (std::size_t step = 0; step < n_steps; ++step) {
      const std::vector<backends::Row> of_run = testing::rows_of(tokens, n_prompt);
      std::vector<std::uint32_t> all(tokens.size());
      std::iota(all.begin(), all.end(), 0u);
      Replay replay(model_, of_run, nullptr, all, 1);
      const Values logits = replay.value(model_.plan()->logits);
      std::vector<std::span<const float>> rows;
      for (std::size_t r = 0; r < tokens.size(); ++r) {
        rows.push_back(std::span(*logits).subspan(r * model_.plan()->vocab, model_.plan()->vocab));
      }
      tokens.push_back(rule(rows));
    }
    trace_.emplace(*testing::run_as_trace(model_, tokens, n_prompt, {}, folder_.path() / "t.safetensors"));
    return check_sampling(*Suspect::bind(*model_.plan(), *trace_));
  }

  static std::string named(const SamplingCheck& check) {
    return check.broken == nullptr ? "" : std::string(check.broken->name);
  }

  model::Model model_ = *model::Model::load(*gguf::File::open(model::testing::golden_path("llama", ".gguf")));
  gguf::test::TemporaryFolder folder_;
  std::optional<trace::Trace> trace_;
};

TEST_F(Sampling, OfTheMostLikelyTokensPasses) {
  const SamplingCheck check = after(4, [](const auto& rows) { return best(rows.back()); });
  EXPECT_EQ(check.stage.outcome, Outcome::pass);
  EXPECT_EQ(check.stage.evidence, "all 4 tokens chosen are the most likely ones");
}

TEST_F(Sampling, OfOtherTokensIsUnknownWhereNoMistakeExplainsThem) {
  std::int32_t next = 3;
  const SamplingCheck given = after(5, [&](const auto&) { return next = (next * 7 + 5) % 72; });
  EXPECT_EQ(given.stage.outcome, Outcome::unknown);
  EXPECT_EQ(named(given), "");
  EXPECT_THAT(given.stage.evidence, HasSubstr("right if the engine samples"));
}

TEST_F(Sampling, OfTheLeastLikelyTokenIsNamed) {
  const Rule rule = [](const auto& rows) {
    return static_cast<std::int32_t>(std::min_element(rows.back().begin(), rows.back().end()) - rows.back().begin());
  };
  EXPECT_EQ(named(after(5, rule)), "sampling-least-likely");
  EXPECT_EQ(named(after(2, rule)), "") << "two tokens may be so by chance";
}

TEST_F(Sampling, BesideTheMostLikelyTokenIsNamed) {
  const SamplingCheck check =
      after(5, [](const auto& rows) { return (best(rows.back()) + 1) % static_cast<std::int32_t>(rows.back().size()); });
  EXPECT_EQ(named(check), "sampling-shifted");
  EXPECT_EQ(check.stage.outcome, Outcome::fail);
  EXPECT_EQ(check.detail, "the most likely token's id +1");
}

TEST_F(Sampling, FromTheStepBeforeIsNamed) {
  // Tokens differ from step to step, so that the step before does not have the right token too.
  const SamplingCheck check = after(6, [](const auto& rows) { return best(rows[rows.size() - 2]); });
  EXPECT_EQ(named(check), "sampling-stale");
}

TEST_F(Sampling, FromAnotherRowOfThePromptIsNamed) {
  const SamplingCheck check = after(5, [](const auto& rows) { return best(rows.size() == 6 ? rows[0] : rows.back()); });
  EXPECT_EQ(named(check), "sampling-other-row");
  EXPECT_EQ(check.detail, "row 0 of 6");
}

}  // namespace
}  // namespace plumb::diagnose
