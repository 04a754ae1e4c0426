// GPT-NeoX and Pythia: layer norms and biases everywhere, a part of each head rotates, and a feed-forward without a gate.
// Attention and feed-forward stand side by side, each after a norm of its own, or one after the other.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture gptneox{
    .name = "gptneox",
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
            const plan::ValueId attn = b.attention(
                b.norm("attn_norm", x), {.fused_qkv = true, .qkv_bias = Bias::required, .out_bias = Bias::required});
            const plan::ValueId resid = b.add("attn_resid", x, attn);
            const plan::ValueId normed = b.norm("ffn_norm", a.parameters().parallel_blocks ? x : resid);
            x = b.add("output", resid,
                      b.feed_forward(
                          normed, {.activation = plan::Activation::gelu_erf, .has_gate = false, .bias = Bias::required}));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
