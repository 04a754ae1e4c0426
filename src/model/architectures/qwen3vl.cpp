// The text model of Qwen 3 VL: Qwen 3. Its rotary embedding has sections for three axes, whose positions are equal in a
// text: it is the plain one. What the picture's model adds to the first blocks (n_deepstack_layers) is nothing in a text.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen3vl{
    .name = "qwen3vl",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.qk_norm = QkNorm::heads}); },
};

}  // namespace plumb::model::architectures
