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
    .forward = [](Assembler& a) { return post_norm_decoder(a, {.qk_norm = QkNorm::rows}); },
};

}  // namespace plumb::model::architectures
