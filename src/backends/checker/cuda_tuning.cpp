// The CUDA backend's choice of kernels, which here calls those of cuda_kernels.cpp.
#include "backends/cuda/fusion.cpp"
#include "backends/cuda/tuning.cpp"
