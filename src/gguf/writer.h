// Writes GGUF version 3 files. Metadata values and tensor bytes may come from a mapped File (views are fine: they
// must live until write() returns). The file appears under its name only when complete: it is written beside it and
// renamed.
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
  // Sets a key (keeps the place of an earlier one of that name). general.alignment is the writer's own: 32, GGUF's
  // default, so that setting that key changes nothing.
  void set(std::string key, Value value);
  void erase(std::string_view key);

  // Produces a tensor's bytes, exactly row_bytes * rows, when its turn to be written comes; called once for each write()
  // or to_memory(), in order. The bytes are zero before.
  using Produce = std::function<Result<void>(std::span<std::byte> bytes)>;
  void add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims, Produce produce);
  void add_tensor(std::string name, quants::Format format, std::span<const std::uint64_t> dims,
                  std::span<const std::byte> bytes);

  // Called as bytes are written, for progress bars: (done, total) tensor bytes.
  using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

  // Errors: a name added twice, dimensions that do not fit the format, the wrong number of bytes, no room, no permission;
  // nothing is left behind then, and a file that was there before stays as it was.
  [[nodiscard]] Result<void> write(const std::filesystem::path& path, const Progress& progress = {}) const;
  // The same bytes in memory (self-tests quantize the canary this way).
  [[nodiscard]] Result<std::vector<std::byte>> to_memory() const;

 private:
  struct Item {
    std::string name;
    quants::Format format;
    std::vector<std::uint64_t> dims;
    Produce produce;  // empty when the bytes were given
    std::span<const std::byte> bytes;
  };
  struct Layout;
  [[nodiscard]] Result<Layout> layout() const;
  [[nodiscard]] Result<void> write_unlabelled(const std::filesystem::path& path, const Progress& progress) const;
  std::vector<std::pair<std::string, Value>> metadata_;
  std::vector<Item> tensors_;
};

}  // namespace plumb::gguf
