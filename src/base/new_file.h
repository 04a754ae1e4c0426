// A file that appears under its name only when it is complete: a temporary file in the same folder is written and renamed.
// Until then an existing file of that name stays as it was. Where writing ends early, by a signal too, nothing is left
// behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "base/at_signal.h"
#include "base/result.h"

namespace plumb {

class NewFile {
 public:
  // If `path` is a link, the file that it points to is replaced, and the link stays. Errors: `path` exists and is not a
  // regular file; no permission.
  static Result<NewFile> create(const std::filesystem::path& path);

  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  Result<void> append(std::span<const std::byte> bytes);
  // Appends n zeros, which take no space on disk until they are overwritten.
  Result<void> extend(std::uint64_t n);
  // Overwrites bytes that were appended before.
  Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Gives the file its name. Nothing may be written afterwards.
  Result<void> finish();

 private:
  NewFile(int fd, std::filesystem::path temporary, std::filesystem::path target, RemovedAtSignal removed);
  int fd_;
  std::filesystem::path temporary_, target_;
  std::optional<RemovedAtSignal> removed_;  // while there is a temporary file
};

}  // namespace plumb
