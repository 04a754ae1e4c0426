// The tuned CUDA kernels, compiled as C++ and instrumented (CMakeLists.txt). The namespace cuda is renamed there, so that
// this and the real backend live in one program.
#include "backends/cuda/decode_attention.cu"
#include "backends/cuda/few_rows.cu"
#include "backends/cuda/products.cu"
#include "backends/cuda/prompt_attention.cu"
#include "backends/cuda/rows.cu"
