// The models that pull keeps: list and rm. ps is there because Ollama's users type it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "base/printable.h"
#include "cli/command.h"
#include "cli/pull.h"

namespace plumb::cli {

namespace {

struct Kept {
  std::string name;
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::time_t changed = 0;
};

// All NAME.gguf in the models' folder, by name. The folder may be missing.
Result<std::vector<Kept>> kept_models() {
  PLUMB_TRY(const std::filesystem::path folder, models_folder());
  std::vector<Kept> kept;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".gguf" || !entry.is_regular_file(error)) continue;
    const auto changed = std::chrono::file_clock::to_sys(entry.last_write_time(error));
    kept.push_back({entry.path().stem().string(), entry.path(), entry.file_size(error),
                    std::chrono::system_clock::to_time_t(std::chrono::time_point_cast<std::chrono::seconds>(changed))});
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return fail("{}: cannot be listed: {}", folder.string(), error.message());
  }
  std::ranges::sort(kept, {}, &Kept::name);
  return kept;
}

Result<int> print_kept(bool json) {
  PLUMB_TRY(const auto kept, kept_models());
  if (json) {
    Json models = Json::array();
    for (const Kept& model : kept) {
      models.push_back({{"name", model.name}, {"path", model.path.string()}, {"bytes", model.bytes}});
    }
    return print_json({{"models", std::move(models)}});
  }
  if (kept.empty()) {
    fmt::print(stderr, "no model is kept; 'plumb pull --list' names some\n");
    return 0;
  }
  std::size_t width = 4;
  for (const Kept& model : kept) width = std::max(width, printable(model.name).size());
  std::string lines = fmt::format("{:<{}}  {:>9}  {}\n", "name", width, "size", "changed");
  for (const Kept& model : kept) {
    lines += fmt::format("{:<{}}  {:>9}  {:%Y-%m-%d}\n", printable(model.name), width, format_bytes(model.bytes),
                         fmt::localtime(model.changed));
  }
  return print(lines);
}

Result<int> remove_kept(const std::vector<std::string>& names) {
  // All names are looked up first: a misspelt one removes nothing.
  std::vector<std::filesystem::path> paths;
  for (const std::string& name : names) {
    PLUMB_TRY(paths.emplace_back(), find_pulled(name));
  }
  for (const std::filesystem::path& path : paths) {
    std::error_code error;
    if (!std::filesystem::remove(path, error)) return fail("{}: cannot be removed: {}", path.string(), error.message());
    fmt::print(stderr, "removed {}\n", printable(path.string()));
  }
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
