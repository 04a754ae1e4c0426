// gpt-oss: sinks, a window in every other block from the first, YaRN whose limits are not rounded, and experts with biases
// and a limited gate. llama.cpp rounds YaRN's limits; the model's own code (transformers) does not.
#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture gpt_oss{
    .name = "gpt-oss",
    .read =
        [](Keys& keys) {
          HyperParameters p = read_decoder(
              keys, {.rope = whole_heads_in_halves, .experts = ExpertConventions{}, .windows = Windows::by_block});
          alternate_windows(p, 2);
          if (p.rope.yarn) p.rope.yarn->whole_limits = false;
          return p;
        },
    .forward =
        [](Assembler& a) {
          return expert_decoder(
              a, {.qkv_bias = Bias::required, .out_bias = Bias::required, .sinks = true},
              {.activation = {.limit = 7, .alpha = 1.702F, .up_offset = 1}, .biases = true, .softmax_of_chosen = true},
              "post_attention_norm");
        },
};

}  // namespace plumb::model::architectures
