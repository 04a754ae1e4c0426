// The proof of causes: compares the suspect's run with a run of the reference that makes the named mistakes.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "diagnose/search.h"

namespace plumb::diagnose {

// A match's mistakes: in the rows at fault, in steps that the trace does not show, and also in other rows if the match
// explains them.
std::vector<Commit> commits_of(const CheckedRun& run, const Evidence& evidence, const Match& match);
// For an op without a known cause: puts the suspect's own output in place of the op's.
Commit suspects_own(const CheckedRun& run, const Evidence& evidence);

// Runs the reference with and without the mistakes. None if most of the suspect's last value is NaN or infinite: any
// mistake with this effect would reproduce it.
std::optional<Proof> prove(const CheckedRun& run, std::span<const Commit> mistakes);

}  // namespace plumb::diagnose
