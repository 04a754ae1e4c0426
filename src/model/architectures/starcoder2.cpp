// StarCoder 2: layer norms and biases everywhere, rotary embedding of halves, and a feed-forward without a gate.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture starcoder2{
    .name = "starcoder2",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.norm_kind = plan::NormKind::layer, .norm_bias = true, .rope = whole_heads_in_halves});
        },
    .forward =
        [](Assembler& a) {
          return pre_norm_decoder(a, {.qkv_bias = Bias::required, .out_bias = Bias::required},
                                  {.activation = plan::Activation::gelu_tanh, .has_gate = false, .bias = Bias::required});
        },
};

}  // namespace plumb::model::architectures
