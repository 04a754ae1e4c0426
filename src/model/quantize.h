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

// What was done to a tensor.
struct TensorReport {
  std::string name;
  quants::Format from;
  quants::Format to;
  bool requantized = false;  // `from` is a quantized format: the errors of both formats add up
  std::uint64_t n_weights = 0;
  // Root mean square difference from the weights that `in` stores; 0 for a copy. Known once the tensor has been written.
  double rmse = 0;
  double max_error = 0;
};

// A Writer that writes `in` as that file type, with general.file_type and general.quantization_version set; a split set
// becomes one file. The Writer encodes one tensor at a time, on all threads, when the tensor is written; the bytes do not
// depend on the number of threads. The Writer keeps `in` mapped, and fills in `report`, which must live as long, in the
// order of tensors. Errors, some only when writing: those of choose_formats; a weight that is NaN or infinite.
Result<gguf::Writer> quantize(const gguf::File& in, FileType type, const QuantizeOptions& options = {},
                              std::vector<TensorReport>* report = nullptr);

}  // namespace plumb::model
