// Models fetched from Hugging Face, an Ollama registry, a URL or a package, and kept under a name (store/model_store.h).
//
// A model gets its name only when all its files are complete, have the expected SHA-256 (as the source or the user states
// it), and open as a valid GGUF. Until then they lie in a folder of their own, .partial, where the next pull of the same
// model finds them and goes on; parts that nobody asked for in a week are removed. Only one pull runs at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/http.h"
#include "cli/package.h"

namespace plumb::cli {

// Called now and then with the bytes of the current stage ("download", "unpack", "check"). A total of 0 means unknown.
// Returning false stops the pull.
using PullProgress = std::function<bool(std::string_view stage, std::uint64_t done, std::uint64_t total)>;

struct PullOptions {
  std::string sha256;              // the expected SHA-256 of a URL's file, 64 hexadecimal digits; empty: any
  std::string name;                // what to call the model; empty: by its file or its name at the source
  std::chrono::seconds stall{30};  // a server that sends nothing for so long is taken for gone
};

struct WantedFile {
  std::string url;
  ExpectedFile expected;
};

// What a pull would fetch.
struct Wanted {
  std::string name;                     // what it will be called
  std::string source;                   // where from, for people: "Model-Q4_K_M.gguf from hf:OWNER/REPO"
  std::vector<WantedFile> files;        // in the order of a split set
  const KnownModel* package = nullptr;  // in place of files
  std::string token;                    // for the server that is asked first
  std::vector<std::string> headers;
  std::vector<std::string> references;        // its canonical references
  [[nodiscard]] std::uint64_t bytes() const;  // of all files; 0: unknown
};

// Finds out what a name means: that of a known model, a reference (reference.h), or a URL. Asks Hugging Face or the
// registry where the name is one of theirs. Errors: there is no such model, the server cannot be asked, the options do not
// fit.
Result<Wanted> find_wanted(const std::string& asked, const PullOptions& options, const PullProgress& progress);

// Whether it could be fetched now: its server has the first file, or an index has its package.
Result<void> can_be_pulled(const Wanted& wanted, const PullOptions& options);

// Fetches it. Returns the path to open. What is already there with the right hash is not fetched again.
Result<std::filesystem::path> pull(const Wanted& wanted, const PullOptions& options, const PullProgress& progress);

}  // namespace plumb::cli
