// Faults by another author than the catalogue's (faults/), planted in another engine than the reference
// (faulty_engine.cpp). Each must be located at its op and layer, named right in 95 of 100 cases, and never named wrong with
// high confidence. Runs without faults must not be accused.
//
// CI tries each fault in one model, at an op, a layer and a step that vary from fault to fault. PLUMB_FULL_CORPUS=models
// tries each fault in all models. PLUMB_FULL_CORPUS=1 tries it in all models at the first, a middle and the last layer, in
// the prompt and after it. PLUMB_FAULT=TEXT tries the faults whose names contain TEXT.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "diagnose/committed_run.h"
#include "diagnose/diagnose.h"
#include "diagnose/faulty_engine.h"
#include "diagnose/hypothesis.h"
#include "engine/quantized_canary.h"
#include "gguf/temporary_folder.h"
#include "model/golden.h"
#include "quants/blocks.h"
#include "trace/trace.h"

namespace plumb::diagnose::planted {
namespace {

struct Subject {
  std::string label;
  std::vector<std::byte> bytes;
  model::Model model;
  std::vector<std::int32_t> tokens;
  std::size_t n_prompt = 0;
  std::shared_ptr<Engine> healthy;  // has run the tokens
  Engine::Form form;
  std::shared_ptr<model::Model> original;  // whose tensors the model uses, if it is in another form

  [[nodiscard]] Engine engine() const { return Engine(model.file(), form); }
};

Subject canary(model::FileType type, std::string label) {
  auto loaded = engine::quantized_canary(type);
  EXPECT_TRUE(loaded.has_value()) << loaded.error().message;
  const auto tokens = (*loaded)->tokenizer.encode("<|user|>\nThe sky is blue and 12 + 30?\n<|assistant|>\n",
                                                  {.add_special = true, .parse_special = true});
  return {std::move(label), std::move((*loaded)->bytes), (*loaded)->model, *tokens, tokens->size() - 3};
}

Subject golden(const std::string& name) {
  auto model = model::Model::load(*gguf::File::open(model::testing::golden_path(name, ".gguf")));
  EXPECT_TRUE(model.has_value()) << model.error().message;
  auto tokens = model::testing::read_golden(name).tokens;
  for (std::size_t i = 0; tokens.size() < 14; ++i) tokens.push_back(tokens[i]);
  return {name, {}, std::move(*model), tokens, tokens.size() - 3};
}

// The canary with the layers' matrices in TQ2_0.
Subject ternary_canary() {
  const gguf::File file = *gguf::File::from_memory(engine::canary_bytes(), "canary");
  const quants::FormatInfo& ternary = quants::info(quants::Format::tq2_0);
  gguf::Writer writer;
  for (const auto& [key, value] : file.metadata()) writer.set(std::string(key), value);
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::span dims(tensor.dims.data(), tensor.n_dims);
    if (!tensor.name.starts_with("blk.") || tensor.n_dims < 2 || tensor.dims[0] % ternary.block_size != 0) {
      writer.add_tensor(std::string(tensor.name), tensor.format, dims, tensor.data);
      continue;
    }
    writer.add_tensor(std::string(tensor.name), ternary.format, dims, [&tensor, &ternary](std::span<std::byte> out) {
      const quants::FormatInfo& own = quants::info(tensor.format);
      std::vector<float> w(tensor.n_elements());
      own.decode(tensor.data.data(), w.data(), w.size() / own.block_size);
      for (std::size_t b = 0; b < w.size() / ternary.block_size; ++b) {
        const std::span weights = std::span(w).subspan(b * ternary.block_size, ternary.block_size);
        quants::BlockTQ2_0 block{};
        float size = 0;
        for (const float v : weights) size += std::abs(v) / static_cast<float>(weights.size());
        block.d.set(size);
        for (std::size_t i = 0; i < weights.size(); ++i) {
          const int q = 1 + static_cast<int>(std::clamp(std::round(weights[i] / size), -1.0f, 1.0f));
          std::uint8_t& byte = block.qs[i / 128 * 32 + i % 32];
          byte = static_cast<std::uint8_t>(byte | q << (i % 128 / 32 * 2));
        }
        std::memcpy(&out[b * sizeof block], &block, sizeof block);
      }
      return Result<void>();
    });
  }
  std::vector<std::byte> bytes = *writer.to_memory();
  model::Model model = *model::Model::load(*gguf::File::from_memory(bytes, "ternary canary"));
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 14; ++i) tokens.push_back(5 + i * 7 % 50);
  return {"canary TQ2_0", std::move(bytes), std::move(model), tokens, tokens.size() - 3};
}

