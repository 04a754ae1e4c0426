// Apertus: norms of each head, and a feed-forward without a gate whose activation has two learned numbers in each block.
#include <cmath>

#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture apertus{
    .name = "apertus",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(keys, {.rope = whole_heads_in_halves});
          p.rope.frequency_factors = keys.has_tensor("rope_freqs.weight");
          const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
          // The keys have no prefix, and hold what the checkpoint has.
          const auto alpha_p = keys.numbers_by_block("xielu.alpha_p", p.n_layers);
          const auto alpha_n = keys.numbers_by_block("xielu.alpha_n", p.n_layers);
          const auto beta = keys.numbers_by_block("xielu.beta", p.n_layers);
          const auto eps = keys.numbers_by_block("xielu.eps", p.n_layers);
          for (std::uint32_t i = 0; i < p.n_layers; ++i) {
            p.layers[i].xielu = {.positive = static_cast<float>(softplus(alpha_p[i])),
                                 .negative = static_cast<float>(beta[i] + softplus(alpha_n[i])),
                                 .beta = static_cast<float>(beta[i]),
                                 .eps = static_cast<float>(eps[i])};
          }
          return p;
        },
    .forward =
        [](Assembler& a) {
          return pre_norm_decoder(a, {.qk_norm = QkNorm::heads},
                                  {.activation = plan::Activation::xielu, .has_gate = false});
        },
};

}  // namespace plumb::model::architectures
