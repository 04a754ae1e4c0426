// Qwen 3 MoE: Qwen 3 with experts.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen3moe{
    .name = "qwen3moe",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{}}); },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::heads}, {}); },
};

}  // namespace plumb::model::architectures
