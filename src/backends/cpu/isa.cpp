#include "backends/cpu/isa.h"

#if defined(PLUMB_CPU_X86)
#include <cpuid.h>
#endif

#include <cstddef>

#include "quants/blocks.h"

namespace plumb::backends {

#if defined(PLUMB_CPU_X86)
namespace {

// Clang's __builtin_cpu_supports does not know this one.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}

}  // namespace
#endif

std::vector<Isa> cpu_isas() {
  std::vector<Isa> present{Isa::scalar};
#if defined(PLUMB_CPU_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    present.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
      present.push_back(Isa::avx512);
    }
  }
#endif
  return present;
}

namespace cpu {

// unpack.h reads the blocks by these sizes and offsets.
static_assert(offsetof(quants::BlockQ4_0, qs) == 2);
static_assert(offsetof(quants::BlockQ4_1, m) == 2 && offsetof(quants::BlockQ4_1, qs) == 4);
static_assert(offsetof(quants::BlockQ5_0, qh) == 2 && offsetof(quants::BlockQ5_0, qs) == 6);
static_assert(offsetof(quants::BlockQ5_1, m) == 2 && offsetof(quants::BlockQ5_1, qh) == 4);
static_assert(offsetof(quants::BlockQ5_1, qs) == 8 && offsetof(quants::BlockQ8_0, qs) == 2);
static_assert(offsetof(quants::BlockQ2_K, qs) == 16 && offsetof(quants::BlockQ2_K, d) == 80);
static_assert(offsetof(quants::BlockQ2_K, dmin) == 82 && offsetof(quants::BlockQ3_K, qs) == 32);
static_assert(offsetof(quants::BlockQ3_K, scales) == 96 && offsetof(quants::BlockQ3_K, d) == 108);
static_assert(offsetof(quants::BlockQ4_K, dmin) == 2 && offsetof(quants::BlockQ4_K, scales) == 4);
static_assert(offsetof(quants::BlockQ4_K, qs) == 16 && offsetof(quants::BlockQ5_K, scales) == 4);
static_assert(offsetof(quants::BlockQ5_K, qh) == 16 && offsetof(quants::BlockQ5_K, qs) == 48);
static_assert(offsetof(quants::BlockQ6_K, qh) == 128 && offsetof(quants::BlockQ6_K, scales) == 192);
static_assert(offsetof(quants::BlockQ6_K, d) == 208 && offsetof(quants::BlockIQ4_NL, qs) == 2);
static_assert(offsetof(quants::BlockIQ4_XS, scales_h) == 2 && offsetof(quants::BlockIQ4_XS, scales_l) == 4);
static_assert(offsetof(quants::BlockIQ4_XS, qs) == 8 && offsetof(quants::BlockMXFP4, qs) == 1);

const KernelTable& kernels(Isa isa) {
  switch (isa) {
#if defined(PLUMB_CPU_X86)
    case Isa::avx2:
      return avx2_kernels();
    case Isa::avx512:
      return avx512_kernels();
#endif
    default:
      return scalar_kernels();
  }
}

WeightFormat weight_format(quants::Format format) {
  switch (format) {
    case quants::Format::f32:
      return WeightFormat::f32;
    case quants::Format::f16:
      return WeightFormat::f16;
    case quants::Format::bf16:
      return WeightFormat::bf16;
    case quants::Format::q4_0:
      return WeightFormat::q4_0;
    case quants::Format::q4_1:
      return WeightFormat::q4_1;
    case quants::Format::q5_0:
      return WeightFormat::q5_0;
    case quants::Format::q5_1:
      return WeightFormat::q5_1;
    case quants::Format::q8_0:
      return WeightFormat::q8_0;
    case quants::Format::iq4_nl:
      return WeightFormat::iq4_nl;
    case quants::Format::mxfp4:
      return WeightFormat::mxfp4;
    case quants::Format::q2_k:
      return WeightFormat::q2_k;
    case quants::Format::q3_k:
      return WeightFormat::q3_k;
    case quants::Format::q4_k:
      return WeightFormat::q4_k;
    case quants::Format::q5_k:
      return WeightFormat::q5_k;
    case quants::Format::q6_k:
      return WeightFormat::q6_k;
    case quants::Format::iq4_xs:
      return WeightFormat::iq4_xs;
  }
  return WeightFormat::f32;
}

Operand operand(WeightFormat format) {
  if (format <= WeightFormat::bf16) return Operand::f32;
  return format <= WeightFormat::mxfp4 ? Operand::x128 : Operand::x256;
}

}  // namespace cpu
}  // namespace plumb::backends
