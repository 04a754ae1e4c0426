// What a plan is made of, in words: the kinds of its ops and their options, without sizes.
#pragma once

#include <string>
#include <vector>

#include "plan/plan.h"

namespace plumb::plan {

// Each part once, in the order of a forward pass: "sliding windows in some layers".
std::vector<std::string> parts(const Plan& plan);

}  // namespace plumb::plan
