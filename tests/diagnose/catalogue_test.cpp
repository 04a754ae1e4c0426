// Commits every mistake of the catalogue in one op of a run. It must be found at this op, and its name must be among the
// causes that fit. These are the catalogue's own mistakes; planted_test.cpp has mistakes by another author.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include "diagnose/committed_run.h"
#include "engine/quantized_canary.h"
#include "model/golden.h"

namespace plumb::diagnose {
namespace {

struct Subject {
  std::string label;
  model::Model model;
  std::unique_ptr<engine::Loaded> owner;
  std::vector<backends::TokenId> tokens;
};

Subject canary(model::FileType type, std::string label) {
  auto loaded = engine::quantized_canary(type);
  EXPECT_TRUE(loaded.has_value()) << loaded.error().message;
  model::Model model = (*loaded)->model;
  const auto tokens = (*loaded)->tokenizer.encode("<|user|>\nThe sky is blue and 12 + 30?\n<|assistant|>\n",
                                                  {.add_special = true, .parse_special = true});
  EXPECT_TRUE(tokens.has_value());
  return {std::move(label), std::move(model), std::move(*loaded), *tokens};
}

Subject golden(const std::string& name) {
  auto file = gguf::File::open(model::testing::golden_path(name, ".gguf"));
  EXPECT_TRUE(file.has_value());
  auto model = model::Model::load(std::move(*file));
  EXPECT_TRUE(model.has_value());
  return {name, std::move(*model), nullptr, model::testing::read_golden(name).tokens};
}

// Whether a mistake changes the rows' output by more than a hundredth of its size.
bool shows(const std::vector<float>& right, const std::vector<float>& wrong) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    const double d = double{wrong[i]} - right[i];
    if (!std::isfinite(d)) return true;
    difference += d * d;
    size += double{right[i]} * right[i];
  }
  return difference > 1e-6 * size && difference > 0;
}

class Catalogue : public ::testing::Test {
 protected:
  // Commits the first variants of each hypothesis that show, in a middle layer if there is one, and diagnoses the run.
  // With `only`, those of these names.
  void try_all(const Subject& subject, const std::set<std::string_view>& only = {}) {
    const plan::Plan& plan = *subject.model.plan();
    const std::uint32_t n_prompt = static_cast<std::uint32_t>(subject.tokens.size()) - 2;
    const std::vector<backends::Row> rows = testing::rows_of(subject.tokens, n_prompt);
    std::vector<std::uint32_t> all(rows.size());
    std::iota(all.begin(), all.end(), 0u);
    const std::uint32_t middle = plan.cache.n_layers() / 2;
    Replay healthy(subject.model, rows, nullptr, all, 1);
    std::size_t turn = 0;
    for (const Hypothesis& hypothesis : catalogue()) {
      if (!only.empty() && !only.contains(hypothesis.name)) continue;
      if (hypothesis.candidates == nullptr || !testing::is_of_share(turn++)) continue;
      std::size_t n_tried = 0;
      for (std::size_t op = 0; op < plan.ops.size() && n_tried < most_variants; ++op) {
        const auto out = plan::output(plan.ops[op]);
        if (!out) continue;
        const auto layer = layer_of(plan.value(*out).name);
        if (layer && *layer != middle) continue;
        const Values right = healthy.value(*out);
        const Question question{
            .op = plan.ops[op], .op_index = op, .replay = healthy, .rows = all, .found = {}, .expected = {}};
        for (const Candidate& candidate : hypothesis.candidates(question)) {
          if (n_tried >= most_variants) break;
          const std::vector<float> wrong = candidate.mistake(Site(healthy, op, all));
          ASSERT_EQ(wrong.size(), right->size()) << hypothesis.name;
          if (!shows(*right, wrong)) continue;
          // An engine with embeddings in a shorter format is coarse, not wrong.
          if (candidate.detail == "to bfloat16" && std::holds_alternative<plan::Embed>(plan.ops[op])) continue;
          ++n_tried;
          Replay wrong_run = healthy;  // with the values before the mistake
          wrong_run.commit({.op = op, .rows = {}, .mistake = candidate.mistake});
          diagnose_one(subject, wrong_run, hypothesis, candidate, op);
        }
      }
      if (n_tried > 0) shown_.insert(std::string(hypothesis.name));
    }
  }

