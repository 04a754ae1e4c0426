// EXAONE 4: norms after attention and feed-forward only, and of each head. Where some blocks have a window, only those
// rotate.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture exaone4{
    .name = "exaone4",
    .read =
        [](Keys& keys) {
          constexpr std::uint32_t period = 4;  // where the file does not say which blocks have the window
          HyperParameters p = read_decoder(
              keys,
              {.rope = whole_heads_in_halves, .windows = Windows::by_block, .heeds = {"attention.sliding_window_pattern"}});
          p.rope.frequency_factors = keys.has_tensor("rope_freqs.weight");
          if (p.window == 0) return p;
          read_window_pattern(keys, p, period);
          for (LayerParameters& layer : p.layers) layer.rotates = layer.window > 0;
          return p;
        },
    .forward = [](Assembler& a) { return post_norm_decoder(a, {.qk_norm = QkNorm::heads}); },
};

}  // namespace plumb::model::architectures
