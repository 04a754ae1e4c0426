#include "backends/cpu/isa.h"

#if defined(PLUMB_CPU_X86)
#include <cpuid.h>
#endif

namespace plumb::backends {

#if defined(PLUMB_CPU_X86)
namespace {

#define has(feature) (__builtin_cpu_supports(feature) != 0)

// Clang's __builtin_cpu_supports does not know F16C.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}

}  // namespace
#endif

std::vector<Isa> cpu_isas() {
#if defined(PLUMB_CPU_X86)
  __builtin_cpu_init();
#endif
  std::vector<Isa> isas;
#define PLUMB_ISA(name, present) \
  if (present) isas.push_back(Isa::name);
  PLUMB_CPU_ISAS(PLUMB_ISA)
#undef PLUMB_ISA
  return isas;
}

std::string_view name(Isa isa) {
#define PLUMB_ISA(name, present) #name,
  static constexpr std::string_view names[] = {PLUMB_CPU_ISAS(PLUMB_ISA)};
#undef PLUMB_ISA
  return names[static_cast<std::size_t>(isa)];
}

namespace cpu {

const KernelTable& kernels(Isa isa) {
#define PLUMB_ISA(name, present) name##_kernels,
  static constexpr const KernelTable& (*tables[])() = {PLUMB_CPU_ISAS(PLUMB_ISA)};
#undef PLUMB_ISA
  return tables[static_cast<std::size_t>(isa)]();
}

Operand operand(quants::Format format) {
  constexpr Operand floats = Operand::f32, small = Operand::x128, super = Operand::x256;
#define PLUMB_FORMAT(id, type, NAME, family, writing) family,
  static constexpr Operand operands[] = {PLUMB_FORMATS(PLUMB_FORMAT)};
#undef PLUMB_FORMAT
  return operands[quants::index(format)];
}

}  // namespace cpu
}  // namespace plumb::backends
