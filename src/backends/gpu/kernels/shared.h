// Threadgroup memory: the types of the SHARED arguments of kernels/interface.h, defined once for host, Metal, CUDA and
// checker. The host needs their sizes (KernelInfo::shared_bytes), since Metal takes them at each launch. They have only
// 4-byte fields and float4, so that the sizes are the same on all targets.
#pragma once

struct ReduceShared {
  float values[PLUMB_REDUCE_THREADS / 32];
  uint indices[PLUMB_REDUCE_THREADS / 32];
};

#define MAX_EXPERT_GROUPS 64
struct TopKShared {
  ReduceShared reduce;
  float of_group[MAX_EXPERT_GROUPS];
  uint is_used[MAX_EXPERT_GROUPS];
};

// The result of each SIMD-group over its positions.
#define ATTENTION_SIMDS (PLUMB_ATTENTION_THREADS / 32)
#define MAX_HEAD_DIM 512
struct AttentionShared {
  float values[ATTENTION_SIMDS * MAX_HEAD_DIM];
  float largest[ATTENTION_SIMDS];
  float sum[ATTENTION_SIMDS];
};

// A tile of a product: 64 outputs by 32 rows. Both operands have n_in outermost, so that four neighbours are one load. Each
// line has 4 extra elements, so that columns are not all on one bank.
#define LINEAR_TILE_OUT 64
#define LINEAR_TILE_ROWS 32
#define LINEAR_STRIDE_W (LINEAR_TILE_OUT + 4)
#define LINEAR_STRIDE_X (LINEAR_TILE_ROWS + 4)
struct LinearTiles {
  float4 w[32 * LINEAR_STRIDE_W / 4];
  float4 x[32 * LINEAR_STRIDE_X / 4];
};
