// Qwen 3: llama with an RMS norm of every q and k head, and with rotary embedding of halves after it.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen3{
    .name = "qwen3",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            x = b.add("attn_resid", x, b.attention(b.norm("attn_norm", x), {.head_norms = true}));
            x = b.add("output", x, b.feed_forward(b.norm("ffn_norm", x), plan::Activation::silu));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
