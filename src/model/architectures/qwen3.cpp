// Qwen 3: llama with an RMS norm of every q and k head, and with rotary embedding of halves after it.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen3{
    .name = "qwen3",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.qk_norm = QkNorm::heads}); },
};

}  // namespace plumb::model::architectures
