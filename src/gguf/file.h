// A GGUF file (version 2 or 3, little-endian), or a split set of them, mapped and validated.
//
// open() validates the file before it returns: the header; counts (can the file hold as many?); string lengths; value
// types; duplicate keys and tensor names; tensor types; dimensions (their product must not overflow, and a row must be a
// whole number of blocks; a tensor with a dimension of 0 has no values); alignment; and that every tensor's bytes lie
// inside the data section and no two overlap. An error names the file, the item and the byte offset. No allocation is
// larger than the file's size justifies. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gguf/value.h"
#include "quants/format.h"

namespace plumb::gguf {

inline constexpr std::size_t max_dims = 4;
// Of a tensor; its dimensions that are zero do not count. Bytes, padding and their sums then cannot overflow.
inline constexpr std::uint64_t max_elements = std::uint64_t{1} << 56;

// The largest counts that a file may state, far above those of any real model. They stop a damaged count from building
// gigabytes of index. GGUF itself sets no bounds.
inline constexpr std::uint64_t max_tensors = std::uint64_t{1} << 20;
inline constexpr std::uint64_t max_metadata = std::uint64_t{1} << 20;
inline constexpr std::uint64_t max_indexed = std::uint64_t{1} << 24;  // strings in arrays and arrays in arrays, together

struct Tensor {
  std::string_view name;
  quants::Format format;
  std::uint32_t n_dims = 0;
  // In GGUF's order: dims[0] is contiguous. A weight [out, in] has dims {in, out}. Unused dimensions are 1.
  std::array<std::uint64_t, max_dims> dims{1, 1, 1, 1};
  std::span<const std::byte> data;  // the tensor's bytes, mapped
  std::uint64_t file_offset = 0;    // where data starts in its file
  std::uint32_t shard = 0;          // which file of a split set

  [[nodiscard]] std::uint64_t n_elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  [[nodiscard]] std::uint64_t n_rows() const { return dims[1] * dims[2] * dims[3]; }
};

// The name of one file of a split set, such as "model-00002-of-00003.gguf".
struct ShardName {
  std::string prefix;        // what comes before "-00002"
  std::uint64_t number = 0;  // from 1
  std::uint64_t count = 0;
};
std::optional<ShardName> shard_name(std::string_view filename);
// The name of file `number` of the set.
std::string shard_filename(const ShardName& set, std::uint64_t number);

class File {
 public:
  // Maps `path`. If it is the first file of a split set (`-00001-of-0000N.gguf`), maps the whole set as one file.
  static Result<File> open(const std::filesystem::path& path);
  // Reads from memory that outlives the File (the embedded canary, fuzzing). `label` stands for the file in messages. The
  // bytes must start at a multiple of 8, as memory from operator new does, so that alignment in the file is alignment in
  // memory.
  static Result<File> from_memory(std::span<const std::byte> bytes, std::string label);

  [[nodiscard]] std::uint32_t version() const;
  [[nodiscard]] std::uint64_t alignment() const;
  [[nodiscard]] const std::string& label() const;  // path or label, for messages
  [[nodiscard]] std::uint64_t size_bytes() const;  // of all shards
  [[nodiscard]] std::uint32_t n_shards() const;

  // Metadata in file order (the first shard's; split.* keys included).
  [[nodiscard]] std::span<const std::pair<std::string_view, Value>> metadata() const;
  [[nodiscard]] const Value* find(std::string_view key) const;  // null when absent

  // Typed look-ups. Exporters differ in how they write a number, so what counts is its value: an integer may have any
  // width, a float may be written as an integer, a bool as 0 or 1, and any of them as an array of equal values (one for
  // each block). Errors name file and key: the key is missing, its value has another type, or the value does not fit.
  [[nodiscard]] Result<std::uint64_t> get_uint(std::string_view key) const;
  [[nodiscard]] Result<double> get_float(std::string_view key) const;
  [[nodiscard]] Result<bool> get_bool(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> get_string(std::string_view key) const;
  // An array whose elements have this type.
  [[nodiscard]] Result<const Array*> get_array(std::string_view key, ValueType element) const;
  // The elements of an array of integers that fit 64 bits with sign; of one of integers or floats.
  [[nodiscard]] Result<std::vector<std::int64_t>> get_integers(std::string_view key) const;
  [[nodiscard]] Result<std::vector<double>> get_numbers(std::string_view key) const;

  [[nodiscard]] std::span<const Tensor> tensors() const;            // file order, shard by shard
  [[nodiscard]] const Tensor* tensor(std::string_view name) const;  // null when absent

 private:
  struct State;
  explicit File(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  [[nodiscard]] Result<const Value*> require(std::string_view key) const;
  template <class T>
  [[nodiscard]] Result<std::vector<T>> get_all(std::string_view key, std::string_view what) const;
  std::shared_ptr<const State> state_;  // copies of a File share the mapping
};

}  // namespace plumb::gguf
