// Commands and options as the parsers have them, for what is made from them: completion scripts and manual pages.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

namespace plumb::cli {

struct DescribedOption {
  std::vector<std::string> names;  // "-p", "--prompt"; of a positional argument: its one name, "MODEL"
  std::string description;
  std::string value;                 // what stands for its value: "TEXT", "INT", …; empty where it takes none
  std::string standard;              // its default, where there is one
  std::vector<std::string> choices;  // values that it knows by name
  bool other_values = false;         // besides the choices
  std::string group;
  bool positional = false;
  bool optional_value = false;
  bool repeated = false;
  bool required = false;

  [[nodiscard]] bool takes_text() const { return value == "TEXT"; }
  [[nodiscard]] bool is_model() const { return positional && names.front().starts_with("MODEL"); }
};

struct DescribedCommand {
  std::string name;  // empty: `plumb` itself
  std::vector<std::string> aliases;
  std::string summary;
  std::vector<DescribedOption> options;
};

// `plumb` itself, then its commands in the order of the help.
std::vector<DescribedCommand> described(const CLI::App& app);

}  // namespace plumb::cli
