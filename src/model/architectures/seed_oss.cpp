// Seed-OSS: Qwen 2 with another name for the norm before the feed-forward.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture seed_oss{
    .name = "seed_oss",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves}); },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            x = b.add("attn_resid", x, b.attention(b.norm("attn_norm", x)));
            x = b.add("output", x, b.feed_forward(b.norm("ffn_norm", "post_attention_norm", x)));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