// A form in which an engine and a plan compute the same.
struct Form {
  std::string name;
  Engine::Form of_engine;
  std::function<void(plan::Plan&, plan::Attention&, std::uint32_t layer)> of_attention = {};
  std::function<void(plan::Plan&, plan::Rope&)> of_rope = {};
  bool is_read_as_a_whole = false;
};

// The canary's heads turn 32 pairs of components.
std::vector<float> factors(float slope) {
  std::vector<float> all;
  for (std::size_t i = 0; i < 32; ++i) all.push_back(1 + slope * static_cast<float>(i));
  return all;
}

plan::VectorId add_vector(plan::Plan& plan, std::string_view name, const std::vector<float>& values) {
  for (std::uint32_t i = 0; i < plan.weights.size(); ++i) {
    if (plan.weights[i].tensor.name == name) return {{i}};
  }
  gguf::Tensor tensor;
  tensor.name = name;
  tensor.format = quants::Format::f32;
  tensor.n_dims = 1;
  tensor.dims[0] = values.size();
  tensor.data = std::as_bytes(std::span(values));
  plan.weights.push_back({tensor});
  return {{static_cast<std::uint32_t>(plan.weights.size() - 1)}};
}

std::vector<Form> forms() {
  const auto with_windows = [](std::vector<std::size_t> windows, bool chunked, bool causal) {
    return Form{.of_engine =
                    [=](Config& c) {
                      c.windows = windows;
                      c.chunked = chunked;
                      c.causal = causal;
                    },
                .of_attention =
                    [=](plan::Plan&, plan::Attention& op, std::uint32_t layer) {
                      op.window = static_cast<std::uint32_t>(windows[layer]);
                      op.window_kind = chunked ? plan::WindowKind::chunked : plan::WindowKind::sliding;
                      op.causal = causal;
                    },
                .is_read_as_a_whole = !causal};
  };
  const auto with_factors = [](bool is_long) {
    static const std::vector<float> small = factors(0.01f), large = factors(0.04f);
    return Form{.of_engine = [=](Config& c) { c.factors = is_long ? large : small; },
                .of_rope =
                    [=](plan::Plan& plan, plan::Rope& op) {
                      op.factors = add_vector(plan, "rope_factors_short.weight", small);
                      op.long_factors = add_vector(plan, "rope_factors_long.weight", large);
                      op.original_context = is_long ? 8 : 4096;
                    }};
  };
  std::vector<Form> all{with_windows({5, 0, 5}, false, true),
                        with_windows({5, 0, 5}, true, true),
                        with_windows({0, 6, 0}, false, false),
                        {.of_engine = [](Config& c) { c.alibi_max_bias = 8; },
                         .of_attention = [](plan::Plan&, plan::Attention& op, std::uint32_t) { op.alibi_max_bias = 8; }},
                        {.of_engine =
                             [](Config& c) {
                               c.caches = {0, 1, 1};
                             },
                         .of_attention =
                             [](plan::Plan& plan, plan::Attention& op, std::uint32_t layer) {
                               if (layer != 2) return;
                               op.layer = 1;
                               plan.cache.layers[2] = {};
                             }},
                        with_factors(false),
                        with_factors(true)};
  for (std::size_t i = 0; i < all.size(); ++i) all[i].name = form_faults()[i].form;
  return all;
}

Subject in_form(const Form& form) {
  Subject subject = canary(model::FileType::f32, form.name);
  subject.original = std::make_shared<model::Model>(subject.model);
  plan::Plan plan = *subject.model.plan();
  for (plan::Op& op : plan.ops) {
    if (auto* attention = std::get_if<plan::Attention>(&op); attention != nullptr && form.of_attention)
      form.of_attention(plan, *attention, attention->layer);
    if (auto* rope = std::get_if<plan::Rope>(&op); rope != nullptr && form.of_rope) form.of_rope(plan, *rope);
  }
  std::erase_if(plan.ops, [&](const plan::Op& op) {
    const auto* write = std::get_if<plan::KvWrite>(&op);
    return write != nullptr && plan.cache.layers[write->layer].n_kv_heads == 0;
  });
  subject.model = model::Model::with_plan(*gguf::File::from_memory(subject.bytes, form.name), subject.model.parameters(),
                                          std::move(plan));
  subject.form = form.of_engine;
  if (form.is_read_as_a_whole) subject.n_prompt = subject.tokens.size();
  return subject;
}

