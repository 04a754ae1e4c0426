#include "store/model_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/new_file.h"
#include "gguf/file.h"

namespace plumb::store {

namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<fs::path> references_path() {
  PLUMB_TRY(const fs::path folder, models_folder());
  return folder.parent_path() / "references.json";
}

std::optional<KeptModel> named(std::string_view name) {
  auto models = kept_models();
  if (!models) return std::nullopt;
  const auto found = std::ranges::find(*models, name, &KeptModel::name);
  return found == models->end() ? std::nullopt : std::optional(std::move(*found));
}

}  // namespace

Result<fs::path> models_folder() {
  if (const std::string folder = environment("PLUMB_CACHE"); !folder.empty()) return fs::path(folder) / "models";
  if (const std::string folder = environment("XDG_CACHE_HOME"); !folder.empty())
    return fs::path(folder) / "plumb" / "models";
  if (const std::string folder = environment("HOME"); !folder.empty())
    return fs::path(folder) / ".cache" / "plumb" / "models";
  return fail("there is no folder for fetched models: none of PLUMB_CACHE, XDG_CACHE_HOME and HOME is set");
}

Result<std::vector<KeptModel>> kept_models() {
  PLUMB_TRY(const fs::path folder, models_folder());
  std::map<std::string, KeptModel> kept;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path& path = entry->path();
    std::error_code unreadable;
    if (path.extension() != ".gguf" || !entry->is_regular_file(unreadable)) continue;
    const std::uint64_t bytes = entry->file_size(unreadable);
    if (unreadable) continue;
    const fs::file_time_type written = entry->last_write_time(unreadable);
    if (unreadable) continue;
    const auto shard = gguf::shard_name(path.filename().string());
    const std::string name = shard && !shard->prefix.empty() ? shard->prefix : path.stem().string();
    KeptModel& model = kept[name];
    model.name = name;
    model.files.push_back(path);
    model.bytes += bytes;
    const auto seconds = std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::file_clock::to_sys(written));
    model.changed = std::max(model.changed, std::chrono::system_clock::to_time_t(seconds));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return fail("{}: cannot be listed: {}", folder.string(), error.message());
  }
  std::vector<KeptModel> models;
  for (auto& [name, model] : kept) {
    std::ranges::sort(model.files);
    models.push_back(std::move(model));
  }
  return models;
}

bool is_model_name(std::string_view name) {
  constexpr std::string_view allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= 200 && name.front() != '.' && name.front() != '-' &&
         name.find_first_not_of(allowed) == std::string_view::npos;
}

std::optional<KeptModel> find_fetched(const std::string& reference) {
  const auto references = kept_references();
  const auto found = references.find(reference);
  return found == references.end() ? std::nullopt : named(found->second);
}

std::optional<KeptModel> find_fetched(const HuggingFaceName& name) {
  if (auto exact = find_fetched(canonical(name))) return exact;
  if (name.quantization.empty()) return std::nullopt;
  HuggingFaceName repository = name;
  repository.quantization.clear();
  const std::string prefix = canonical(repository) + "/";
  for (const auto& [key, kept_as] : kept_references()) {
    if (!key.starts_with(prefix) || !has_quantization(key.substr(prefix.size()), name.quantization)) continue;
    if (auto model = named(kept_as)) return model;
  }
  return std::nullopt;
}

Result<KeptModel> find_kept(std::string_view name) {
  PLUMB_TRY(const fs::path folder, models_folder());
  if (auto model = named(name)) return std::move(*model);
  const auto reference = parse_reference(name);
  const auto fetched = [](const auto& form) {
    if constexpr (std::is_same_v<std::decay_t<decltype(form)>, HuggingFaceName>) return find_fetched(form);
    return find_fetched(canonical(form));
  };
  auto model = reference ? std::visit(fetched, *reference) : std::nullopt;
  if (!model) return fail("no model named '{}' has been fetched to {}", name, folder.string());
  return std::move(*model);
}

std::map<std::string, std::string> kept_references() {
  std::map<std::string, std::string> names;
  const auto path = references_path();
  if (!path) return names;
  std::ifstream stream(*path);
  const auto document = nlohmann::json::parse(stream, nullptr, false);
  if (!document.is_object()) return names;
  for (const auto& [reference, name] : document.items()) {
    if (name.is_string()) names[reference] = name.get<std::string>();
  }
  return names;
}

Result<void> keep_references(const std::map<std::string, std::string>& names) {
  PLUMB_TRY(const fs::path path, references_path());
  const std::string text = nlohmann::json(names).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  PLUMB_TRY(NewFile file, NewFile::create(path));
  PLUMB_CHECK(file.append(std::as_bytes(std::span(text))));
  return file.finish();
}

Result<ModelsLock> ModelsLock::take() {
  PLUMB_TRY(fs::path folder, models_folder());
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return fail("{}: the folder for models cannot be made: {}; PLUMB_CACHE may name another place", folder.string(),
                error.message());
  }
  const std::string path = (folder.parent_path() / "models.lock").string();
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return fail("{}: cannot be opened: {}", path, std::strerror(errno));
  ModelsLock lock(std::move(folder), descriptor);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return fail("{}: another `plumb pull` is at work in this folder; wait until it is done", lock.folder_.string());
  }
  return lock;
}

ModelsLock::ModelsLock(ModelsLock&& other) noexcept
    : folder_(std::move(other.folder_)), lock_(std::exchange(other.lock_, -1)) {}

ModelsLock::~ModelsLock() {
  if (lock_ >= 0) ::close(lock_);
}

}  // namespace plumb::store
