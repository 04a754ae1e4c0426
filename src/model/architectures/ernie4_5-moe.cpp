// ERNIE 4.5 with experts after dense blocks, and shared experts.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture ernie4_5_moe{
    .name = "ernie4_5-moe",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.rope = {{.n_rot_is_head_dim_if_absent = true}}, .experts = ExpertConventions{}});
        },
    .forward = [](Assembler& a) { return expert_decoder(a, {}, {}); },
};

}  // namespace plumb::model::architectures
