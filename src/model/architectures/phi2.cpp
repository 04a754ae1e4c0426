// Phi 1.5 and 2: attention and feed-forward side by side after one layer norm, biases everywhere; a part of each head
// rotates.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture phi2{
    .name = "phi2",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.norm_kind = plan::NormKind::layer,
                                     .norm_bias = true,
                                     .rope = {{.pairing = plan::RopePairing::halves, .theta_if_absent = 10000.0}},
                                     .logit_bias = true});
        },
    .forward =
        [](Assembler& a) {
          return parallel_decoder(a, {.qkv_bias = Bias::required, .out_bias = Bias::required},
                                  {.activation = plan::Activation::gelu_tanh, .has_gate = false, .bias = Bias::required});
        },
};

}  // namespace plumb::model::architectures
