// Qwen 2 and 2.5: llama with a bias on q, k and v, and with rotary embedding of halves.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen2{
    .name = "qwen2",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.qkv_bias = Bias::required}); },
};

}  // namespace plumb::model::architectures
