// Qwen 2 and 2.5: llama with a bias on q, k and v, and with rotary embedding of halves.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen2{
    .name = "qwen2",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            x = b.add("attn_resid", x, b.attention(b.norm("attn_norm", x), {.qkv_bias = Bias::required}));
            x = b.add("output", x, b.feed_forward(b.norm("ffn_norm", x), plan::Activation::silu));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
