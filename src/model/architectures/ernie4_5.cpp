// ERNIE 4.5: llama with rows of attn_q and attn_k that rotate in adjacent pairs as they are.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture ernie4_5{
    .name = "ernie4_5",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = {{.n_rot_is_head_dim_if_absent = true}}}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a); },
};

}  // namespace plumb::model::architectures
