// MiniMax M2: experts by sigmoid, norms over all heads of q and of k; a part of each head rotates.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture minimax_m2{
    .name = "minimax-m2",
    .read =
        [](Keys& keys) {
          return read_decoder(
              keys, {.rope = {{.pairing = plan::RopePairing::halves}}, .experts = ExpertConventions{.by_sigmoid = true}});
        },
    .forward = [](Assembler& a) { return expert_decoder(a, {.qk_norm = QkNorm::rows}, {}); },
};

}  // namespace plumb::model::architectures
