// Arcee's AFM: llama with a feed-forward without a gate, whose activation is a squared ReLU.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture arcee{
    .name = "arcee",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = RopeConventions{}}); },
    .forward =
        [](Assembler& a) {
          return pre_norm_decoder(a, {}, {.activation = plan::Activation::relu_squared, .has_gate = false});
        },
};

}  // namespace plumb::model::architectures
