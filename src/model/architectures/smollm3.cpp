// SmolLM 3: llama without rotary embedding in every fourth block.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture smollm3{
    .name = "smollm3",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(keys, {.rope = RopeConventions{}});
          for (std::uint32_t i = 3; i < p.n_layers; i += 4) p.layers[i].rotates = false;
          return p;
        },
    .forward = [](Assembler& a) { return pre_norm_decoder(a); },
};

}  // namespace plumb::model::architectures
