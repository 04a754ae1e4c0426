// Embedding: one threadgroup a token; a thread decodes groups of 32 weights of the token's row.
#pragma once

#include "backends/gpu/kernels/formats.h"

template <class Format>
INLINE void embed_row(DEVICE const uchar* row, DEVICE float* y, uint n, float scale, uint thread_index) {
  for (uint group = thread_index; group < (n + 31) / 32; group += PLUMB_EMBED_THREADS) {
    float w[32];
    load_weights<Format>(row, group, n, w);
    for (uint i = 0; i < 32; ++i) {
      if (32 * group + i < n) y[32 * group + i] = w[i] * scale;
    }
  }
}

#define PLUMB_EMBED(format)                                                                                         \
  KERNEL(embed, embed_##format, PLUMB_EMBED_THREADS) {                                                              \
    embed_row<format##_format>(table + ulong(tokens[GROUP_X]) * p.row_bytes, y + ulong(GROUP_X) * p.width, p.width, \
                               p.scale, THREAD_INDEX);                                                              \
  }
PLUMB_KERNEL_FORMATS(PLUMB_EMBED)
