// OLMoE: llama with experts, whose weights are not brought to a sum of 1, norms over all heads of q and of k, and rotary
// embedding of halves.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture olmoe{
    .name = "olmoe",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{.normalized = false}});
        },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::rows}, {}); },
};

}  // namespace plumb::model::architectures
