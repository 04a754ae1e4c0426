// The tuned CUDA kernels, compiled as instrumented C++. CMakeLists.txt renames the namespace cuda, so that these kernels
// and the real backend fit into one program.
#include "backends/cuda/decode_attention.cu"
#include "backends/cuda/few_rows.cu"
#include "backends/cuda/products.cu"
#include "backends/cuda/prompt_attention.cu"
#include "backends/cuda/rows.cu"
