// The sampling stage: whether the chosen tokens are the most likely ones by the run's own logits. An engine may sample, and
// a trace's tokens may have been given to the engine. Other tokens are therefore no fault, unless one mistake explains all
// of them.
#pragma once

#include <string>

#include "diagnose/hypothesis.h"
#include "diagnose/report.h"
#include "diagnose/suspect.h"

namespace plumb::diagnose {

struct SamplingCheck {
  StageResult stage;
  const Hypothesis* broken = nullptr;  // the mistake that explains every token; null: none is named
  std::string detail;
};

SamplingCheck check_sampling(const Suspect& suspect);

}  // namespace plumb::diagnose
