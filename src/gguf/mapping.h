// A whole regular file mapped read-only. Its pages are read on first use, and shared by all processes that map the file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace plumb::gguf {

class Mapping {
 public:
  // Errors name the path: absent, not readable, not a regular file.
  static Result<Mapping> open(const std::filesystem::path& path);

  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  Mapping(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace plumb::gguf
