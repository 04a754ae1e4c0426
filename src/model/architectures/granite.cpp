// Granite 3: llama with multipliers for embeddings, attention, what a block adds, and logits. The file's logit_scale is a
// divisor.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture granite{
    .name = "granite",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(
              keys, {.rope = RopeConventions{}, .heeds = {"embedding_scale", "residual_scale", "logit_scale"}});
          p.logit_scale = 1 / p.logit_scale;
          return p;
        },
    .forward = [](Assembler& a) { return pre_norm_decoder(a); },
};

}  // namespace plumb::model::architectures
