// The CUDA backend's choice of kernels, calling cuda_kernels.cpp's.
#include "backends/cuda/fusion.cpp"
#include "backends/cuda/tuning.cpp"
