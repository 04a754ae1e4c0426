// LLaMA 1 to 3, TinyLlama, Mistral, Mixtral, SmolLM: RMS norms, rotary embedding of adjacent pairs, grouped-query
// attention, SwiGLU.
#include <fmt/format.h>

#include "model/architectures.h"

namespace plumb::model::architectures {

const Architecture llama{
    .name = "llama",
    .read =
        [](Keys& keys) {
          // Files of this architecture have the rows of attn_q and attn_k permuted so that adjacent components rotate
          // together
          // ("Meta AI original pth" in the GGUF specification). Any other layout would need its own pairing.
          const auto layout = keys.optional_string("tensor_data_layout");
          if (layout && *layout != "Meta AI original pth") {
            keys.odd("tensor_data_layout", fmt::format("is '{}'; Plumb knows 'Meta AI original pth' only", *layout));
          }
          // The specification does not list rope.freq_base for llama. Files older than this key use the base 10000 of the
          // paper that introduced rotary embedding (https://arxiv.org/abs/2104.09864), as LLaMA 1 and 2 do.
          HyperParameters p =
              read_decoder(keys, {.rope = {{.pairing = plan::RopePairing::adjacent, .theta_if_absent = 10000.0}},
                                  .experts = ExpertConventions{},
                                  .windows = Windows::uniform});
          p.rope.frequency_factors = keys.has_tensor("rope_freqs.weight");
          return p;
        },
    .forward = [](Assembler& a) { return expert_decoder(a); },
};

}  // namespace plumb::model::architectures
