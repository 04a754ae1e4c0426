// The fast backend for the processor it finds itself on. Weights stay in the file's mapping in their quantized form:
// loading converts and copies nothing but the one-dimensional weights (norms, biases, rotary factors).
//
// Numerics. A Linear with F32, F16 or BF16 weights multiplies float32 activations and accumulates in float32. With
// quantized weights the activations are rounded once per input: in blocks of 32 (formats with blocks of 32) or of 256 (the
// K-quants and IQ4_XS), to whole multiples of a float32 step a block, amax / activation_levels(), to nearest even; so each
// activation is off by at most half a step. Products of weight and activation integers are summed exactly in int32 over a
// block; the block's sum is scaled in float32 and added in float32. kernels.h has the layouts and the order of
// accumulation.
//
// Every output element is computed by one thread in an order that depends on the shapes of the step alone: the bits do not
// depend on the number of threads. They do depend on the instruction set and on how many tokens a step has: a prompt
// fed in other pieces rounds differently in the last float32 places (and, through the rounding of activations, by what the
// bound above allows).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/isa_list.h"

namespace plumb::backends {

// The largest multiple of its step that an activation is rounded to: 127, or 127 * 128 with two int8 planes.
constexpr int activation_levels(Activations activations) { return activations == Activations::int8 ? 127 : 127 * 128; }

// The instruction sets that this build has kernels for, weakest first.
enum class Isa : std::uint8_t {
#define PLUMB_ISA(name, present) name,
  PLUMB_CPU_ISAS(PLUMB_ISA)
#undef PLUMB_ISA
};
// "avx2"
std::string_view name(Isa isa);

// Those that this processor can run, weakest first; never empty.
std::vector<Isa> cpu_isas();

// On the best instruction set present.
std::unique_ptr<Backend> make_cpu();
// On one of cpu_isas().
std::unique_ptr<Backend> make_cpu(Isa isa);

}  // namespace plumb::backends
