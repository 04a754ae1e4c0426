// GPT-2: layer norms, learned positions, q, k and v in one tensor, a feed-forward without a gate, and biases everywhere.
#include "model/architectures.h"

namespace plumb::model::architectures {

namespace {

plan::ValueId layer_norm(Assembler& a, const std::string& name, plan::ValueId x) {
  const HyperParameters& p = a.parameters();
  return a.builder().norm(name, {.x = x,
                                 .weight = a.vector({name}, "weight", p.d_model),
                                 .bias = a.vector({name}, "bias", p.d_model),
                                 .eps = static_cast<float>(p.norm_eps),
                                 .kind = plan::NormKind::layer});
}

}  // namespace

const Architecture gpt2{
    .name = "gpt2",
    .read = [](Keys& keys) { return read_decoder(keys, {.norm_eps = "attention.layer_norm_epsilon"}); },
    .forward =
        [](Assembler& a) {
          const HyperParameters& p = a.parameters();
          const plan::MatrixId positions = a.matrix({"position_embd"}, p.context, p.d_model);
          plan::ValueId x = a.embed();
          x = a.add("embd", x, a.builder().embed("position_embd", {.table = positions, .by = plan::EmbedBy::position}));
          for (const Block& b : blocks(a)) {
            const plan::ValueId attn =
                b.attention(layer_norm(a, b.full("attn_norm"), x),
                            {.fused_qkv = true, .qkv_bias = Bias::required, .out_bias = Bias::required, .rope = false});
            x = b.add("attn_resid", x, attn);
            const plan::ValueId normed = layer_norm(a, b.full("ffn_norm"), x);
            const plan::ValueId up = b.linear("ffn_up", normed, p.d_ff, p.d_model, Bias::required);
            const plan::ValueId act =
                a.builder().activate(b.full("ffn_act"), {.gate = up, .activation = plan::Activation::gelu_tanh});
            x = b.add("output", x, b.linear("ffn_down", act, p.d_model, p.d_ff, Bias::required));
          }
          return a.logits(layer_norm(a, "output_norm", x));
        },
};

}  // namespace plumb::model::architectures
