// What a diagnosis found, as data, and the same for people and for programs.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/explain.h"
#include "diagnose/isolation.h"
#include "plan/plan.h"

namespace plumb::diagnose {

enum class Outcome : std::uint8_t { pass, fail, unknown };
std::string_view name(Outcome outcome);

// The stages of a run, in the order in which it passes them.
enum class Stage : std::uint8_t { file, tokens, chat_template, parameters, weights, ops, buffers, cache, sampling };
std::string_view name(Stage stage);

struct StageResult {
  Stage stage = Stage::file;
  Outcome outcome = Outcome::unknown;
  std::string evidence;  // a sentence
};

// A fault. The first of a report is the first in the order of execution.
struct Fault {
  Stage stage = Stage::ops;
  const Hypothesis* hypothesis = nullptr;  // null: the cause is not known
  std::string detail;
  Confidence confidence = Confidence::low;
  std::string evidence;             // a sentence with figures
  std::vector<Place> places;        // of Stage::ops
  std::vector<Cause> alternatives;  // causes that fit as well
  std::vector<std::string> known;   // where the cause is not
};

struct Report {
  std::string engine, model, prompt;
  std::uint32_t n_prompt = 0, n_steps = 0;  // tokens of the prompt; steps after it
  std::size_t n_values = 0;                 // in the trace
  std::vector<std::string> unknown_names;   // names in the trace that the model does not have
  double allowance_factor = 1;
  bool strict = false;
  std::vector<StageResult> stages;
  std::vector<Fault> faults;
  Isolation isolation;
  std::optional<Proof> proof;
  std::vector<std::string> op_values;  // by op of the plan: its output's name, or the op's
  std::vector<std::string> op_kinds;   // by op of the plan
  double seconds = 0;

  [[nodiscard]] bool follows() const { return faults.empty(); }
  // Checks of which rounding alone may be as large as the value: between them and what the trace shows lie many ops.
  [[nodiscard]] std::size_t n_untold() const;
};

// Verdict first, then evidence, stages and a table of ops by role.
std::string to_text(const Report& report, bool color);
// docs/report-schema.json is its schema.
nlohmann::ordered_json to_json(const Report& report);

}  // namespace plumb::diagnose
