// Writes GGUF version 3 files. Metadata values and tensor bytes may be views, for instance of a mapped File; they must live
// until write() returns. The file appears under its name only when it is complete (base/new_file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "gguf/value.h"
#include "quants/format.h"

namespace plumb::gguf {

// Arrays built in memory, for Writer::set.
Array array_of(std::span<const std::string_view> strings);
Array array_of(std::span<const float> values);
Array array_of(std::span<const std::int32_t> values);

class Writer {
 public:
  // Sets a key; a key that was set before keeps its place. Setting general.alignment changes nothing: the writer always
  // uses 32, GGUF's default.
  void set(std::string key, Value value);
  void erase(std::string_view key);

  // Fills in a tensor's bytes, row_bytes * rows of them, when its turn to be written comes. Called in order, once for each
  // write() or to_memory(). The bytes are zero beforehand.
  using Produce = std::function<Result<void>(std::span<std::byte> bytes)>;
  void add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims, Produce produce);
  void add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims,
                  std::span<const std::byte> bytes);

  // Called while tensors are written, for progress bars. Both numbers are bytes of tensors.
  using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

  // Errors: a name added twice, dimensions that do not fit the format, the wrong number of bytes, no room, no permission.
  // After an error nothing is left behind, and an existing file stays as it was.
  [[nodiscard]] Result<void> write(const std::filesystem::path& path, const Progress& progress = {}) const;
  // The same bytes in memory (self-tests quantize the canary this way).
  [[nodiscard]] Result<std::vector<std::byte>> to_memory() const;

 private:
  struct Item {
    std::string name;
    quants::Format format;
    std::vector<std::uint64_t> dims;
    Produce produce;  // empty where the tensor was added with its bytes
    std::span<const std::byte> bytes;
  };
  struct Layout;
  [[nodiscard]] Result<Layout> layout() const;
  [[nodiscard]] Result<void> write_unlabelled(const std::filesystem::path& path, const Progress& progress) const;
  std::vector<std::pair<std::string, Value>> metadata_;
  std::vector<Item> tensors_;
};

}  // namespace plumb::gguf
