// The parameters stage: compares the trace's "parameters" with the model's file. (The catalogue finds wrong parameters that
// show in ops.)
#pragma once

#include <string>
#include <vector>

#include "model/model.h"
#include "trace/trace.h"

namespace plumb::diagnose {

struct DeclaredParameters {
  std::vector<std::string> agree;    // names
  std::vector<std::string> differ;   // "rope_theta is 500000 where the file has 10000"
  std::vector<std::string> unknown;  // names that a trace may not give, or that this model does not have
};

// Numbers agree if they are the same float32.
DeclaredParameters compare(const std::vector<trace::Parameter>& declared, const model::Model& model);

}  // namespace plumb::diagnose
