// OLMo 2 and 3: norms after attention and feed-forward only, and over all heads of q and of k. OLMo 3's blocks with a
// window rotate without YaRN.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture olmo2{
    .name = "olmo2",
    .read =
        [](Keys& keys) {
          constexpr std::uint32_t period = 4;  // of OLMo 3's blocks, where the file does not say
          HyperParameters p = read_decoder(
              keys,
              {.rope = whole_heads_in_halves, .windows = Windows::by_block, .heeds = {"attention.sliding_window_pattern"}});
          if (p.window == 0) return p;
          read_window_pattern(keys, p, period);
          p.window_rope = p.rope.unscaled();
          return p;
        },
    .forward =
        [](Assembler& a) {
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const plan::ValueId attn = b.attention(x, {.qk_norm = QkNorm::rows});
            x = b.add("attn_resid", x, b.norm("attn_post_norm", "post_attention_norm", attn));
            x = b.add("output", x, b.norm("ffn_post_norm", "post_ffw_norm", b.feed_forward(x)));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
