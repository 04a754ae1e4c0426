#include "cli/cli.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <exception>
#include <utility>
#include <vector>

#include "base/printable.h"
#include "cli/command.h"

namespace plumb::cli {

namespace {

constexpr int exit_unusable = 2;

// All commands, in the order of the help.
constexpr std::array<Command, 13> table{{
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
    {"devices", "What this machine has for running models", setup_devices},
}};

int run(int argc, char** argv) {
  CLI::App app("Plumb runs GGUF language models and proves that the output is right.", "plumb");
  app.set_version_flag("--version", PLUMB_VERSION);
  app.add_flag_callback(
      "--list-commands",
      [] {
        for (const Command& command : table) fmt::print("{}\n", command.name);
        throw CLI::Success();
      },
      "Print the names of the commands");
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Command& command : table) {
    CLI::App* subcommand = app.add_subcommand(std::string(command.name), std::string(command.summary));
    actions.emplace_back(subcommand, command.setup(*subcommand));
    // The help shows every option's default but that of lists, which are empty.
    for (CLI::Option* option : subcommand->get_options()) {
      option->capture_default_str();
      if (option->get_default_str() == "[]") option->default_str("");
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::string command;
    for (const CLI::App* parsed : app.get_subcommands()) command = " " + parsed->get_name();
    fmt::print(stderr, "plumb{}: {}; see 'plumb{} --help'\n", command, printable(error.what()), command);
    return exit_unusable;
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
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    static_cast<void>(std::fputs("plumb: not enough memory for this; try a smaller --ctx or a smaller model\n", stderr));
  } catch (const std::exception& error) {
    fmt::print(stderr, "plumb: {}\n", error.what());
  }
  return exit_unusable;
}

}  // namespace plumb::cli
