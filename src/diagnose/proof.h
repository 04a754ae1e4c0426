// The proof of causes: a run of the reference that makes the mistakes named, held against the suspect's.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "diagnose/search.h"

namespace plumb::diagnose {

// A match's mistakes in the rows at fault, in steps that the trace does not show, and in the other rows where they explain
// those too.
std::vector<Commit> commits_of(const CheckedRun& run, const Evidence& evidence, const Match& match);
// Where the cause is not known: the suspect's own output in place of the op's.
Commit suspects_own(const CheckedRun& run, const Evidence& evidence);

// Runs the reference with and without the mistakes. None where the suspect's last value has few numbers: whatever makes
// none would reproduce it.
std::optional<Proof> prove(const CheckedRun& run, std::span<const Commit> mistakes);

}  // namespace plumb::diagnose
