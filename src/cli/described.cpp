#include "cli/described.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "backends/backend.h"

namespace plumb::cli {

namespace {

// The words of the first {…} of a type such as "TEXT:{f16,f32}".
std::vector<std::string> choices_in(std::string_view type) {
  std::vector<std::string> choices;
  const std::size_t open = type.find('{'), close = type.find('}');
  if (open == std::string_view::npos || close == std::string_view::npos) return choices;
  std::string_view rest = type.substr(open + 1, close - open - 1);
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    choices.emplace_back(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return choices;
}

DescribedOption described(const CLI::Option& option, bool positional) {
  DescribedOption text;
  text.positional = positional;
  if (positional) {
    text.names = {option.get_name(true)};
  } else {
    for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  }
  text.description = option.get_description();
  text.group = option.get_group();
  text.required = option.get_required();
  text.repeated = option.get_items_expected_max() > 1;
  text.optional_value = option.get_items_expected_min() == 0;
  if (option.get_items_expected_max() > 0) {
    const std::string type = option.get_type_name();
    text.value = type.substr(0, type.find(':'));
    text.standard = option.get_default_str();
    text.choices = choices_in(type);
    text.other_values = type.find("} ") != std::string::npos || type.find("})") != std::string::npos;
  }
  if (option.check_name("--backend")) {
    text.choices = {"auto"};
    for (const backends::BackendEntry& entry : backends::all()) text.choices.emplace_back(entry.name);
  }
  return text;
}

DescribedCommand described_command(const CLI::App& app, std::string name) {
  DescribedCommand command{.name = std::move(name), .aliases = app.get_aliases(), .summary = app.get_description()};
  const auto options = app.get_options();
  for (const CLI::Option* option : options) {
    if (option->get_positional()) command.options.push_back(described(*option, true));
  }
  for (const CLI::Option* option : options) {
    if (option->nonpositional()) command.options.push_back(described(*option, false));
  }
  return command;
}

}  // namespace

std::vector<DescribedCommand> described(const CLI::App& app) {
  std::vector<DescribedCommand> commands{described_command(app, "")};
  for (const CLI::App* command : app.get_subcommands({})) {
    commands.push_back(described_command(*command, command->get_name()));
  }
  for (DescribedCommand& command : commands) {
    for (DescribedOption& option : command.options) {
      if (!option.positional || option.names.front() != "COMMAND") continue;
      for (const DescribedCommand& other : std::span(commands).subspan(1)) option.choices.push_back(other.name);
    }
  }
  return commands;
}

}  // namespace plumb::cli
