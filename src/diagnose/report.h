// The report of a diagnosis: as data, as text and as a page for people, and as JSON for programs.
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

// The stages of a run, in order.
enum class Stage : std::uint8_t { file, tokens, chat_template, parameters, weights, ops, buffers, cache, sampling };
std::string_view name(Stage stage);

struct StageResult {
  Stage stage = Stage::file;
  Outcome outcome = Outcome::unknown;
  std::string evidence;  // a sentence
};

// A fault. A report's faults are in the order of execution.
struct Fault {
  Stage stage = Stage::ops;
  const Hypothesis* hypothesis = nullptr;  // null: unknown cause
  std::string detail;
  Confidence confidence = Confidence::low;
  std::string evidence;             // a sentence with figures
  std::vector<Place> places;        // for Stage::ops
  std::vector<Cause> alternatives;  // causes that fit as well
  std::vector<std::string> known;   // what is known about a fault without a cause
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
  // The number of checks that prove nothing: rounding alone may be as large as the value, since many ops lie between the
  // value and the trace's other values.
  [[nodiscard]] std::size_t n_untold() const;
};

// Verdict first, then evidence, stages and a table of ops by role.
std::string to_text(const Report& report, bool color);
// docs/report-schema.json is its schema.
nlohmann::ordered_json to_json(const Report& report);
// A self-contained page for a browser, in UTF-8, without network, fonts or scripts from elsewhere. The element with the id
// "report" holds to_json(report), in ASCII and without '<', '>' and '&', so that no text of a prompt, a name or an engine
// can end it; the page's script makes text nodes of it. Bytes that are not UTF-8 become U+FFFD. The static part is
// report.html.
std::string to_html(const Report& report);

}  // namespace plumb::diagnose
