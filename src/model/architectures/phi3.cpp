// Phi 3 and 4: llama with q, k and v in one tensor, gate and up in another, and rotary embedding of halves. llama.cpp
// leaves the window of attention.sliding_window out; the model has it (transformers), and so does Plumb.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture phi3{
    .name = "phi3",
    .read =
        [](Keys& keys) {
          HyperParameters p =
              read_decoder(keys, {.rope = {{.pairing = plan::RopePairing::halves}}, .windows = Windows::uniform});
          p.rope.long_and_short = keys.has_tensor("rope_factors_long.weight");
          if (p.rope.long_and_short) {
            p.rope.original_context = keys.count("rope.scaling.original_context_length", p.context);
          }
          return p;
        },
    .forward = [](Assembler& a) { return pre_norm_decoder(a, {.fused_qkv = true}, {.fused_gate_up = true}); },
};

}  // namespace plumb::model::architectures
