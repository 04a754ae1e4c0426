// The type of a command, and the parts that commands share: arguments for model, backend and text, output, interruption.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "gguf/file.h"
#include "trace/trace.h"

namespace plumb::cli {

using Json = nlohmann::ordered_json;

// The work of a parsed command. Returns exit code 0 or 1; an error is printed and gives exit code 2.
using Action = std::function<Result<int>()>;

struct Command {
  std::string_view name;
  std::string_view summary;
  // Adds the options to `app` and returns the action to run after parsing.
  Action (*setup)(CLI::App& app);
};

Action setup_run(CLI::App& app);
Action setup_chat(CLI::App& app);
Action setup_selftest(CLI::App& app);
Action setup_inspect(CLI::App& app);
Action setup_tokenize(CLI::App& app);
Action setup_template(CLI::App& app);
Action setup_quantize(CLI::App& app);
Action setup_synth(CLI::App& app);
Action setup_bench(CLI::App& app);
Action setup_pull(CLI::App& app);
Action setup_trace(CLI::App& app);
Action setup_diagnose(CLI::App& app);
Action setup_devices(CLI::App& app);

// -p TEXT or -f FILE ('-': standard input), byte for byte.
struct TextArguments {
  std::string text;
  std::string file;
  CLI::Option* text_option = nullptr;
  CLI::Option* file_option = nullptr;

  void add(CLI::App& app);
  [[nodiscard]] bool given() const { return text_option->count() > 0 || file_option->count() > 0; }
  [[nodiscard]] Result<std::string> read() const;
};

// MODEL: the path of a .gguf, or a name: "canary", or that of a model which `plumb pull` has fetched.
Result<gguf::File> open_model(const std::string& model);
// The SHA-256 of the model's file; empty for a model split into several files.
Result<std::string> sha256_of(const gguf::File& file);

// MODEL with --backend, --threads, --ctx and similar options.
struct EngineArguments {
  std::string model;
  engine::EngineSettings settings;
  std::string kv_type = "f16";
  std::string activations = "int16";

  void add(CLI::App& app);
  [[nodiscard]] Result<std::unique_ptr<engine::Engine>> load() const;
};

// --temp and the other settings of the sampler.
struct SamplerArguments {
  engine::SamplerSettings settings;
  std::vector<std::string> bias;

  void add(CLI::App& app);
  [[nodiscard]] Result<engine::SamplerSettings> read() const;
};

// The prompt: a text, put through the model's chat template unless --raw is given, or --tokens.
struct PromptArguments {
  TextArguments text;
  bool raw = false;
  std::string system;
  std::vector<text::TokenId> tokens;

  void add(CLI::App& app);
  // model: the model's name as the user gave it, for messages. asked: receives the text, if there is one.
  [[nodiscard]] Result<std::vector<text::TokenId>> read(const engine::Engine& engine, const std::string& model,
                                                        std::string* asked = nullptr) const;
};

// A run's trace metadata without the tokens and the file's hash. prompt: the text that was asked, empty if there was none.
trace::Info trace_info(const engine::Engine& engine, const std::string& prompt);

// A check for CLI::Option: a seed must be a whole number of 64 bits. Without it CLI11 takes others, as another number.
std::string is_seed(const std::string& text);

// Writes to stdout; the result is exit code 0. Error: stdout is closed or full.
Result<int> print(std::string_view text);
// Prints a document, indented, and a newline. Bytes that are not UTF-8 become U+FFFD.
Result<int> print_json(const Json& document);

// Reads a whole file ('-': standard input) of at most `max_bytes`.
Result<std::string> read_file(const std::string& path, std::uint64_t max_bytes);

// From now on SIGINT no longer ends the program; interrupted() says whether one came since the last clear.
void catch_interrupts();
bool interrupted();
void clear_interrupt();

// "1.2 GB"
std::string format_bytes(std::uint64_t bytes);

}  // namespace plumb::cli
