// The models that pull keeps: list and rm. ps is there because Ollama's users type it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/printable.h"
#include "cli/command.h"
#include "cli/reference.h"

namespace plumb::cli {

namespace {

Result<int> print_kept(bool json) {
  PLUMB_TRY(const auto kept, store::kept_models());
  if (json) {
    Json models = Json::array();
    for (const store::KeptModel& model : kept) {
      models.push_back({{"name", model.name}, {"path", model.files.front().string()}, {"bytes", model.bytes}});
    }
    return print_json({{"models", std::move(models)}});
  }
  if (kept.empty()) {
    fmt::print(stderr, "no model is kept; 'plumb pull --list' names some\n");
    return 0;
  }
  std::size_t width = 4;
  for (const store::KeptModel& model : kept) width = std::max(width, printable(model.name).size());
  std::string lines = fmt::format("{:<{}}  {:>9}  {}\n", "name", width, "size", "changed");
  for (const store::KeptModel& model : kept) {
    lines += fmt::format("{:<{}}  {:>9}  {:%Y-%m-%d}\n", printable(model.name), width, format_bytes(model.bytes),
                         fmt::localtime(model.changed));
  }
  return print(lines);
}

Result<int> remove_kept(const std::vector<std::string>& names) {
  // All names are looked up first: a misspelt one removes nothing.
  std::vector<store::KeptModel> models;
  for (const std::string& name : names) {
    PLUMB_TRY(models.emplace_back(), find_kept(name));
  }
  PLUMB_TRY(const store::ModelsLock lock, store::ModelsLock::take());
  auto references = store::kept_references();
  for (const store::KeptModel& model : models) {
    for (const std::filesystem::path& path : model.files) {
      std::error_code error;
      if (!std::filesystem::remove(path, error)) return fail("{}: cannot be removed: {}", path.string(), error.message());
      fmt::print(stderr, "removed {}\n", printable(path.string()));
    }
    std::erase_if(references, [&](const auto& entry) { return entry.second == model.name; });
  }
  if (references != store::kept_references()) PLUMB_CHECK(store::keep_references(references));
  return 0;
}

}  // namespace

Action setup_list(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  app.alias("ls");
  app.add_flag("--json", *json, "One JSON document");
  return [json] { return print_kept(*json); };
}

Action setup_rm(CLI::App& app) {
  auto names = std::make_shared<std::vector<std::string>>();
  app.add_option("NAME", *names, "Names of fetched models, as 'plumb list' shows them")->required()->expected(1, -1);
  return [names] { return remove_kept(*names); };
}

Action setup_ps(CLI::App&) {
  return []() -> Result<int> {
    fmt::print(stderr, "no model stays loaded: each command loads its model and ends with it\n");
    return 0;
  };
}

}  // namespace plumb::cli
