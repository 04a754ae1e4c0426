// Completion scripts for bash, zsh and fish, made from the parsers' own list of commands and options. They complete
// commands, options, values that have names, fetched models, and files.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/described.h"

namespace plumb::cli {

namespace {

// Prints the names of the fetched models: a part of all three scripts.
constexpr std::string_view list_models = "plumb list 2>/dev/null | awk 'NR > 1 { print $1 }'";

bool takes_models(const DescribedCommand& command) {
  return std::ranges::any_of(command.options, &DescribedOption::is_model);
}

// Whether it has an argument that is not one of a few words.
bool takes_files(const DescribedCommand& command) {
  return std::ranges::any_of(command.options,
                             [](const DescribedOption& option) { return option.positional && option.choices.empty(); });
}

std::vector<std::string> names_of(const DescribedCommand& command) {
  std::vector<std::string> names{command.name};
  names.insert(names.end(), command.aliases.begin(), command.aliases.end());
  return names;
}

// Names of commands that may stand first: those of the list, and help.
std::vector<std::string> first_words(std::span<const DescribedCommand> commands) {
  std::vector<std::string> words{"help"};
  for (const DescribedCommand& command : commands.subspan(1)) {
    for (const std::string& name : names_of(command)) words.push_back(name);
  }
  return words;
}

std::vector<std::string> option_names(const DescribedCommand& command) {
  std::vector<std::string> names;
  for (const DescribedOption& option : command.options) {
    if (!option.positional) names.insert(names.end(), option.names.begin(), option.names.end());
  }
  return names;
}

std::vector<std::string> choices_of_arguments(const DescribedCommand& command) {
  std::vector<std::string> choices;
  for (const DescribedOption& option : command.options) {
    if (option.positional) choices.insert(choices.end(), option.choices.begin(), option.choices.end());
  }
  return choices;
}

// A text as one word of a shell; all three read this form alike, but for a quote in fish.
std::string shell_word(std::string_view text, std::string_view quote = "'\\''") {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') {
      word += quote;
    } else {
      word += c;
    }
  }
  return word + "'";
}

std::string bash(std::span<const DescribedCommand> commands) {
  std::string cases;
  for (const DescribedCommand& command : commands.subspan(1)) {
    cases += fmt::format("    {})\n      options='{}'\n      words='{}'\n", fmt::join(names_of(command), " | "),
                         fmt::join(option_names(command), " "), fmt::join(choices_of_arguments(command), " "));
    if (takes_models(command)) cases += "      models=yes\n";
    if (!takes_files(command)) cases += "      files=\n";
    cases += "      case $previous in\n";
    for (const DescribedOption& option : command.options) {
      if (option.positional || option.value.empty() || option.optional_value) continue;
      cases += fmt::format("        {}) ", fmt::join(option.names, " | "));
      if (!option.choices.empty()) {
        cases += fmt::format("words='{}' options= models= files= ;;\n", fmt::join(option.choices, " "));
      } else {
        cases += fmt::format("words= options= models= files={} ;;\n", option.takes_text() ? "yes" : "");
      }
    }
    cases += "      esac\n      ;;\n";
  }
  return fmt::format(
      R"sh(# Completion of plumb for bash: source it, or put it into ~/.local/share/bash-completion/completions/plumb
_plumb() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in
      -*) ;;
      *) command=$word; break ;;
    esac
  done
  local options= words= models= files=yes
  case $command in
    '')
      options='{0}'
      words='{1}'
      models=yes
      ;;
    help) words='{1}' files= ;;
{2}  esac
  COMPREPLY=()
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
    return
  fi
  [[ -z $models ]] || words="$words canary $({3})"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'
    COMPREPLY+=($(compgen -f -- "$current"))
  fi
}}
complete -F _plumb plumb
)sh",
      fmt::join(option_names(commands.front()), " "), fmt::join(first_words(commands), " "), cases, list_models);
}

