// Diagnoses a run: which ops do not follow from their own inputs, and why. docs/diagnosis.md has the method.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "diagnose/explain.h"
#include "diagnose/isolation.h"
#include "diagnose/prompt.h"
#include "diagnose/report.h"
#include "engine/engine.h"
#include "model/model.h"
#include "trace/trace.h"

namespace plumb::diagnose {

struct Settings {
  Allowance allowance;
  SearchLimits limits;
  std::uint32_t n_threads = 0;        // 0: the cores this process may use
  std::optional<Prompt> prompt;       // the prompt that the run should have had; none: the trace's
  engine::ChatSettings chat;          // how it should have become text: a template in place of the file's, variables
  std::vector<text::TokenId> tokens;  // in place of a prompt, the ids that the run should have had; empty: not known
  std::string file_sha256;            // of the model's file; empty: not compared
  OnProgress progress;                // may be empty
};

// Errors: a trace that does not fit the model (see Suspect::bind), or was made from another file.
Result<Report> diagnose_trace(const model::Model& model, const trace::Trace& trace, const Settings& settings);

}  // namespace plumb::diagnose
