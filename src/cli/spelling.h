// What the hand types: the spellings of llama.cpp and Ollama, values that begin with a dash, and a suggestion for what is
// misspelt. Works on the words of the command line before CLI11 reads them.
#pragma once

#include <CLI/App.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace plumb::cli {

// "; did you mean 'bench'?": names the one or two of `known` that `word` most likely was meant to be. Empty where none is
// near. Near are names that `word` begins, and names within one edit for each three letters; an edit is a letter lost,
// added, changed, or exchanged with the next.
std::string suggestion(std::string_view word, std::span<const std::string> known);

// The words after a command's name, as CLI11 shall read them:
// - a name of several letters behind one dash becomes its long one (-ngl: --gpu-layers), so that no word is ever read as
//   a cluster of options; -n5 and -t4 are -n 5 and -t 4;
// - -hf OWNER/REPO[:QUANT] (with -hff FILE) and -mu URL become --model and --yes;
// - a value is joined to its option (--prompt=-1), so that it may begin with a dash.
// Error: an option that the command does not have; one that Plumb does not have yet, by name.
Result<std::vector<std::string>> arrange(const CLI::App& command, std::span<const std::string> words);

// Adds options of llama.cpp that change nothing here, such as --no-mmap and -ub: they are accepted, and the help lists them
// in a group of their own. Those that the command has already are left out.
void add_accepted(CLI::App& command);

}  // namespace plumb::cli
