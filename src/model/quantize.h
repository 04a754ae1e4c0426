// `plumb quantize`: a model in another file type.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "gguf/writer.h"
#include "model/file_type.h"
#include "quants/format.h"

namespace plumb::model {

struct QuantizeOptions {
  std::uint32_t n_threads = 0;  // 0: one for each core
};

// What became of a tensor.
struct TensorReport {
  std::string name;
  quants::Format from;
  quants::Format to;
  bool requantized = false;  // `from` was quantized already: its errors stay, and those of `to` come on top
  std::uint64_t n_weights = 0;
  // Against the weights as `in` stores them; 0 where they were copied. Known once the tensor has been written.
  double rmse = 0;
  double max_error = 0;
};

// A Writer for `in` in that file type, general.file_type and general.quantization_version set and a split set made one
// file. Weights are encoded as the Writer asks for them, a tensor at a time, on all threads; the bytes do not depend on how
// many. The Writer keeps the mapping of `in`, and fills in `report` (which must live as long), in the order of tensors.
// Errors, some only when writing: choose_formats', and a weight that is infinite or not a number.
Result<gguf::Writer> quantize(const gguf::File& in, FileType type, const QuantizeOptions& options = {},
                              std::vector<TensorReport>* report = nullptr);

}  // namespace plumb::model
