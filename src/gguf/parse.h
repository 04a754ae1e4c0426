// Reads and validates the bytes of one GGUF file. File joins the ParsedFiles of a split set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "gguf/value.h"

namespace plumb::gguf {

inline constexpr std::uint64_t default_alignment = 32;

struct ParsedFile {
  std::uint32_t version = 0;
  std::uint64_t alignment = default_alignment;
  std::vector<std::pair<std::string_view, Value>> metadata;
  std::vector<Tensor> tensors;               // their `shard` is 0
  std::vector<std::uint64_t> entry_offsets;  // where each tensor's directory entry starts
};

// Checks everything that can be checked within one file. `label` stands for the file in messages.
Result<ParsedFile> parse(std::span<const std::byte> bytes, const std::string& label);

// A name from a file as messages show it: in quotes, cut when long, and escaped where it is not printable ASCII.
std::string in_quotes(std::string_view text);

}  // namespace plumb::gguf
