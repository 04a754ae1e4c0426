// Falcon: attention and feed-forward side by side. The models of 7B have one layer norm and one head of k and v; those of
// 40B have a norm for each half.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture falcon{
    .name = "falcon",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.norm_kind = plan::NormKind::layer,
                                     .norm_bias = true,
                                     .rope = {{.pairing = plan::RopePairing::halves,
                                               .theta_if_absent = 10000.0,
                                               .n_rot_is_head_dim_if_absent = true}}});
        },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const plan::ValueId normed = b.norm("attn_norm", x);
            const bool has_second = a.has(b.full("attn_norm_2.weight"));
            const plan::ValueId before_attention = has_second ? b.norm("attn_norm_2", x) : normed;
            const plan::ValueId resid = b.add("attn_resid", x, b.attention(before_attention, {.fused_qkv = true}));
            x = b.add("output", resid,
                      b.feed_forward(normed, {.activation = plan::Activation::gelu_erf, .has_gate = false}));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
