// Kernels in the dialect of src/backends/gpu/kernels; with p.defect = 0 they are healthy. Each copies x to y in its own
// way. The grid has a few more threads than y has elements.
#pragma once

#include "backends/gpu/kernels/dialect.h"
#include "backends/planted/list.h"
#include "backends/planted/params.h"

struct PlantedShared {
  float values[PLANTED_THREADS];
};

#define ELEMENT (GROUP_X * PLANTED_THREADS + THREAD_INDEX)

KERNEL(planted, read_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) y[i] = x[int(i + p.defect)];
}

KERNEL(planted, write_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) y[int(i + p.defect)] = x[i];
}

KERNEL(planted, vector_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (4 * i < p.n) {
    const float4 four = *(DEVICE const float4*)(x + 4 * i + p.defect);
    y[4 * i] = four.x;
    y[4 * i + 1] = four.y;
    if (4 * i + 2 < p.n) y[4 * i + 2] = four.z;
    if (4 * i + 3 < p.n) y[4 * i + 3] = four.w;
  }
}

KERNEL(planted, copied_by_one_thread, PLANTED_THREADS) {
  if (ELEMENT == 0) {
    for (uint i = 0; i < p.n; ++i) y[i] = x[i + p.defect];
  }
}

KERNEL(planted, cleared_by_one_thread, PLANTED_THREADS) {
  if (ELEMENT == 0) {
    for (uint i = 0; i < p.n + p.defect; ++i) y[i] = 0.0f;
  }
}

struct PlantedRun {
  float values[20];
};
KERNEL(planted, copied_as_struct, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (20 * i < p.n) *(DEVICE PlantedRun*)(y + 20 * i) = *(DEVICE const PlantedRun*)(x + 20 * i + p.defect);
}

KERNEL(planted, write_to_input, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) y[i] = x[i];
  if (i < p.n && p.defect != 0) ((DEVICE float*)x)[i] = 0.0f;
}

KERNEL(planted, element_left_out, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n && (p.defect == 0 || i != p.defect)) y[i] = x[i];
}

KERNEL(planted, output_read_first, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) {
    if (p.defect == 0) y[i] = x[i];
    y[i] = y[i] + x[i];
  }
}

KERNEL(planted, groups_write_one_element, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) y[p.defect == 0 ? i : THREAD_INDEX] = x[i];
}

KERNEL(planted, group_reads_what_another_writes, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) {
    y[i] = x[i];
    if (p.defect != 0 && GROUP_X == 1) y[i] = y[i - PLANTED_THREADS] + x[i];
  }
}

// BARRIER orders shared memory only.
KERNEL(planted, barrier_for_device_memory, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (i < p.n) y[i] = x[i];
  BARRIER();
  if (i < p.n) y[i] = y[p.defect == 0 ? i : (i ^ 1u)] + x[i];
}

KERNEL(planted_shared, shared_read_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  BARRIER();
  if (i < p.n) y[i] = s->values[PLANTED_THREADS - 1 - THREAD_INDEX + p.defect];
}

KERNEL(planted_shared, shared_write_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  s->values[THREAD_INDEX + p.defect] = i < p.n ? x[i] : 0.0f;
  BARRIER();
  if (i < p.n) y[i] = s->values[PLANTED_THREADS - 1 - THREAD_INDEX];
}

KERNEL(planted_shared, shared_element_left_out, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (p.defect == 0 || THREAD_INDEX != p.defect) s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  BARRIER();
  if (i < p.n) y[i] = s->values[PLANTED_THREADS - 1 - THREAD_INDEX];
}

KERNEL(planted_shared, shared_of_the_group_before, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (p.defect == 0 || GROUP_X == 0) s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  BARRIER();
  if (i < p.n) y[i] = s->values[PLANTED_THREADS - 1 - THREAD_INDEX];
}

KERNEL(planted_shared, barrier_before_read, PLANTED_THREADS) {
  const uint i = ELEMENT;
  s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  if (p.defect == 0) BARRIER();
  if (i < p.n) y[i] = s->values[p.defect == 2 ? THREAD_INDEX / 2 : PLANTED_THREADS - 1 - THREAD_INDEX];
}

KERNEL(planted_shared, barrier_before_write, PLANTED_THREADS) {
  const uint i = ELEMENT;
  s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  BARRIER();
  const float first = s->values[PLANTED_THREADS - 1 - THREAD_INDEX];
  if (p.defect == 0) BARRIER();
  s->values[THREAD_INDEX] = 2.0f * first;
  BARRIER();
  if (i < p.n) y[i] = s->values[PLANTED_THREADS - 1 - THREAD_INDEX];
}

// A SIMD-group's own half of shared memory needs its lanes' barrier only; with p.defect 2 the other half is read.
KERNEL(planted_shared, simd_barrier_before_read, PLANTED_THREADS) {
  const uint i = ELEMENT;
  s->values[THREAD_INDEX] = i < p.n ? x[i] : 0.0f;
  if (p.defect != 1) SIMD_BARRIER();
  if (i < p.n) y[i] = s->values[THREAD_INDEX ^ (p.defect == 2 ? 63u : 31u)];
}

// Every lane reads what its SIMD-group's first lane wrote, which then writes something else.
KERNEL(planted_shared, simd_barrier_before_write, PLANTED_THREADS) {
  const uint i = ELEMENT;
  float sum = 0.0f;
  for (uint round = 0; round < 3; ++round) {
    if (LANE == 0) s->values[SIMD_INDEX] = float(round);
    SIMD_BARRIER();
    sum += s->values[SIMD_INDEX];
    if (p.defect == 0) SIMD_BARRIER();
  }
  if (i < p.n) y[i] = sum + x[i];
}

KERNEL(planted, barrier_for_some_threads, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (p.defect == 0 || THREAD_INDEX < 40) BARRIER();
  if (i < p.n) y[i] = x[i];
}

KERNEL(planted, barriers_at_two_places, PLANTED_THREADS) {
  const uint i = ELEMENT;
  if (p.defect == 0 || THREAD_INDEX < 40) {
    BARRIER();
  } else {
    BARRIER();
  }
  if (i < p.n) y[i] = x[i];
}

KERNEL(planted, simd_sum_for_some_lanes, PLANTED_THREADS) {
  const uint i = ELEMENT;
  float sum = 0.0f;
  if (p.defect == 0 || LANE < 16) sum = simd_sum(1.0f);
  if (i < p.n) y[i] = x[i] + sum;
}

KERNEL(planted, simd_operations_of_two_kinds, PLANTED_THREADS) {
  const uint i = ELEMENT;
  float all = 0.0f;
  if (p.defect == 0 || LANE < 16) {
    all = simd_sum(1.0f);
  } else {
    all = simd_max(1.0f);
  }
  if (i < p.n) y[i] = x[i] + all;
}

KERNEL(planted, simd_sum_beside_a_barrier, PLANTED_THREADS) {
  const uint i = ELEMENT;
  float sum = 0.0f;
  if (p.defect == 0 || LANE < 16) sum = simd_sum(1.0f);
  BARRIER();
  if (i < p.n) y[i] = x[i] + sum;
}

KERNEL(planted, shuffle_at_offset, PLANTED_THREADS) {
  const uint i = ELEMENT;
  const float other = simd_shuffle(i < p.n ? x[i] : 0.0f, 31 - LANE + p.defect);
  if (i < p.n) y[i] = other;
}
