// Traces: the named values of a run in one safetensors file, written by Plumb or by another engine, read by diagnosis.
//
// The format is the safetensors project's (https://github.com/huggingface/safetensors, "Format"): 8 bytes of little-endian
// header length, a JSON header, then the values' bytes. A key is "<step>/<value name>", step 0 being the prompt's pass and
// 1, 2, … decode steps; value names are architecture.md's. Values are F32, F16 or BF16 of shape [rows, width] (other
// shapes are read as their last dimension by all others). "__metadata__" has strings only: format "plumb-trace", version
// "1", engine, model, prompt, tokens (a JSON list: those of step 0, then one a step), and optionally model_sha256,
// positions (a JSON list as long as tokens) and parameters (a JSON object of the engine's hyper-parameters).
//
// A trace is untrusted: what is read here is bounded by the file's size, and errors say where it is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/new_file.h"
#include "base/result.h"
#include "gguf/mapping.h"

namespace plumb::trace {

// What an engine says of itself. docs/trace.md lists the names that a diagnosis compares.
struct Parameter {
  std::string name;
  std::string value;  // as JSON: a number, a string, true or false
};

struct Info {
  std::string engine;
  std::string model;         // file name
  std::string model_sha256;  // empty: unknown
  std::string prompt;
  std::vector<std::int32_t> tokens;
  std::vector<std::uint32_t> positions;  // empty: 0, 1, 2, …
  std::vector<Parameter> parameters;
};

enum class Dtype : std::uint8_t { f32, f16, bf16 };
std::string_view name(Dtype dtype);

struct Value {
  std::uint32_t step = 0;
  std::string name;
  Dtype dtype = Dtype::f32;
  std::uint64_t rows = 0;
  std::uint64_t width = 0;
  std::span<const std::byte> bytes;  // row-major
  // As float32, which is exact.
  [[nodiscard]] std::vector<float> floats() const;
};

class Trace {
 public:
  // Errors: no safetensors file (truncated, a header that is no JSON object or too long), metadata of another format or
  // version, tokens that are no list of ids, a key without a step, a type other than the three, bytes that lie outside the
  // file, do not fit the shape or belong to two values.
  static Result<Trace> open(const std::filesystem::path& path);
  // The same of a file's bytes, which must outlive the Trace.
  static Result<Trace> parse(std::span<const std::byte> bytes);

  [[nodiscard]] const Info& info() const { return info_; }
  [[nodiscard]] std::span<const Value> values() const { return values_; }  // by step, then as they lie in the file
  [[nodiscard]] const Value* find(std::uint32_t step, std::string_view name) const;
  [[nodiscard]] std::uint32_t n_steps() const;

 private:
  Trace() = default;
  [[nodiscard]] Result<void> check_overlaps() const;

  std::optional<gguf::Mapping> file_;
  Info info_;
  std::vector<Value> values_;
};

// Writes F32 values as they come. The file appears under its name when finish() succeeds.
class Writer {
 public:
  // info: as far as it is known; finish() may be given more tokens, one a value at most. max_values: how many values add()
  // will be called with at most, of names of up to 100 bytes. Errors: more values than a reader takes; what NewFile says.
  static Result<Writer> create(const std::filesystem::path& path, const Info& info, std::size_t max_values);

  // data: [rows, width]
  Result<void> add(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width,
                   std::span<const float> data);
  // Some rows of a value that has `rows`, from first_row on; its first part comes first. Rows that never come are zero.
  Result<void> add_part(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width,
                        std::uint64_t first_row, std::span<const float> data);
  [[nodiscard]] bool has(std::uint32_t step, std::string_view name) const { return find(step, name) != nullptr; }
  Result<void> finish(const Info& info);

 private:
  struct Entry {
    std::string key;
    std::uint64_t rows = 0, width = 0, begin = 0, end = 0;
  };
  [[nodiscard]] const Entry* find(std::uint32_t step, std::string_view name) const;
  Writer(NewFile file, std::uint64_t header_room) : file_(std::move(file)), header_room_(header_room) {}

  NewFile file_;
  std::uint64_t header_room_;
  std::uint64_t n_bytes_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace plumb::trace
