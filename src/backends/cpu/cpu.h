// The fast backend for CPUs; it chooses kernels for the processor at run time. Weights stay in the file's mapping in their
// quantized form. Loading converts and copies only the one-dimensional weights (norms, biases, rotary factors).
//
// Numerics. A Linear with F32, F16 or BF16 weights multiplies float32 activations and accumulates in float32. With
// quantized weights, activations are rounded once per input, in blocks of 32 (formats with blocks of 32) or of 256 (the
// K-quants and IQ4_XS). They are rounded to nearest even, to whole multiples of a float32 step, amax / 127 (int8) or
// amax / (127 * 128) (int16) of their block; each activation is thus off by at most half a step. Products of weight and
// activation integers are summed exactly in int32 over a block. The block's sum is scaled and added in float32. kernels.h
// has the layouts and the order of accumulation.
//
// One thread computes each output element, in an order that depends only on the shapes of the step. The bits therefore do
// not depend on the number of threads. They do depend on the instruction set, and on the number of tokens in a step: a
// prompt cut into other steps differs in the last places of float32 (and, through the rounding of activations, within the
// bound above).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/isa_list.h"

namespace plumb::backends {

// The instruction sets that this build has kernels for, weakest first.
enum class Isa : std::uint8_t {
#define PLUMB_ISA(name, present) name,
  PLUMB_CPU_ISAS(PLUMB_ISA)
#undef PLUMB_ISA
};
// "avx2"
std::string_view name(Isa isa);

// The instruction sets that this processor can run, weakest first; never empty.
std::vector<Isa> cpu_isas();

// The backend on the processor's best instruction set.
std::unique_ptr<Backend> make_cpu();
// The backend on one of cpu_isas().
std::unique_ptr<Backend> make_cpu(Isa isa);

}  // namespace plumb::backends
