// Traces: the named values of a run in one safetensors file, written by Plumb or by another engine, read by diagnosis.
//
// The format is safetensors (https://github.com/huggingface/safetensors, "Format"): the header's length in 8 little-endian
// bytes, a JSON header, then the values' bytes. A key is "<step>/<value name>": step 0 is the prompt's pass, steps 1, 2, …
// are decode steps, and docs/architecture.md lists the value names. Values are F32, F16 or BF16 of shape [rows, width]; in
// other shapes the last dimension is the width, and the product of the others the number of rows. "__metadata__" has
// strings only: format "plumb-trace", version "1", engine, model, prompt, tokens (a JSON list: those of step 0, then one
// for each later step), and optionally model_sha256, positions (a JSON list as long as tokens), context (a number) and
// parameters (a JSON object of the engine's hyper-parameters).
//
// A trace is untrusted: memory use is bounded by the file's size, and errors say where the file is wrong.
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

// A hyper-parameter that the engine reports. docs/trace.md lists the names that a diagnosis compares.
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
  std::uint32_t context = 0;  // positions of the cache that the engine made for the run; 0: unknown
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
  // Errors: not a safetensors file (truncated; a header that is too long or no JSON object); metadata of another format or
  // version; tokens that are no list of ids; a key without a step; a type other than F32, F16 and BF16; a value whose bytes
  // lie outside the file, do not fit its shape, or overlap another value's.
  static Result<Trace> open(const std::filesystem::path& path);
  // The same for a file's bytes in memory, which must outlive the Trace.
  static Result<Trace> parse(std::span<const std::byte> bytes);

  [[nodiscard]] const Info& info() const { return info_; }
  [[nodiscard]] std::span<const Value> values() const { return values_; }  // by step, then in the file's order
  [[nodiscard]] const Value* find(std::uint32_t step, std::string_view name) const;
  [[nodiscard]] std::uint32_t n_steps() const;

 private:
  Trace() = default;
  [[nodiscard]] Result<void> check_overlaps() const;

  std::optional<gguf::Mapping> file_;
  Info info_;
  std::vector<Value> values_;
};

// Writes F32 values one after another. The file appears under its name when finish() succeeds.
class Writer {
 public:
  // info: all that is known now; finish() may be given more tokens, at most one for each value. max_values: the largest
  // number of values that will be added; their names have at most 100 bytes. Errors: more values than a reader takes; those
  // of NewFile.
  static Result<Writer> create(const std::filesystem::path& path, const Info& info, std::size_t max_values);

  // data: [rows, width]
  Result<void> add(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width,
                   std::span<const float> data);
  // Adds some rows, from first_row on, of a value of `rows` rows. Parts may come in any order; missing rows are zero.
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
  // Lists a value whose bytes lie behind those of all others.
  const Entry& enter(std::uint32_t step, std::string_view name, std::uint64_t rows, std::uint64_t width);
  Writer(NewFile file, std::uint64_t header_room) : file_(std::move(file)), header_room_(header_room) {}

  NewFile file_;
  std::uint64_t header_room_;
  std::uint64_t n_bytes_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace plumb::trace
