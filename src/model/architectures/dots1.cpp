// dots.llm1: experts by sigmoid after dense blocks, shared experts, and norms of each head.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture dots1{
    .name = "dots1",
    .read =
        [](Keys& keys) {
          return read_decoder(keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{.by_sigmoid = true}});
        },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::heads}, {}); },
};

}  // namespace plumb::model::architectures
