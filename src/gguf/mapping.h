// A whole regular file mapped read-only. Its pages are read on first use, and shared by all processes that map the file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "base/at_signal.h"
#include "base/result.h"

namespace plumb::gguf {

class Mapping {
 public:
  // Errors name the path: absent, not readable, not a regular file.
  static Result<Mapping> open(const std::filesystem::path& path);

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_.get(), data_.get_deleter().size}; }

 private:
  struct Unmap {
    std::size_t size;
    void operator()(const std::byte* data) const;
  };
  Mapping(const std::byte* data, std::size_t size, const std::filesystem::path& path)
      : data_(data, Unmap{size}), watched_(bytes(), path.native()) {}
  std::unique_ptr<const std::byte[], Unmap> data_;
  MappedFromFile watched_;
};

}  // namespace plumb::gguf
