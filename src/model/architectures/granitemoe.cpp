// Granite 3 MoE: Granite with experts.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture granitemoe{
    .name = "granitemoe",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(keys, {.rope = RopeConventions{},
                                                  .experts = ExpertConventions{},
                                                  .heeds = {"embedding_scale", "residual_scale", "logit_scale"}});
          p.logit_scale = 1 / p.logit_scale;  // the file's is a divisor
          return p;
        },
    .forward = [](Assembler& a) { return expert_decoder(a); },
};

}  // namespace plumb::model::architectures
