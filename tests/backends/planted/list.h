// The planted kernels. params.defect switches a kernel's defect on; with 0 the kernel is healthy.
// X(signature, name, threads in a threadgroup), as in src/backends/gpu/kernels/list.h.
#pragma once

#define SIGNATURE_planted(IN, OUT, INOUT, SHARED, PARAMS) IN(0, float, x) OUT(1, float, y) PARAMS(2, PlantedParams)
#define SIGNATURE_planted_shared(IN, OUT, INOUT, SHARED, PARAMS) \
  IN(0, float, x) OUT(1, float, y) SHARED(PlantedShared, s) PARAMS(2, PlantedParams)

// Two SIMD-groups.
#define PLANTED_THREADS 64

#define PLANTED_KERNEL_LIST(X)                                   \
  X(planted, read_at_offset, PLANTED_THREADS)                    \
  X(planted, write_at_offset, PLANTED_THREADS)                   \
  X(planted, vector_at_offset, PLANTED_THREADS)                  \
  X(planted, copied_by_one_thread, PLANTED_THREADS)              \
  X(planted, cleared_by_one_thread, PLANTED_THREADS)             \
  X(planted, copied_as_struct, PLANTED_THREADS)                  \
  X(planted, write_to_input, PLANTED_THREADS)                    \
  X(planted, element_left_out, PLANTED_THREADS)                  \
  X(planted, output_read_first, PLANTED_THREADS)                 \
  X(planted, groups_write_one_element, PLANTED_THREADS)          \
  X(planted, group_reads_what_another_writes, PLANTED_THREADS)   \
  X(planted, barrier_for_device_memory, PLANTED_THREADS)         \
  X(planted_shared, shared_read_at_offset, PLANTED_THREADS)      \
  X(planted_shared, shared_write_at_offset, PLANTED_THREADS)     \
  X(planted_shared, shared_element_left_out, PLANTED_THREADS)    \
  X(planted_shared, shared_of_the_group_before, PLANTED_THREADS) \
  X(planted_shared, barrier_before_read, PLANTED_THREADS)        \
  X(planted_shared, barrier_before_write, PLANTED_THREADS)       \
  X(planted_shared, simd_barrier_before_read, PLANTED_THREADS)   \
  X(planted_shared, simd_barrier_before_write, PLANTED_THREADS)  \
  X(planted, barrier_for_some_threads, PLANTED_THREADS)          \
  X(planted, barriers_at_two_places, PLANTED_THREADS)            \
  X(planted, simd_sum_for_some_lanes, PLANTED_THREADS)           \
  X(planted, simd_operations_of_two_kinds, PLANTED_THREADS)      \
  X(planted, simd_sum_beside_a_barrier, PLANTED_THREADS)         \
  X(planted, shuffle_at_offset, PLANTED_THREADS)
