#include "model/model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "model/architectures.h"

namespace plumb::model {

std::vector<std::string_view> architecture_names() {
  std::vector<std::string_view> names;
  names.reserve(architectures::all.size());
  for (const Architecture* entry : architectures::all) names.push_back(entry->name);
  return names;
}

std::string_view name(RopeScaling scaling) {
  if (scaling == RopeScaling::none) return "none";
  return scaling == RopeScaling::linear ? "linear" : "yarn";
}

Result<Model> Model::load(gguf::File file) {
  PLUMB_TRY(const std::string_view architecture, file.get_string("general.architecture"));
  const auto entry = std::find_if(architectures::all.begin(), architectures::all.end(),
                                  [&](const Architecture* a) { return a->name == architecture; });
  if (entry == architectures::all.end()) {
    return fail("{}: key 'general.architecture' is '{}', which Plumb does not know; it runs {}", file.label(), architecture,
                fmt::join(architecture_names(), ", "));
  }
  PLUMB_TRY(const HyperParameters parameters, (*entry)->read(Keys(file, (*entry)->name)));
  Assembler assembler(file, parameters);
  PLUMB_TRY(Assembler::Draft draft, assembler.finish((*entry)->forward(assembler)));
  return Model(std::make_shared<const State>(
      State{std::move(file), parameters, std::move(draft.plan), std::move(draft.unused_tensors), std::move(draft.names)}));
}

}  // namespace plumb::model
