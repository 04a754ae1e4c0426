// The matrix instructions of sm_80 and newer that Plumb's kernels use (mma.m16n8k16, ldmatrix), with the fragment layouts
// of the PTX ISA. The checker has its own version of them (src/backends/checker/cuda), as it has of launch() in grid.h.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

namespace plumb::backends::cuda {

// Two floats as halves, the first in the low bits.
__device__ __forceinline__ unsigned pack_halves(float low, float high) {
  union {
    __half2 halves;
    unsigned word;
  } packed;
  packed.halves = __floats2half2_rn(low, high);
  return packed.word;
}

#ifdef __CUDACC__

// d += a b. a [16, 16] and b [16, 8] are half, d [16, 8] is float; all are spread over a warp.
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four matrices [8, 8] of half from shared memory. Lane 8 m + r gives the address of row r of matrix m (16 bytes,
// aligned).
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const unsigned short* row) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
}
// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const unsigned short* row) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
}

#endif

}  // namespace plumb::backends::cuda
