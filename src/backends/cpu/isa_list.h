// The instruction sets with kernels, weakest first: X(name, present). Each is one file, kernels_<name>.cpp, which defines
// <name>_kernels(). `present` is true if the processor has the instructions for which the file is compiled (CMakeLists.txt
// has its flags); it may use has() of isa.cpp. The enumeration and all tables are made from this list.
#pragma once

#define PLUMB_PORTABLE_ISAS(X) X(scalar, true)

#if defined(PLUMB_CPU_X86)
#define PLUMB_CPU_ISAS(X)                          \
  PLUMB_PORTABLE_ISAS(X)                           \
  X(avx2, has("avx2") && has("fma") && has_f16c()) \
  X(avx512, has("avx512f") && has("avx512bw") && has("avx512vl") && has("avx512dq") && has("avx512vnni"))
#else
#define PLUMB_CPU_ISAS(X) PLUMB_PORTABLE_ISAS(X)
#endif