std::vector<Subject> subjects(const std::filesystem::path& trace) {
  std::vector<Subject> all;
  all.push_back(canary(model::FileType::f32, "canary F32"));
  all.push_back(canary(model::FileType::q8_0, "canary Q8_0"));
  all.push_back(canary(model::FileType::q4_k_m, "canary Q4_K_M"));
  all.push_back(golden("qwen2"));
  all.push_back(golden("qwen3"));
  for (Subject& subject : all) {
    subject.healthy = std::make_shared<Engine>(subject.model.file());
    subject.healthy->run(subject.tokens, subject.n_prompt, trace);
  }
  return all;
}

std::string corpus() {
  const char* const wanted = std::getenv("PLUMB_FULL_CORPUS");
  return wanted == nullptr ? "" : wanted;
}
// Whether a fault is to be tried.
bool is_wanted(std::size_t fault) {
  const char* const part = std::getenv("PLUMB_FAULT");
  return part == nullptr ? testing::is_of_share(fault) : faults()[fault].name.find(part) != std::string::npos;
}

bool whole_corpus() { return corpus() == "1"; }

// A fault with a smaller effect would not be noticed.
constexpr double least_effect = 1e-4;

class PlantedFaults : public ::testing::Test {
 protected:
  struct Outcome {
    bool ran = false, located = false, named = false, wrong_with_confidence = false;
    std::string said;
  };

  [[nodiscard]] std::filesystem::path path() const { return folder_.path() / "t.safetensors"; }

