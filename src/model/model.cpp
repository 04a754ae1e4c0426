#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "gguf/kind.h"
#include "model/architectures.h"
#include "model/unknown.h"

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

namespace {

// Names on indented lines of a readable width.
std::string wrapped(const std::vector<std::string_view>& names) {
  constexpr std::size_t width = 96;
  std::string text, line;
  for (const std::string_view name : names) {
    if (line.size() + name.size() > width) text += "\n    " + std::exchange(line, "");
    line += fmt::format("{}{}{}", line.empty() ? "" : " ", name, name == names.back() ? "" : ",");
  }
  return text + "\n    " + line;
}

// The architecture of a file that may hold a model with weights.
Result<const Architecture*> architecture_of(const gguf::File& file) {
  PLUMB_CHECK(gguf::expect_model(file));
  PLUMB_TRY(const std::string_view name, file.get_string("general.architecture"));
  const auto entry = std::find_if(architectures::all.begin(), architectures::all.end(),
                                  [&](const Architecture* a) { return a->name == name; });
  if (entry == architectures::all.end()) {
    return fail(
        "{}: key 'general.architecture' is '{}', which Plumb does not know. Use a model of an architecture that it runs."
        "{}\n  Plumb runs {} architectures:{}",
        file.label(), name, what_it_asks_for(file, name), architecture_names().size(), wrapped(architecture_names()));
  }
  if (file.tensors().empty()) return fail("{}: is a vocabulary without weights; 'plumb tokenize' takes it", file.label());
  return *entry;
}

// The blocks that the file's tensors are of, by their names.
std::uint32_t blocks_in(const gguf::File& file) {
  std::uint32_t n = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    constexpr std::string_view prefix = "blk.";
    if (!tensor.name.starts_with(prefix)) continue;
    std::uint32_t block = 0;
    const char* const end = tensor.name.data() + tensor.name.size();
    const auto [last, error] = std::from_chars(tensor.name.data() + prefix.size(), end, block);
    if (error == std::errc() && last != end && *last == '.' && block < file.tensors().size()) n = std::max(n, block + 1);
  }
  return n;
}

}  // namespace

std::vector<std::string> problems(const gguf::File& file) {
  const auto architecture = architecture_of(file);
  if (!architecture) return {architecture.error().message};
  Keys keys(file, (*architecture)->name);
  HyperParameters parameters = (*architecture)->read(keys);
  if (parameters.n_layers == 0) parameters.n_layers = blocks_in(file);
  parameters.layers.resize(parameters.n_layers);
  Assembler assembler(file, parameters);
  const auto draft = assembler.finish((*architecture)->forward(assembler));
  std::vector<std::string> found = keys.complaints();
  found.insert(found.end(), assembler.complaints().begin(), assembler.complaints().end());
  if (!draft && found.empty()) found.push_back(draft.error().message);
  return found;
}

Model Model::with_plan(gguf::File file, HyperParameters parameters, plan::Plan plan) {
  return Model(std::make_shared<const State>(State{std::move(file), std::move(parameters), std::move(plan), {}, {}}));
}

Result<Model> Model::load(gguf::File file) {
  PLUMB_TRY(const Architecture* architecture, architecture_of(file));
  Keys keys(file, architecture->name);
  const HyperParameters parameters = architecture->read(keys);
  if (!keys.complaints().empty()) return fail("{}", keys.complaints().front());
  Assembler assembler(file, parameters);
  PLUMB_TRY(Assembler::Draft draft, assembler.finish(architecture->forward(assembler)));
  return Model(std::make_shared<const State>(
      State{std::move(file), parameters, std::move(draft.plan), std::move(draft.unused_tensors), std::move(draft.names)}));
}

}  // namespace plumb::model
