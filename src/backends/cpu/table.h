// Makes the table of kernels of a kernels_<isa>.cpp from its Set, and PLUMB_TABLE, the function that returns it.
#pragma once

#include "backends/cpu/attend.h"
#include "backends/cpu/quantized.h"

namespace plumb::backends::cpu {
namespace {

// The products by family; families are spelled as in quants/format_list.h.
template <class Format, int>
constexpr DotFn dot_of_floats = dot_floats<Format>;
template <class Format, int planes>
constexpr DotFn dot_of_small = dot_quantized<Small<Format, planes>>;
template <class Format, int planes>
constexpr DotFn dot_of_super = dot_quantized<Large<Format, planes>>;

template <int planes>
constexpr KernelTable::Rounded rounded_kernels = {
    .round_128 = round_128<planes>,
    .round_256 = round_256<planes>,
#define PLUMB_FORMAT(id, type, NAME, family, writing) dot_of_##family<NAME, planes>,
    .dot = {PLUMB_FORMATS(PLUMB_FORMAT)},
#undef PLUMB_FORMAT
};

constexpr std::size_t dot_scratch =
    Set::packs_from == SIZE_MAX || float_packed_bytes > packed_bytes ? float_packed_bytes : packed_bytes;

constexpr KernelTable table = {
    .name = Set::name,
    .packs_from = Set::packs_from,
    .row_tile = float_tile_rows,
    .scratch_bytes = dot_scratch,
    .rounded = {rounded_kernels<1>, rounded_kernels<2>},
    .put_floats = put_floats,
    .rms_norm = rms_norm,
    .add = add,
    .gated = {gated<Silu>, gated<GeluTanh>, gated<GeluErf>, gated<Relu>, gated<ReluSquared>, gated<Sigmoid>, gated<Tanh>,
              gated<Identity>, gated<XieluFn>},
    .rope_adjacent = rope<true>,
    .rope_halves = rope<false>,
    .to_f16 = to_f16,
    .attend = attend,
    .merge = merge,
};

}  // namespace

const KernelTable& PLUMB_TABLE() { return table; }

}  // namespace plumb::backends::cpu
