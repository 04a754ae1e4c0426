// StableLM: layer norms, a part of each head rotates. Some models have a norm for each head of q and k, and attention and
// feed-forward side by side after one norm.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture stablelm{
    .name = "stablelm",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.norm_kind = plan::NormKind::layer,
                                     .norm_bias = true,
                                     .rope = {{.pairing = plan::RopePairing::halves, .theta_if_absent = 10000.0}},
                                     .heeds = {parallel_key}});
        },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const plan::ValueId normed = b.norm("attn_norm", x);
            const plan::ValueId resid =
                b.add("attn_resid", x, b.attention(normed, {.qk_norm = QkNorm::heads_where_present}));
            const plan::ValueId before_ffn = a.parameters().parallel_blocks ? normed : b.norm("ffn_norm", resid);
            x = b.add("output", resid, b.feed_forward(before_ffn));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
