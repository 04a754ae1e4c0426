// The canary: the tiny model that every Plumb carries (models/canary-f16.gguf, tools/canary), and the questions whose right
// answers are known (models/canary-prompts.tsv).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace plumb::engine {

// The GGUF file, in the program's own read-only data.
std::span<const std::byte> canary_bytes();

struct KnownAnswer {
  std::string_view input;
  std::string_view expected;
};

// In the file's order; the first is the seed's "1" -> "1".
std::vector<KnownAnswer> canary_answers();

}  // namespace plumb::engine
