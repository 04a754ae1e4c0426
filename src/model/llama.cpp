#include "model/architecture.h"
#include "model/assembler.h"
#include "model/keys.h"

namespace plumb::model {

Result<Draft> build_llama(const gguf::File& file) {
  const Keys keys(file, "llama");
  // Files of this architecture have the rows of attn_q and attn_k permuted so that adjacent components rotate together
  // ("Meta AI original pth" in the GGUF specification). Any other layout would need its own pairing.
  PLUMB_TRY(const auto layout, keys.optional_string("tensor_data_layout"));
  if (layout && *layout != "Meta AI original pth") {
    return keys.odd("tensor_data_layout", fmt::format("is '{}'; Plumb knows 'Meta AI original pth' only", *layout));
  }

  // rope.freq_base is not among the specification's keys of llama: files from before it use the base of the paper that
  // introduced rotary embedding, 10000 (https://arxiv.org/abs/2104.09864), as LLaMA 1 and 2 do.
  PLUMB_TRY(HyperParameters p,
            read_decoder(file, "llama",
                         {.pairing = plan::RopePairing::adjacent, .theta_if_absent = 10000.0, .uniform_window = true}));
  p.tied_embeddings = file.tensor("output.weight") == nullptr;
  p.rope.frequency_factors = file.tensor("rope_freqs.weight") != nullptr;

  Assembler a(file, p);
  plan::ValueId x = a.embed();
  for (std::uint32_t i = 0; i < p.n_layers && a.ok(); ++i) {
    const plan::ValueId normed = a.norm(block(i, "attn_norm"), x, p.d_model);
    const plan::ValueId q = a.linear(block(i, "attn_q"), block(i, "attn_q"), normed, p.q_width(), p.d_model);
    const plan::ValueId k = a.linear(block(i, "attn_k"), block(i, "attn_k"), normed, p.kv_width(), p.d_model);
    const plan::ValueId v = a.linear(block(i, "attn_v"), block(i, "attn_v"), normed, p.kv_width(), p.d_model);
    const plan::ValueId q_rope = a.rope(block(i, "attn_q_rope"), q);
    const plan::ValueId k_rope = a.rope(block(i, "attn_k_rope"), k);
    const plan::ValueId context = a.attend(block(i, "attn_ctx"), i, q_rope, k_rope, v);
    const plan::ValueId out = a.linear(block(i, "attn_out"), block(i, "attn_output"), context, p.d_model, p.q_width());
    const plan::ValueId resid = a.add(block(i, "attn_resid"), x, out);
    x = a.gated_feed_forward(i, resid, plan::Activation::silu);
  }
  return a.finish(a.logits(x));
}

}  // namespace plumb::model
