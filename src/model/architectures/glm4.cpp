// GLM 4 (0414): norms before and after attention and feed-forward; a part of each head rotates, in adjacent pairs.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture glm4{
    .name = "glm4",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = RopeConventions{}}); },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const plan::ValueId attn = b.attention(b.norm("attn_norm", x));
            x = b.add("attn_resid", x, b.norm("attn_post_norm", "post_attention_norm", attn));
            const plan::ValueId down = b.feed_forward(b.norm("ffn_norm", x), {.fused_gate_up = true});
            x = b.add("output", x, b.norm("ffn_post_norm", "post_ffw_norm", down));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