  // Runs the engine and diagnoses its trace.
  Report diagnose(const Subject& subject, Engine& engine) {
    engine.run(subject.tokens, subject.n_prompt, path());
    return diagnosis(subject);
  }
  // Diagnoses the trace of the last run.
  Report diagnosis(const Subject& subject) {
    const auto trace = trace::Trace::open(path());
    EXPECT_TRUE(trace.has_value()) << trace.error().message;
    auto report = diagnose_trace(subject.model, *trace, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return std::move(*report);
  }

  // The last layer of the last run without NaN and infinities; behind these anything follows.
  [[nodiscard]] std::size_t last_layer_of_numbers(std::size_t n_layers) const {
    const auto trace = trace::Trace::open(path());
    for (const trace::Value& value : trace->values()) {
      const auto layer = layer_of(value.name);
      if (!layer || *layer + std::size_t{1} >= n_layers) continue;
      const std::vector<float> data = value.floats();
      if (!std::all_of(data.begin(), data.end(), [](float v) { return std::isfinite(v); }))
        n_layers = *layer + std::size_t{1};
    }
    return n_layers - 1;
  }

  static std::string value_of(const Planted& planted) {
    const bool outside = planted.role == "token_embd" || planted.role == "position_embd" || planted.role == "embd" ||
                         planted.role == "output_norm" || planted.role == "logits";
    return outside ? planted.role : fmt::format("blk.{}.{}", planted.layer, planted.role);
  }

  Outcome try_one(const Subject& subject, const Planted& planted) {
    Engine engine(*subject.healthy, {planted});
    engine.run(subject.tokens, subject.n_prompt, path());
    if (engine.planted()[0].effect < least_effect) return {};
    const Report report = diagnosis(subject);
    Outcome outcome{.ran = true};
    std::set<std::string> places;
    for (const Fault& fault : report.faults) {
      outcome.said += fmt::format("{} ({}, {}) ", fault.hypothesis ? fault.hypothesis->name : "unknown", fault.detail,
                                  name(fault.confidence));
      for (const Place& place : fault.places) {
        places.insert(place.value);
        outcome.said += "at " + place.value + " ";
      }
      const bool right = fault.hypothesis != nullptr && planted.fault->causes.contains(std::string(fault.hypothesis->name));
      if (fault.hypothesis != nullptr && !right && fault.confidence == Confidence::high)
        outcome.wrong_with_confidence = true;
    }
    outcome.located = places == std::set<std::string>{value_of(planted)};
    const auto* first = report.faults.empty() ? nullptr : report.faults[0].hypothesis;
    outcome.named = planted.fault->causes.empty()
                        ? first == nullptr || !outcome.wrong_with_confidence
                        : first != nullptr && planted.fault->causes.contains(std::string(first->name));
    return outcome;
  }

  // Tries each fault at every op, layer and step in which it can be planted.
  void try_everywhere(Subject subject, const std::vector<Plant>& faults) {
    subject.healthy = std::make_shared<Engine>(subject.engine());
    const Report healthy = diagnose(subject, *subject.healthy);
    EXPECT_TRUE(healthy.follows()) << subject.label << '\n' << to_text(healthy, false);
    for (const Plant& fault : faults) {
      bool shown = false;
      for (const std::string& role : fault.roles) {
        for (std::size_t layer = 0; layer < subject.model.parameters().n_layers; ++layer) {
          for (const bool prompt : {true, false}) {
            const Planted planted{.fault = &fault, .role = role, .layer = layer, .prompt = prompt, .decode = !prompt};
            if (value_of(planted) == role && layer != 0) continue;
            const Outcome outcome = try_one(subject, planted);
            if (!outcome.ran) continue;
            shown = true;
            EXPECT_TRUE(outcome.located && outcome.named && !outcome.wrong_with_confidence)
                << subject.label << ": " << fault.name << " at " << value_of(planted)
                << (prompt ? ", prompt: " : ", decode: ") << outcome.said;
          }
        }
      }
      EXPECT_TRUE(shown) << fault.name;
    }
  }

  gguf::test::TemporaryFolder folder_;
};

TEST_F(PlantedFaults, AreLocatedAndNamed) {
  ASSERT_GE(faults().size(), 100u);
  std::size_t n = 0, located = 0, named = 0, wrong = 0, turn = 0;
  std::set<std::string> shown;
  const std::vector<Subject> models = subjects(path());
  for (std::size_t f = 0; f < faults().size(); ++f) {
    if (!is_wanted(f)) continue;
    const Plant& fault = faults()[f];
    for (std::size_t m = 0; m < models.size(); ++m) {
      const Subject& subject = models[(f + m) % models.size()];
      const std::size_t n_layers = subject.model.parameters().n_layers;
      std::vector<Planted> cases;
      for (const std::size_t layer : std::set<std::size_t>{0, n_layers / 2, n_layers - 1}) {
        for (const bool prompt : {true, false}) {
          for (std::size_t r = 0; r < fault.roles.size(); ++r) {
            const std::string& role = fault.roles[(r + turn) % fault.roles.size()];
            const Planted planted{.fault = &fault, .role = role, .layer = layer, .prompt = prompt, .decode = !prompt};
            if (value_of(planted) == role && layer != 0) continue;
            cases.push_back(planted);
          }
          ++turn;
        }
      }
      const std::size_t first = whole_corpus() ? 0 : turn * 7;
      bool ran = false;
      std::set<std::pair<std::size_t, bool>> done;  // for the whole corpus: one op for each layer and phase
      for (std::size_t i = 0; i < cases.size(); ++i) {
        const Planted& planted = cases[(first + i) % cases.size()];
        if (done.contains({planted.layer, planted.prompt})) continue;
        const Outcome outcome = try_one(subject, planted);
        if (!outcome.ran) continue;
        shown.insert(fault.name);
        ran = true;
        done.emplace(planted.layer, planted.prompt);
        ++n;
        located += outcome.located ? 1 : 0;
        named += outcome.named ? 1 : 0;
        wrong += outcome.wrong_with_confidence ? 1 : 0;
        if (!outcome.located || !outcome.named || outcome.wrong_with_confidence) {
          std::printf("%s: '%s' at %s, %s: %s%s%s\n", subject.label.c_str(), fault.name.c_str(), value_of(planted).c_str(),
                      planted.prompt ? "prompt" : "decode", outcome.located ? "" : "NOT LOCATED ",
                      outcome.wrong_with_confidence ? "WRONG WITH HIGH CONFIDENCE " : "", outcome.said.c_str());
        }
        if (!whole_corpus()) break;
      }
      if (ran && corpus().empty()) break;
    }
  }
  std::printf("%zu cases of %zu faults: %zu located, %zu named right, %zu wrong with high confidence\n", n, shown.size(),
              located, named, wrong);
  EXPECT_EQ(located, n);
  EXPECT_GE(100 * named, 95 * n);
  EXPECT_EQ(wrong, 0u);
  for (std::size_t f = 0; f < faults().size(); ++f) {
    const Plant& fault = faults()[f];
    EXPECT_TRUE(!is_wanted(f) || shown.contains(fault.name)) << fault.name << " never showed";
  }
}

TEST_F(PlantedFaults, OfGpt2AreLocatedAndNamed) { try_everywhere(golden("gpt2"), gpt2_faults()); }

TEST_F(PlantedFaults, OfTernaryWeightsAreLocatedAndNamed) { try_everywhere(ternary_canary(), ternary_faults()); }

TEST_F(PlantedFaults, OfOtherFormsAreLocatedAndNamed) {
  const std::vector<Form> all = forms();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (testing::is_of_share(i)) try_everywhere(in_form(all[i]), form_faults()[i].faults);
  }
}

