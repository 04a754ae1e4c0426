// Large products of half-precision matrices by cuBLASLt. The library is opened at run time: Plumb builds and starts without
// it.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "base/result.h"

namespace plumb::backends::cuda {

class CublasLt {
 public:
  // Error: the library is missing.
  static Result<std::unique_ptr<CublasLt>> open();
  virtual ~CublasLt() = default;
  // y[r, j] = *alpha * sum_i w[j, i] x[r, i]. w [n_out, n_in] and x [n_rows, n_in] are half, y [n_rows, n_out] and sums are
  // float; alpha is in device memory.
  virtual Result<void> multiply(const void* w, const void* x, const float* alpha, float* y, unsigned n_in, unsigned n_out,
                                unsigned n_rows, cudaStream_t stream) = 0;
};

}  // namespace plumb::backends::cuda
