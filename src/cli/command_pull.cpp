#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "base/progress.h"
#include "cli/command.h"
#include "cli/pull.h"

namespace plumb::cli {

namespace {

struct PullArguments {
  std::string model;
  PullOptions pull;
  bool list = false;
  bool json = false;
};

Result<int> list(bool json) {
  if (!json) {
    for (const KnownModel& model : known_models()) {
      PLUMB_CHECK(print(fmt::format("{:<12} {}, {}\n", model.name, model.description, format_bytes(model.bytes))));
    }
    return 0;
  }
  auto models = Json::array();
  for (const KnownModel& model : known_models()) {
    models.push_back(
        {{"name", model.name}, {"description", model.description}, {"bytes", model.bytes}, {"sha256", model.sha256}});
  }
  return print_json({{"models", std::move(models)}});
}

Result<int> run_pull(const PullArguments& options) {
  if (options.list) return list(options.json);
  if (options.model.empty()) return fail("name a model or a URL; `plumb pull --list` shows the models that have names");
  catch_interrupts();
  std::optional<Progress> bar;
  std::string_view shown;
  const auto progress = [&](std::string_view stage, std::uint64_t done, std::uint64_t total) {
    if (stage != shown) {
      shown = stage;
      bar.emplace(std::string(stage), true);
    }
    bar->update(done, total);
    return !interrupted();
  };
  const auto path = pull(options.model, options.pull, progress);
  bar.reset();
  if (!path) return fail(path.error());
  if (options.json) return print_json({{"name", path->stem().string()}, {"path", path->string()}});
  PLUMB_CHECK(print(path->string() + "\n"));
  fmt::print(stderr, "ask it something: plumb run {} -p \"What is the capital of France?\"\n", path->stem().string());
  return 0;
}

}  // namespace

Action setup_pull(CLI::App& app) {
  auto options = std::make_shared<PullArguments>();
  app.add_option("MODEL", options->model, "The name of a known model, or an http:// or https:// URL of a .gguf");
  app.add_option("--sha256", options->pull.sha256, "What the URL's file must have");
  app.add_option("--name", options->pull.name, "What to call the URL's model (its file name without .gguf)");
  app.add_flag("--list", options->list, "The models that have names");
  app.add_flag("--json", options->json, "One JSON document");
  return [options] { return run_pull(*options); };
}

}  // namespace plumb::cli
