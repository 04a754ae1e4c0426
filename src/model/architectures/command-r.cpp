// Command R and R+: attention and feed-forward side by side after one layer norm without a bias, and scaled logits. R+ has
// a norm for each head of q and k.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture command_r{
    .name = "command-r",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.norm_kind = plan::NormKind::layer,
                                     .rope = {{.n_rot_is_head_dim_if_absent = true}},
                                     .heeds = {"logit_scale"}});
        },
    .forward = [](Assembler& a) { return parallel_decoder(a, {.qk_norm = QkNorm::heads_where_present}); },
};

}  // namespace plumb::model::architectures
