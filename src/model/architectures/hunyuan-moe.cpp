// Hunyuan with experts and a shared expert.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture hunyuan_moe{
    .name = "hunyuan-moe",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{}}); },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::heads_after_rope}, {}); },
};

}  // namespace plumb::model::architectures
