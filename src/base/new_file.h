// A file that appears under its name only when it is complete: it is written beside it and renamed. What was there before
// stays as it was until then, and nothing is left behind where writing ends early.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace plumb {

class NewFile {
 public:
  // What a link at `path` points at is replaced, not the link. Errors: something there that is no regular file; no
  // permission.
  static Result<NewFile> create(const std::filesystem::path& path);

  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  Result<void> append(std::span<const std::byte> bytes);
  // Appends n zeros, which take no space until they are written over.
  Result<void> extend(std::uint64_t n);
  // Over what was appended before.
  Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Gives it its name; nothing may be written after.
  Result<void> finish();

 private:
  NewFile(int fd, std::filesystem::path temporary, std::filesystem::path target);
  int fd_;
  std::filesystem::path temporary_, target_;
};

}  // namespace plumb
