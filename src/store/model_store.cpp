#include "cli/model_store.h"

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
#include <utility>

#include "base/new_file.h"
#include "cli/reference.h"
#include "gguf/file.h"

namespace plumb::cli {

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
    const auto shard = gguf::shard_name(path.filename().string());
    const std::string name = shard && !shard->prefix.empty() ? shard->prefix : path.stem().string();
    KeptModel& model = kept[name];
    model.name = name;
    model.files.push_back(path);
    model.bytes += entry->file_size(unreadable);
    const auto changed = std::chrono::file_clock::to_sys(entry->last_write_time(unreadable));
    const auto seconds = std::chrono::time_point_cast<std::chrono::seconds>(changed);
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

Result<KeptModel> find_kept(std::string_view name) {
  PLUMB_TRY(const fs::path folder, models_folder());
  PLUMB_TRY(std::vector<KeptModel> models, kept_models());
  const auto take = [&](std::string_view sought) -> KeptModel* {
    const auto found = std::ranges::find(models, sought, &KeptModel::name);
    return found == models.end() ? nullptr : &*found;
  };
  if (KeptModel* model = take(name)) return std::move(*model);
  if (const auto reference = parse_reference(name)) {
    const auto references = kept_references();
    const auto exact = references.find(canonical(*reference));
    if (exact != references.end()) {
      if (KeptModel* model = take(exact->second)) return std::move(*model);
    }
    // A quantization is also found in the name of a file of the same repository.
    const auto* wanted = std::get_if<HuggingFaceName>(&*reference);
    if (wanted != nullptr && !wanted->quantization.empty()) {
      HuggingFaceName repository = *wanted;
      repository.quantization.clear();
      const std::string prefix = canonical(repository) + "/";
      for (const auto& [key, kept_as] : references) {
        if (!key.starts_with(prefix) || !has_quantization(key.substr(prefix.size()), wanted->quantization)) continue;
        if (KeptModel* model = take(kept_as)) return std::move(*model);
      }
    }
  }
  return fail("no model named '{}' has been fetched to {}", name, folder.string());
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

}  // namespace plumb::cli
