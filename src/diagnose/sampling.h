// The sampling stage: whether the tokens chosen are those that the run's own logits make most likely. An engine may
// sample, and a trace may hold tokens that were given to it: other tokens are no fault unless one mistake explains them
// all.
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
