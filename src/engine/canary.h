// The canary: the tiny model inside every build of Plumb (models/canary-f16.gguf, made by tools/canary), and questions with
// known answers (models/canary-prompts.tsv).
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

// In the file's order. The first is "1" -> "1", the prompt of the bug report that Plumb began with.
std::vector<KnownAnswer> canary_answers();

}  // namespace plumb::engine
