// The models that are kept, in the user's cache folder as models/NAME.gguf, or NAME-00001-of-0000N.gguf and so on.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/reference.h"

namespace plumb::store {

struct KeptModel {
  std::string name;
  std::vector<std::filesystem::path> files;  // the first is the one to open
  std::uint64_t bytes = 0;                   // of all files
  std::time_t changed = 0;
};

// The folder models/ in $PLUMB_CACHE, else in $XDG_CACHE_HOME/plumb, else in ~/.cache/plumb. It may not exist yet.
Result<std::filesystem::path> models_folder();

// All kept models, by name. The folder may be missing. Files that go while it is read are left out.
Result<std::vector<KeptModel>> kept_models();

// The kept model that has this name, or was fetched by this reference (reference.h). Error: there is none.
Result<KeptModel> find_kept(std::string_view name);
// The one that was fetched by this reference, of which the second takes the canonical form. A quantization is also found in
// the name of a file of the same repository. None: there is none, or the folder cannot be read.
std::optional<KeptModel> find_fetched(const HuggingFaceName& name);
std::optional<KeptModel> find_fetched(const std::string& reference);

// Whether a model may be kept under this name: letters, digits, '.', '_' and '-' make one, which is a file name everywhere.
bool is_model_name(std::string_view name);

// Which model each reference, in its canonical form, was fetched as.
std::map<std::string, std::string> kept_references();
Result<void> keep_references(const std::map<std::string, std::string>& names);

// The only process that changes the folder, for as long as this lives. The folder is made where it is missing.
class ModelsLock {
 public:
  static Result<ModelsLock> take();
  ModelsLock(ModelsLock&& other) noexcept;
  ModelsLock(const ModelsLock&) = delete;
  ModelsLock& operator=(const ModelsLock&) = delete;
  ModelsLock& operator=(ModelsLock&&) = delete;
  ~ModelsLock();
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  ModelsLock(std::filesystem::path folder, int lock) : folder_(std::move(folder)), lock_(lock) {}
  std::filesystem::path folder_;
  int lock_;
};

}  // namespace plumb::store
