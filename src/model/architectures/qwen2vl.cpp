// The text model of Qwen 2 and 2.5 VL: Qwen 2. Its rotary embedding has sections for three axes, whose positions are equal
// in a text: it is the plain one.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen2vl{
    .name = "qwen2vl",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.qkv_bias = Bias::required}); },
};

}  // namespace plumb::model::architectures
