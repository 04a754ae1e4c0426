// What a file is that is no language model in GGUF: recognized by its first bytes or by its metadata, in words that say
// what to do with it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "gguf/file.h"

namespace plumb::gguf {

// For bytes that do not begin with GGUF's magic: "a Git LFS pointer; ...", which completes the sentence "this is ...".
// `label` is the file's path.
std::string describe_foreign(std::span<const std::byte> bytes, std::string_view label);

// Error: the file is of another kind, by its own metadata: an adapter, an importance matrix, a projector for images. The
// message names the kind.
Result<void> expect_model(const File& file);

}  // namespace plumb::gguf
