// File types: the format in which each tensor of a quantized model is stored.
//
// Names, numbers (general.file_type) and the choices for each tensor are llama.cpp's, so that a file made here has the
// size, speed and formats that people expect from its name. Source of the rules:
// https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp (tools/make_quantize_goldens.py checks them).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "quants/format.h"

namespace plumb::model {

// Values are those of general.file_type.
enum class FileType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q8_0 = 7,
  q5_0 = 8,
  q5_1 = 9,
  q4_k_s = 14,
  q4_k_m = 15,
  q5_k_s = 16,
  q5_k_m = 17,
  q6_k = 18,
  bf16 = 32,
};

struct FileTypeInfo {
  FileType type;
  std::string_view name;  // "Q4_K_M"
  quants::Format format;  // the format of most tensors
};

// Every file type that Plumb writes, from the largest to the smallest.
std::span<const FileTypeInfo> file_types();
const FileTypeInfo& info(FileType type);
std::string_view name(FileType type);

// The name that llama.cpp gives a value of general.file_type, for those that Plumb does not write as well; empty where it
// is not known.
std::string_view file_type_name(std::uint64_t number);

// Where general.file_type and the formats of the blocks' matrices contradict each other: a sentence that says so. No value:
// they agree, the key is missing or unknown, or there are no such matrices.
std::optional<std::string> file_type_contradiction(const gguf::File& file);

// By name, upper or lower case; "Q4_K" and "Q5_K" mean the _M mixtures. The error lists all names.
Result<FileType> parse_file_type(std::string_view name);

// The facts about a model that the choice of formats needs, besides its tensors.
struct MixtureShape {
  std::uint64_t n_layers = 0;
  std::uint64_t n_experts = 0;
  bool is_70b = false;  // eight query heads share one V head, so attn_v is small
};

// The format of each tensor of `in`, in its order, for a file of that type. Errors: no architecture or block count; a block
// number that is not below the block count.
Result<std::vector<quants::Format>> choose_formats(const gguf::File& in, FileType type);
// The same for tensors of a file that does not exist yet: only names, formats and dimensions are read. `label` stands for
// the file in messages.
Result<std::vector<quants::Format>> choose_formats(std::span<const gguf::Tensor> tensors, const MixtureShape& shape,
                                                   FileType type, std::string_view label);

}  // namespace plumb::model
