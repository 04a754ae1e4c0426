// The type of a command, and the parts that commands share: arguments for model, backend and text, output, interruption.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/pull.h"
#include "engine/engine.h"
#include "gguf/file.h"
#include "trace/trace.h"

namespace plumb::cli {

using Json = nlohmann::ordered_json;

// What the shell reports of a program that Ctrl-C ends.
inline constexpr int exit_interrupted = 130;

// The work of a parsed command. Returns exit code 0, 1 or 130; an error is printed and gives exit code 2.
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
Action setup_list(CLI::App& app);
Action setup_rm(CLI::App& app);
Action setup_ps(CLI::App& app);
Action setup_trace(CLI::App& app);
Action setup_diagnose(CLI::App& app);
Action setup_devices(CLI::App& app);
Action setup_completion(CLI::App& app);
Action setup_man(CLI::App& app);

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

// MODEL: the path of a .gguf, or a name: "canary", that of a model which `plumb pull` has fetched, or one that it could
// fetch. The last is fetched here: at once with --yes (-hf), and where there is a terminal, once the user agrees.
Result<gguf::File> open_model(const std::string& model, bool yes);
// Adds MODEL, which is -m as well, and --yes. positional: what the help calls it.
void add_model(CLI::App& app, std::string& model, bool& yes, const std::string& positional = "MODEL",
               const std::string& help =
                   "A .gguf file, 'canary', the name of a fetched model, or what to fetch: "
                   "hf:OWNER/REPO[:QUANT] (-hf), Ollama's NAME:TAG, a URL");

// Fetches a model and says on stderr what is fetched from where, with a bar on a terminal. Ctrl-C ends the fetching.
Result<std::filesystem::path> fetch_model(const Wanted& wanted, const PullOptions& options);
// The SHA-256 of the model's file; empty for a model split into several files.
Result<std::string> sha256_of(const gguf::File& file);

// Sets the template's variables by which models think before they answer, or do not.
void set_thinking(Json& variables, bool on);
// Whether the engine's chat template has a switch for it.
bool can_switch_thinking(const engine::Engine& engine);

// What chat templates are given, and whether special tokens in a text count.
struct TemplateArguments {
  std::string variables;  // JSON
  std::string reasoning = "auto";
  std::string file;
  bool no_special = false;

  void add(CLI::App& app);
  void add_template(CLI::App& app);  // without --no-special
  [[nodiscard]] Result<engine::ChatSettings> read() const;
};

// MODEL with --backend, --threads, --ctx and similar options.
struct EngineArguments {
  std::string model;
  bool yes = false;
  engine::EngineSettings settings;
  std::string kv_type = "f16";
  std::string key_type, value_type;  // empty: kv_type
  std::string activations = "int16";
  std::string gpu_layers = "auto";
  TemplateArguments chat;  // for commands that add it
  CLI::Option* backend_option = nullptr;

  void add(CLI::App& app);
  [[nodiscard]] Result<std::unique_ptr<engine::Engine>> load() const;
};

// --seed: a number of 64 bits; random where it is not given, or -1.
struct SeedArgument {
  std::string text = "-1";

  void add(CLI::App& app, const std::string& help);
  [[nodiscard]] Result<std::uint64_t> read() const;
};

// --temp and the other settings of the sampler.
struct SamplerArguments {
  engine::SamplerSettings settings;
  std::vector<std::string> bias;
  SeedArgument seed;
  const CLI::App* app = nullptr;

  void add(CLI::App& to);
  [[nodiscard]] Result<engine::SamplerSettings> read() const;
  // Puts what the file recommends in place of what no option gives, and warns of what Plumb does not have. Error: a value
  // that cannot be used.
  Result<void> take_recommended(const gguf::File& file, engine::SamplerSettings& read) const;
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
  // The tokens of --tokens, else of this text. Error: there is neither.
  [[nodiscard]] Result<std::vector<text::TokenId>> encode(const engine::Engine& engine, const std::string& model,
                                                          const std::optional<std::string>& given) const;
};

// A conversation in the terminal; `plumb run` without a prompt starts one as well.
struct ChatOptions {
  EngineArguments engine;
  SamplerArguments sampler;
  std::int64_t max_tokens = 0;
  std::string system;
  bool hide_thinking = false;
  bool verbose = false;
};
Result<int> chat(const ChatOptions& options);

// The tokens of an answer at most: as GenerateOptions::max_tokens counts, where -1 and 0 are no limit.
Result<std::uint32_t> token_limit(std::int64_t given);

// A run's trace metadata without the tokens and the file's hash. prompt: the text that was asked, empty if there was none.
trace::Info trace_info(const engine::Engine& engine, const std::string& prompt);

// Says on stderr what is odd and keeps nothing from running.
void warn(std::string_view warning);

// "temp 0.6, top-k 20 (general.sampling)": what a file recommends; empty where it does not.
Result<std::string> recommended_text(const gguf::File& file);

// Writes to stdout; the result is exit code 0. Error: stdout is closed or full.
Result<int> print(std::string_view text);
// The same for a text that a file or a model made: a script gets it byte for byte, and a terminal gets it printable.
Result<int> print_foreign(std::string_view text);
// Prints a document, indented, and a newline. Bytes that are not UTF-8 become U+FFFD.
Result<int> print_json(const Json& document);

// The text of standard input where that is a pipe or a file, without its last newline; else, and where it is empty, none.
// After two silent seconds it says on stderr that it waits.
Result<std::optional<std::string>> piped_text();

// Reads a whole file ('-': standard input) of at most `max_bytes`.
Result<std::string> read_file(const std::string& path, std::uint64_t max_bytes);

// From now on SIGINT no longer ends the program; interrupted() says whether one came since the last clear.
void catch_interrupts();
bool interrupted();
void clear_interrupt();

// "1.2 GB"
std::string format_bytes(std::uint64_t bytes);

}  // namespace plumb::cli
