// GLM 4.5 to 4.7: experts by sigmoid after dense blocks, shared experts; a part of each head rotates, in halves. The blocks
// that predict further tokens (nextn) are not run.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture glm4moe{
    .name = "glm4moe",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(keys, {.rope = {{.pairing = plan::RopePairing::halves}},
                                                  .experts = ExpertConventions{.by_sigmoid = true},
                                                  .heeds = {"nextn_predict_layers"}});
          leave_out_prediction(keys, p);
          return p;
        },
    .forward =
        [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::heads_where_present}, {}, "post_attention_norm"); },
};

}  // namespace plumb::model::architectures
