#include "model/architecture.h"
#include "model/assembler.h"
#include "model/keys.h"

namespace plumb::model {

Result<Draft> build_qwen2(const gguf::File& file) {
  // Converters write no rope.dimension_count for this architecture: all of a head rotates
  // (https://github.com/huggingface/transformers, models/qwen2).
  PLUMB_TRY(HyperParameters p,
            read_decoder(file, "qwen2", {.pairing = plan::RopePairing::halves, .n_rot_is_head_dim_if_absent = true}));
  p.tied_embeddings = file.tensor("output.weight") == nullptr;

  Assembler a(file, p);
  plan::ValueId x = a.embed();
  for (std::uint32_t i = 0; i < p.n_layers && a.ok(); ++i) {
    const plan::ValueId normed = a.norm(block(i, "attn_norm"), x, p.d_model);
    const plan::ValueId q =
        a.linear(block(i, "attn_q"), block(i, "attn_q"), normed, p.q_width(), p.d_model, Bias::required);
    const plan::ValueId k =
        a.linear(block(i, "attn_k"), block(i, "attn_k"), normed, p.kv_width(), p.d_model, Bias::required);
    const plan::ValueId v =
        a.linear(block(i, "attn_v"), block(i, "attn_v"), normed, p.kv_width(), p.d_model, Bias::required);
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
