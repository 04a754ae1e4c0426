// Gemma 2: norms before and after attention and feed-forward, scaled embeddings, capped scores and logits, and a window in
// every other block, from the first.
#include <cmath>

#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture gemma2{
    .name = "gemma2",
    .read =
        [](Keys& keys) {
          constexpr std::uint32_t layers_of_27b = 46;
          HyperParameters p = read_decoder(keys, {.rope = {{.pairing = plan::RopePairing::halves,
                                                            .theta_if_absent = 10000.0,
                                                            .n_rot_is_head_dim_if_absent = true}},
                                                  .windows = Windows::by_block,
                                                  .heeds = {"attn_logit_softcapping", "final_logit_softcapping"}});
          alternate_windows(p, 2);
          p.embedding_scale = std::sqrt(p.d_model);
          // No key has the checkpoint's query_pre_attn_scalar. It is head_dim, but in the model of 27B.
          if (p.n_layers == layers_of_27b) p.attention_scale = 1 / std::sqrt(static_cast<double>(p.d_model) / p.n_heads);
          return p;
        },
    .forward = [](Assembler& a) { return sandwich_norm_decoder(a, {}, {.activation = plan::Activation::gelu_tanh}); },
};

}  // namespace plumb::model::architectures