// A description within zsh's [ ] and between its colons.
std::string zsh_text(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string zsh_value(const DescribedOption& option) {
  if (option.is_model()) return "_plumb_models";
  if (!option.choices.empty()) return fmt::format("({})", fmt::join(option.choices, " "));
  return option.takes_text() ? "_files" : " ";
}

std::string zsh(std::span<const DescribedCommand> commands) {
  std::string first, cases;
  for (const DescribedCommand& command : commands.subspan(1)) {
    for (const std::string& name : names_of(command)) {
      first += fmt::format("    {}\n", shell_word(zsh_text(name) + ":" + command.summary));
    }
    cases += fmt::format("    {})\n      _arguments", fmt::join(names_of(command), "|"));
    for (const DescribedOption& option : command.options) {
      const std::string value = zsh_value(option);
      if (option.positional) {
        const std::string where = option.repeated ? "*" : "";
        cases += " \\\n        " + shell_word(fmt::format("{}:{}:{}", where, option.names.front(), value));
        continue;
      }
      for (const std::string& name : option.names) {
        std::string spec = fmt::format("*{}[{}]", name, zsh_text(option.description));
        if (!option.value.empty()) {
          const std::string label = option.value;
          spec += fmt::format("{}{}:{}", option.optional_value ? "::" : ":", label, value);
        }
        cases += " \\\n        " + shell_word(spec);
      }
    }
    cases += "\n      ;;\n";
  }
  std::string own;
  for (const DescribedOption& option : commands.front().options) {
    for (const std::string& name : option.names) {
      own += " " + shell_word(fmt::format("{}[{}]", name, zsh_text(option.description)));
    }
  }
  return fmt::format(R"sh(#compdef plumb
# Completion of plumb for zsh: put it as _plumb into a folder of $fpath.
_plumb_models() {{
  local -a models=(canary ${{(f)"$({0})"}})
  compadd -a models
  _files
}}
_plumb() {{
  local -a commands=(
    'help:Help for a command'
{1}  )
  if (( CURRENT == 2 )); then
    _arguments{2} '*: :->first'
    _describe command commands
    _plumb_models
    return
  fi
  local command=${{words[2]}}
  shift words
  (( CURRENT-- ))
  case $command in
    help) _describe command commands ;;
{3}  esac
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _plumb "$@"
else
  compdef _plumb plumb
fi
)sh",
                     list_models, first, own, cases);
}

std::string fish(std::span<const DescribedCommand> commands) {
  const auto text = [](std::string_view plain) {
    std::string escaped;
    for (const char c : plain) {
      if (c == '\\') escaped += '\\';
      escaped += c;
    }
    return shell_word(escaped, "\\'");
  };
  std::string lines = "# Completion of plumb for fish: put it into ~/.config/fish/completions/plumb.fish\n";
  const std::string first = "complete -c plumb -n __fish_use_subcommand";
  const auto add_options = [&](const DescribedCommand& command, const std::string& start) {
    for (const DescribedOption& option : command.options) {
      std::string line = start;
      if (option.positional) {
        if (option.choices.empty() && !option.is_model()) continue;
        line += fmt::format(" -a '{}'", fmt::join(option.choices, " "));
        if (option.is_model()) line = fmt::format("{} -a 'canary (__plumb_models)'", start);
        lines += line + fmt::format(" -d {}\n", text(option.names.front()));
        continue;
      }
      for (const std::string& name : option.names) {
        line += name.starts_with("--") ? fmt::format(" -l {}", name.substr(2)) : fmt::format(" -s {}", name.substr(1));
      }
      if (!option.choices.empty()) {
        line += fmt::format(" -x -a '{}'", fmt::join(option.choices, " "));
      } else if (!option.value.empty() && !option.optional_value) {
        line += option.takes_text() ? " -r" : " -x";
      }
      lines += line + fmt::format(" -d {}\n", text(option.description));
    }
  };
  lines += fmt::format("function __plumb_models\n  {}\nend\n", list_models);
  lines += first + " -a help -d 'Help for a command'\n" + first + " -a 'canary (__plumb_models)' -d Model\n";
  add_options(commands.front(), first);
  for (const DescribedCommand& command : commands.subspan(1)) {
    for (const std::string& name : names_of(command)) {
      lines += fmt::format("{} -a {} -d {}\n", first, name, text(command.summary));
    }
  }
  lines += fmt::format("complete -c plumb -f -n '__fish_seen_subcommand_from help' -a '{}'\n",
                       fmt::join(first_words(commands), " "));
  for (const DescribedCommand& command : commands.subspan(1)) {
    add_options(command,
                fmt::format("complete -c plumb -n '__fish_seen_subcommand_from {}'", fmt::join(names_of(command), " ")));
  }
  return lines;
}

}  // namespace

Action setup_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "The shell that the script is for")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  return [shell, &app] {
    const std::vector<DescribedCommand> commands = described(*app.get_parent());
    return print(*shell == "bash" ? bash(commands) : *shell == "zsh" ? zsh(commands) : fish(commands));
  };
}

}  // namespace plumb::cli