  void diagnose_one(const Subject& subject, Replay& run, const Hypothesis& hypothesis, const Candidate& candidate,
                    std::size_t op) {
    const plan::Plan& plan = *subject.model.plan();
    const std::string value = plan.value(*plan::output(plan.ops[op])).name;
    SCOPED_TRACE(subject.label + ": " + std::string(hypothesis.name) + " (" + candidate.detail + ") at " + value);
    const auto trace = testing::as_trace(run, subject.tokens, static_cast<std::uint32_t>(subject.tokens.size()) - 2,
                                         folder_.path() / "t.safetensors");
    ASSERT_TRUE(trace.has_value()) << trace.error().message;
    const auto report = diagnose_trace(subject.model, *trace, {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    ++n_;
    ASSERT_FALSE(report->faults.empty());
    std::set<std::string> places, names;
    for (const Fault& fault : report->faults) {
      for (const Place& place : fault.places) places.insert(place.value);
      if (fault.hypothesis != nullptr) names.insert(std::string(fault.hypothesis->name));
      for (const Cause& other : fault.alternatives) names.insert(std::string(other.hypothesis->name));
    }
    EXPECT_EQ(places, std::set<std::string>{value});
    EXPECT_TRUE(names.contains(std::string(hypothesis.name))) << "named " << (names.empty() ? "nothing" : *names.begin());
    const Fault& first = report->faults.front();
    if (first.hypothesis != nullptr && first.hypothesis->name == hypothesis.name) ++n_first_;
    if (!report->proof) {  // the run ends in NaN or infinities
      EXPECT_NE(first.confidence, Confidence::high);
      return;
    }
    EXPECT_NE(report->proof->outcome, Proof::Outcome::not_reproduced)
        << report->proof->value << ": " << report->proof->error_with << " with, " << report->proof->error_without
        << " without";
  }

  static constexpr std::size_t most_variants = 2;
  gguf::test::TemporaryFolder folder_;
  std::size_t n_ = 0, n_first_ = 0;
  std::set<std::string> shown_;
};

TEST_F(Catalogue, EveryEntryIsFoundWhereItIsCommitted) {
  try_all(canary(model::FileType::q4_k_m, "canary Q4_K_M"));
  try_all(golden("qwen3"));
  std::printf("%zu mistakes, %zu named first\n", n_, n_first_);
}

// Forms of ops that the canary lacks.
TEST_F(Catalogue, EntriesForOtherArchitectures) {
  const std::set<std::string_view> scaling{"scale-missing", "scale-other"};
  try_all(golden("granite"), scaling);
  try_all(golden("gemma2"), scaling);
  try_all(golden("ministral3"), {"temperature-missing", "temperature-other"});
  try_all(golden("gpt-oss"), {"activation-limit-missing", "activation-alpha", "activation-offset-missing"});
  try_all(golden("dots1"), {"router-bias"});
  try_all(golden("glm4moe-groups"), {"router-bias", "router-groups"});
  const bool has_all = std::getenv("PLUMB_CORPUS_SHARE") == nullptr;
  for (const std::string_view name :
       {"scale-missing", "scale-other", "temperature-missing", "temperature-other", "activation-limit-missing",
        "activation-alpha", "activation-offset-missing", "router-bias", "router-groups"}) {
    EXPECT_TRUE(shown_.contains(std::string(name)) || !has_all) << name << " never showed";
  }
  std::printf("%zu mistakes, %zu named first\n", n_, n_first_);
}

TEST_F(Catalogue, EntriesForOtherFormats) {
  try_all(canary(model::FileType::q8_0, "canary Q8_0"));
  try_all(golden("qwen2"));
  try_all(golden("llama-yarn"));
  std::printf("%zu mistakes, %zu named first\n", n_, n_first_);
}

// The details of the candidates of each hypothesis for the op with this output, in a run in which nothing is wrong.
std::multimap<std::string_view, std::string> candidates_for(const Subject& subject, std::string_view output) {
  std::multimap<std::string_view, std::string> found;
  const plan::Plan& plan = *subject.model.plan();
  const auto rows = testing::rows_of(subject.tokens, static_cast<std::uint32_t>(subject.tokens.size()) - 2);
  std::vector<std::uint32_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0u);
  Replay healthy(subject.model, rows, nullptr, all, 1);
  for (std::size_t op = 0; op < plan.ops.size(); ++op) {
    const auto out = plan::output(plan.ops[op]);
    if (!out || plan.value(*out).name != output) continue;
    const Values right = healthy.value(*out);
    const Question question{
        .op = plan.ops[op], .op_index = op, .replay = healthy, .rows = all, .found = *right, .expected = *right};
    for (const Hypothesis& hypothesis : catalogue()) {
      if (hypothesis.candidates == nullptr) continue;
      for (const Candidate& candidate : hypothesis.candidates(question)) found.emplace(hypothesis.name, candidate.detail);
    }
  }
  EXPECT_FALSE(found.empty()) << "no op has the output " << output;
  return found;
}

TEST(CatalogueCandidates, AreOfThePartsThatTheOpHas) {
  const Subject gpt2 = golden("gpt2"), qwen3 = golden("qwen3");
  const auto expect = [](const Subject& subject, std::string_view output, const std::set<std::string_view>& with,
                         const std::set<std::string_view>& without) {
    const auto found = candidates_for(subject, output);
    for (const std::string_view name : with) EXPECT_TRUE(found.contains(name)) << output << ": " << name;
    for (const std::string_view name : without) EXPECT_FALSE(found.contains(name)) << output << ": " << name;
  };
  const std::set<std::string_view> of_up{"gate-up-exchanged", "activation-on-product", "gate-or-up-missing",
                                         "gate-up-interleaved"};
  expect(qwen3, "blk.0.ffn_act", of_up, {});
  expect(gpt2, "blk.0.ffn_act", {"activation-other"}, of_up);
  for (const auto& [name, detail] : candidates_for(gpt2, "blk.0.ffn_act")) {
    EXPECT_FALSE(detail.starts_with("up clamped") || detail.starts_with("gate clamped")) << detail;
  }
  const std::set<std::string_view> of_layer_norms{"norm-mean-kept", "norm-bias-missing", "norm-other-bias"};
  expect(qwen3, "blk.0.attn_norm", {"norm-eps"}, of_layer_norms);
  expect(gpt2, "blk.0.attn_norm", of_layer_norms, {});
  const std::set<std::string_view> of_positions{"position-off-by-one", "position-of-step"};
  expect(gpt2, "token_embd", {"embedding-row-off-by-one"}, of_positions);
  expect(gpt2, "position_embd", of_positions, {"embedding-row-off-by-one"});
  expect(gpt2, "embd", {"position-missing"}, {"branch-missing"});
  expect(gpt2, "blk.0.attn_resid", {"branch-missing"}, {"position-missing"});
}

TEST(CatalogueText, NamesAreUniqueAndEntriesWhole) {
  std::set<std::string_view> names;
  for (const Hypothesis& h : catalogue()) {
    EXPECT_TRUE(names.insert(h.name).second) << h.name;
    EXPECT_FALSE(h.title.empty());
    EXPECT_TRUE(h.explanation.ends_with('.')) << h.name;
    EXPECT_FALSE(h.remedy.empty()) << h.name;
  }
  EXPECT_GE(names.size(), 60u);
}

}  // namespace
}  // namespace plumb::diagnose