// The short factors of a run of few tokens are wrong if the engine states a cache for many.
TEST_F(PlantedFaults, FactorsFollowFromTheContextThatATraceStates) {
  Form form = forms()[5];
  ASSERT_EQ(form.name, "short factors");
  form.of_rope = [right = form.of_rope](plan::Plan& plan, plan::Rope& op) {
    right(plan, op);
    op.original_context = 100;
  };
  const Subject subject = in_form(form);
  for (const std::uint32_t context : {0U, 100U, 101U}) {
    Engine engine = subject.engine();
    engine.run(subject.tokens, subject.n_prompt, path(), context);
    const Report report = diagnosis(subject);
    EXPECT_EQ(report.follows(), context <= 100) << to_text(report, false);
    if (report.faults.empty()) continue;
    ASSERT_NE(report.faults[0].hypothesis, nullptr);
    EXPECT_EQ(report.faults[0].hypothesis->name, "rope-other-factors");
  }
}

TEST_F(PlantedFaults, OfTwoAndThreeAtOnceAllAreLocated) {
  const auto all = subjects(path());
  std::size_t n = 0, named = 0, n_faults = 0;
  for (std::size_t i = 0; i < (whole_corpus() ? 600u : 60u); ++i) {
    if (!testing::is_of_share(i)) continue;
    const Subject& subject = all[i % all.size()];
    const std::size_t n_layers = subject.model.parameters().n_layers;
    std::vector<Planted> planted;
    for (std::size_t k = 0; k < 2 + i % 2; ++k) {
      const Plant& fault = faults()[(i * 37 + k * 53 + 11) % faults().size()];
      Planted one{.fault = &fault, .role = fault.roles[(i + k) % fault.roles.size()], .layer = (i + k) % n_layers};
      if (value_of(one) == one.role) one.layer = 0;
      if (std::none_of(planted.begin(), planted.end(), [&](const Planted& p) { return value_of(p) == value_of(one); }))
        planted.push_back(one);
    }
    Engine engine(*subject.healthy, planted);
    const Report report = diagnose(subject, engine);
    std::set<std::string> expected, found;
    const std::size_t last = last_layer_of_numbers(n_layers);
    for (const Planted& p : engine.planted()) {
      const bool behind_layers = value_of(p) == p.role && p.role != "token_embd";
      if ((behind_layers ? n_layers - 1 : p.layer) > last || p.effect < least_effect) continue;
      // The fault looks like another arithmetic, and half of the layers have it: docs/diagnosis.md, "What it cannot see".
      const auto n_alike = std::count_if(engine.planted().begin(), engine.planted().end(),
                                         [&](const Planted& other) { return other.role == p.role; });
      const bool looks_like_rounding = std::any_of(p.fault->causes.begin(), p.fault->causes.end(),
                                                   [](const std::string& c) { return c.starts_with("precision-"); });
      if (!looks_like_rounding || n_alike == 1 || 2 * static_cast<std::size_t>(n_alike) < n_layers)
        expected.insert(value_of(p));
    }
    for (const Fault& fault : report.faults) {
      for (const Place& place : fault.places) {
        found.insert(place.value);
        for (const Planted& p : planted) {
          if (value_of(p) == place.value && fault.hypothesis != nullptr &&
              p.fault->causes.contains(std::string(fault.hypothesis->name)))
            ++named;
        }
      }
    }
    ++n;
    n_faults += expected.size();
    std::string label = subject.label + ":";
    for (const Planted& p : planted) label += fmt::format(" '{}' at {};", p.fault->name, value_of(p));
    EXPECT_TRUE(std::includes(found.begin(), found.end(), expected.begin(), expected.end())) << label << '\n'
                                                                                             << to_text(report, false);
    for (const std::string& value : found)
      EXPECT_TRUE(std::any_of(planted.begin(), planted.end(), [&](const Planted& p) { return value_of(p) == value; }))
          << label << " and " << value;
  }
  std::printf("%zu runs with %zu faults, %zu of them named right\n", n, n_faults, named);
  EXPECT_GE(100 * named, 90 * n_faults);
}

TEST_F(PlantedFaults, AreNotSeenWhereThereAreNone) {
  for (const Subject& subject : subjects(path())) {
    Engine engine(subject.model.file());
    const Report report = diagnose(subject, engine);
    EXPECT_TRUE(report.follows()) << subject.label << "\n" << to_text(report, false);
  }
}

}  // namespace
}  // namespace plumb::diagnose::planted
