#include "engine/canary.h"

// Made by plumb_embed() in CMakeLists.txt.
extern "C" {
extern const std::byte plumb_canary_begin[];
extern const std::byte plumb_canary_end[];
extern const char plumb_canary_answers_begin[];
extern const char plumb_canary_answers_end[];
}

namespace plumb::engine {

std::span<const std::byte> canary_bytes() { return {plumb_canary_begin, plumb_canary_end}; }

std::vector<KnownAnswer> canary_answers() {
  std::vector<KnownAnswer> answers;
  std::string_view rest(plumb_canary_answers_begin,
                        static_cast<std::size_t>(plumb_canary_answers_end - plumb_canary_answers_begin));
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() < rest.size() ? line.size() + 1 : line.size());
    const std::size_t tab = line.find('\t');
    if (tab != std::string_view::npos) answers.push_back({line.substr(0, tab), line.substr(tab + 1)});
  }
  return answers;
}

}  // namespace plumb::engine
