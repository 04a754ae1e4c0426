// Llama 4's text model: three of four blocks rotate and attend within chunks; the fourth does neither and sharpens its
// queries with the position. One expert for each token, whose weight multiplies its input, beside a shared one.
#include "model/architectures.h"

namespace plumb::model::architectures {

// What no key says (https://github.com/huggingface/transformers, models/llama4, configuration).
constexpr std::uint32_t chunk = 8192;
constexpr std::uint32_t period = 4;                 // of blocks without rotation
constexpr std::uint32_t experts_of_maverick = 128;  // the model whose heads have no norms

const Architecture llama4{
    .name = "llama4",
    .read =
        [](Keys& keys) {
          constexpr std::string_view step_key = "interleave_moe_layer_step";
          HyperParameters p = read_decoder(
              keys, {.rope = RopeConventions{}, .experts = ExpertConventions{.by_sigmoid = true, .normalized = false}});
          p.rope.frequency_factors = keys.has_tensor("rope_freqs.weight");
          p.window = chunk;
          p.window_kind = plan::WindowKind::chunked;
          const std::uint32_t step = keys.optional_count(step_key, 1u << 10).value_or(1);
          for (std::uint32_t i = 0; i < p.n_layers; ++i) {
            LayerParameters& layer = p.layers[i];
            layer.has_experts = p.experts && step > 0 && (i + 1) % step == 0;
            layer.rotates = (i + 1) % period != 0;
            layer.window = layer.rotates ? chunk : 0;
            if (!layer.rotates) layer.temperature = plan::Temperature{.beta = 0.1F, .length = chunk, .offset = 1};
          }
          if (p.experts) {
            p.experts->d_ff_shared = p.experts->d_ff;
            if (p.experts->n_used > 1) keys.odd("expert_used_count", "is above 1; Llama 4 chooses one expert for a token");
          }
          return p;
        },
    .forward =
        [](Assembler& a) {
          const HyperParameters& p = a.parameters();
          const bool has_norms = !p.experts || p.experts->n_experts != experts_of_maverick;
          plan::ValueId x = a.embed();
          for (const Block& b : blocks(a)) {
            const bool norms = has_norms && b.parameters().rotates;
            x = b.add("attn_resid", x,
                      b.attention(b.norm("attn_norm", x), {.qk_norm = norms ? QkNorm::unit_after_rope : QkNorm::none}));
            x = b.add("output", x, b.feed_forward_or_experts(b.norm("ffn_norm", x), {.weighs_input = true}));
          }
          return a.logits(a.norm("output_norm", x));
        },
};

}  // namespace plumb::model::architectures
