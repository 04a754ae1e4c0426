// Faults hidden by a coarse arithmetic: ops that follow only in this arithmetic, and that a mistake explains far better.
#pragma once

#include "diagnose/search.h"

namespace plumb::diagnose {

// Marks their checks as at fault.
void mark_hidden_faults(CheckedRun& run, Search& search);

}  // namespace plumb::diagnose
