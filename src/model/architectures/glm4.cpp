// GLM 4 (0414): norms before and after attention and feed-forward; a part of each head rotates, in adjacent pairs.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture glm4{
    .name = "glm4",
    .read = [](Keys& keys) { return read_decoder(keys, {.rope = RopeConventions{}}); },
    .forward = [](Assembler& a) { return sandwich_norm_decoder(a, {}, {.fused_gate_up = true}); },
};

}  // namespace plumb::model::architectures
