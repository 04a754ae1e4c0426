// Command R7B: Command R with a window in three of four blocks. Only those rotate.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture cohere2{
    .name = "cohere2",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(keys, {.norm_kind = plan::NormKind::layer,
                                                  .rope = RopeConventions{},
                                                  .windows = Windows::by_block,
                                                  .heeds = {"logit_scale"}});
          alternate_windows(p, 4);
          for (std::uint32_t i = 3; i < p.n_layers; i += 4) p.layers[i].rotates = false;
          return p;
        },
    .forward = [](Assembler& a) { return parallel_decoder(a); },
};

}  // namespace plumb::model::architectures
