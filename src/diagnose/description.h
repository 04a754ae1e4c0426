// Describes an op at fault without a known cause, in sentences: its rows, columns and heads, a fit, another value that it
// resembles.
#pragma once

#include <string>
#include <vector>

#include "diagnose/evidence.h"

namespace plumb::diagnose {

std::vector<std::string> description(CheckedRun& run, const Evidence& evidence);

}  // namespace plumb::diagnose
