#include "cli/cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/at_signal.h"
#include "base/printable.h"
#include "cli/command.h"
#include "cli/package.h"
#include "cli/reference.h"
#include "cli/spelling.h"

namespace plumb::cli {

namespace {

constexpr int exit_unusable = 2;

// All commands, in the order of the help.
constexpr std::array<Command, 18> table{{
    {"run", "Generate an answer to a prompt", setup_run},
    {"chat", "A conversation in the terminal", setup_chat},
    {"selftest", "Known answers of the canary on every backend and quantization", setup_selftest},
    {"inspect", "Metadata, tensors and checks of a model file", setup_inspect},
    {"tokenize", "Text to token ids and back", setup_tokenize},
    {"template", "The prompt text that a chat template makes", setup_template},
    {"quantize", "Write a model in another quantization", setup_quantize},
    {"synth", "Write a model of a known shape with random weights", setup_synth},
    {"bench", "Prefill and decode speed", setup_bench},
    {"trace", "Record the values of a run in a file", setup_trace},
    {"diagnose", "Find the op that does not follow from its inputs, and the cause", setup_diagnose},
    {"pull", "Fetch a model by name or URL", setup_pull},
    {"list", "The fetched models", setup_list},
    {"rm", "Remove fetched models", setup_rm},
    {"ps", "The models that are loaded", setup_ps},
    {"devices", "What this machine has for running models", setup_devices},
    {"completion", "A completion script for bash, zsh or fish", setup_completion},
    {"man", "A manual page", setup_man},
}};

// Whether a word that is no command names a model: an existing file, one that is fetched or can be, or plainly a path.
bool names_a_model(const std::string& word) {
  std::error_code ignored;
  return word == "canary" || word.find('/') != std::string::npos || word.ends_with(".gguf") ||
         std::filesystem::exists(word, ignored) || find_known(word) != nullptr || is_reference(word) ||
         find_kept(word).has_value();
}

const CLI::App* subcommand_of(const CLI::App& app, const std::string& name) {
  const auto found = app.get_subcommands([&](const CLI::App* subcommand) { return subcommand->check_name(name); });
  return found.empty() ? nullptr : found.front();
}

// `plumb MODEL …` and `plumb -m MODEL …` are `plumb run …`; `plumb help COMMAND` is `plumb COMMAND --help`.
Result<std::vector<std::string>> with_command(const CLI::App& app, std::vector<std::string> words) {
  if (words.empty()) return std::vector<std::string>{"--help"};
  if (words[0] == "help") {
    words.erase(words.begin());
    words.resize(std::min<std::size_t>(words.size(), 1));
    words.emplace_back("--help");
  }
  const std::string& first = words[0];
  if (subcommand_of(app, first) != nullptr || app.get_option_no_throw(first) != nullptr) return words;
  if (first.starts_with('-') || names_a_model(first)) {
    words.insert(words.begin(), "run");
    return words;
  }
  std::vector<std::string> known{"help"};
  for (const Command& command : table) known.emplace_back(command.name);
  return fail("'{}' is no command, no file and no fetched model{}", first, suggestion(first, known));
}

int unusable(std::string_view command, std::string_view message) {
  fmt::print(stderr, "plumb{}: {}; see 'plumb{} --help'\n", command, printable(message), command);
  return exit_unusable;
}

int run(std::vector<std::string> words) {
  CLI::App app("Plumb runs GGUF language models and proves that the output is right.", "plumb");
  app.set_version_flag("--version", PLUMB_VERSION);
  app.add_flag_callback(
      "--list-commands",
      [] {
        for (const Command& command : table) fmt::print("{}\n", command.name);
        throw CLI::Success();
      },
      "Print the names of the commands");
  app.footer("plumb help COMMAND shows a command's options. plumb MODEL is plumb run MODEL.");
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Command& command : table) {
    CLI::App* subcommand = app.add_subcommand(std::string(command.name), std::string(command.summary));
    actions.emplace_back(subcommand, command.setup(*subcommand));
    for (CLI::Option* option : subcommand->get_options()) {
      // The help shows every option's default but that of lists, which are empty.
      option->capture_default_str();
      if (option->get_default_str() == "[]") option->default_str("");
      // The last of a repeated option wins. A list takes one value each time, so that a model may follow.
      if (option->get_items_expected_max() == 1) option->take_last();
      if (option->get_items_expected_max() > 1 && !option->get_positional()) option->allow_extra_args(false);
    }
  }
  std::string name;
  try {
    auto given = with_command(app, std::move(words));
    if (!given) return unusable("", given.error().message);
    if (const CLI::App* command = subcommand_of(app, given->front())) {
      name = " " + command->get_name();
      auto arranged = arrange(*command, std::span(*given).subspan(1));
      if (!arranged) return unusable(name, arranged.error().message);
      given->resize(1);
      given->insert(given->end(), arranged->begin(), arranged->end());
    }
    std::ranges::reverse(*given);  // CLI11 takes words from the back
    app.parse(std::move(*given));
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return unusable(name, error.what());
  }
  for (const auto& [subcommand, action] : actions) {
    if (!subcommand->parsed()) continue;
    const Result<int> outcome = action();
    if (outcome) return *outcome;
    fmt::print(stderr, "plumb: {}\n", printable(outcome.error().message));
    return exit_unusable;
  }
  return exit_unusable;
}

}  // namespace

int main(int argc, char** argv) {
  end_well_at_signals();
  try {
    return run(std::vector<std::string>(argv + 1, argv + std::max(argc, 1)));
  } catch (const std::bad_alloc&) {
    static_cast<void>(std::fputs("plumb: not enough memory for this; try a smaller --ctx or a smaller model\n", stderr));
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb: {}\n", printable(error.what()));
  }
  return exit_unusable;
}

}  // namespace plumb::cli
