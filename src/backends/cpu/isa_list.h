// The instruction sets there are kernels for, weakest first: X(name, present). Each is one file, kernels_<name>.cpp, which
// defines <name>_kernels(); `present` says whether the processor has what that file is compiled for (its flags are in
// CMakeLists.txt), and may use has(), which isa.cpp defines. The enumeration and all tables are made from this list.
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
