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
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const plan::ValueId attn = b.attention(x, {.qk_norm = QkNorm::heads});
            x = b.add("attn_resid", x, b.norm("attn_post_norm", "post_attention_norm", attn));
            x = b.add("output", x, b.norm("ffn_post_norm", "post_ffw_norm", b.feed_forward(x)));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
