// GPT-2: layer norms, learned positions, q, k and v in one tensor, a feed-forward without a gate, and biases everywhere.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture gpt2{
    .name = "gpt2",
    .read = [](Keys& keys) { return read_decoder(keys, {.norm_kind = plan::NormKind::layer, .norm_bias = true}); },
    .forward =
        [](Assembler& a) {
          const HyperParameters& p = a.parameters();
          const plan::MatrixId positions = a.matrix({"position_embd"}, p.context, p.d_model);
          plan::ValueId x = a.embed();
          x = a.add("embd", x, a.builder().embed("position_embd", {.table = positions, .by = plan::EmbedBy::position}));
          for (const Block& b : blocks(a)) {
            x = b.add("attn_resid", x,
                      b.attention(b.norm("attn_norm", x),
                                  {.fused_qkv = true, .qkv_bias = Bias::required, .out_bias = Bias::required}));
            x = b.add(
                "output", x,
                b.feed_forward(b.norm("ffn_norm", x),
                               {.activation = plan::Activation::gelu_tanh, .has_gate = false, .bias = Bias::required}));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
