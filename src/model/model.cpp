#include "model/model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/architecture.h"

namespace plumb::model {
namespace {

struct Architecture {
  std::string_view name;
  Result<Draft> (*build)(const gguf::File& file);
};

constexpr std::array known_architectures{
    Architecture{"llama", build_llama},
    Architecture{"qwen2", build_qwen2},
    Architecture{"qwen3", build_qwen3},
};

constexpr auto names = [] {
  std::array<std::string_view, known_architectures.size()> list;
  std::transform(known_architectures.begin(), known_architectures.end(), list.begin(),
                 [](const Architecture& entry) { return entry.name; });
  return list;
}();

}  // namespace

std::span<const std::string_view> architectures() { return names; }

std::string_view name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::none:
      return "none";
    case RopeScaling::linear:
      return "linear";
    case RopeScaling::yarn:
      return "yarn";
  }
  return "unknown";
}

Result<Model> Model::load(gguf::File file) {
  PLUMB_TRY(const std::string_view architecture, file.get_string("general.architecture"));
  const auto* entry = std::find_if(known_architectures.begin(), known_architectures.end(),
                                   [&](const Architecture& a) { return a.name == architecture; });
  if (entry == known_architectures.end()) {
    return fail("{}: key 'general.architecture' is '{}', which Plumb does not know; it runs {}", file.label(), architecture,
                fmt::join(names, ", "));
  }
  PLUMB_TRY(Draft draft, entry->build(file));
  return Model(std::make_shared<const State>(
      State{std::move(file), std::move(draft.parameters), std::move(draft.plan), std::move(draft.unused_tensors)}));
}

}  // namespace plumb::model
