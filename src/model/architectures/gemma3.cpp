// Gemma 3: Gemma 2 with a norm of each head, without caps, and with a window in five of six blocks, which rotate by a base
// of their own and without scaling.
#include <cmath>

#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture gemma3{
    .name = "gemma3",
    .read =
        [](Keys& keys) {
          constexpr std::uint32_t layers_of_27b = 62;
          constexpr double window_theta = 10000;  // where the file has no rope.freq_base_swa
          HyperParameters p =
              read_decoder(keys, {.rope = {{.pairing = plan::RopePairing::halves,
                                            .theta_if_absent = 1e6,
                                            .n_rot_is_head_dim_if_absent = true}},
                                  .windows = Windows::by_block,
                                  .heeds = {"attention.sliding_window_pattern", "final_logit_softcapping"}});
          read_window_pattern(keys, p, 6);
          const std::optional<double> theta = keys.optional_number("rope.freq_base_swa", 1, 1e12);
          p.window_rope = p.rope.unscaled();
          p.window_rope->theta = theta.value_or(window_theta);
          p.embedding_scale = std::sqrt(p.d_model);
          // No key has the checkpoint's query_pre_attn_scalar. It is head_dim, but in the model of 27B.
          if (p.n_layers == layers_of_27b) p.attention_scale = 1 / std::sqrt(static_cast<double>(p.d_model) / p.n_heads);
          return p;
        },
    .forward =
        [](Assembler& a) {
          return sandwich_norm_decoder(a, {.qk_norm = QkNorm::heads}, {.activation = plan::Activation::gelu_tanh});
        },
};

}  // namespace plumb::model::architectures
