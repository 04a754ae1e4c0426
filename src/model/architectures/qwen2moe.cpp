// Qwen 2 MoE: Qwen 2 with experts, whose weights are not brought to a sum of 1, and a shared expert with a gate.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture qwen2moe{
    .name = "qwen2moe",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{.normalized = false}});
        },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qkv_bias = Bias::required}, {.gated_shared = true}); },
};

}  // namespace plumb::model::architectures
