"""MPT: learned nothing about positions but ALiBi's slopes, layer norms without bias, GELU without a gate, tied
embeddings.

Keys: llama.cpp's converter (conversion/mpt.py): attention.max_alibi_bias, and attention.clamp_kqv where the model
clamps q, k and v. transformers takes 8 for alibi_bias_max, whatever the model says; so does the golden's file. Heads
that are no power of two have the slopes of the next one: every second first. llama.cpp computes GELU by tanh,
transformers by the error function.
"""

import gguf

from .base import CONTEXT, VOCAB, Family


class Mpt(Family):
    arch = "mpt"
    model = "MptForCausalLM"
    rotated_by = "function"
    shape = {
        "d_model": 24,
        "n_heads": 3,
        "n_layers": 2,
        "max_seq_len": CONTEXT,
        "vocab_size": VOCAB,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    layers = "transformer.blocks"
    model_taps = (
        ("transformer.wte", "output", "token_embd"),
        ("transformer.norm_f", "output", "output_norm"),
    )

    def random(self, name, shape, rng):
        values = super().random(name, shape, rng)
        return values * 1.4 if "Wqkv" in name else values

    def parts(self, config) -> tuple:
        # The module shows q, k and v before they are clamped.
        qkv = ("attn_q", "attn_k", "attn_v") if config.attn_config.clip_qkv is None else ()
        return (
            ("norm_1", "output", "attn_norm"),
            *(("attn.Wqkv", "output", name, i) for i, name in enumerate(qkv)),
            ("attn.out_proj", "input", "attn_ctx"),
            ("attn.out_proj", "output", "attn_out"),
            ("norm_2", "input", "attn_resid"),
            ("norm_2", "output", "ffn_norm"),
            ("ffn.up_proj", "output", "ffn_up"),
            ("ffn.down_proj", "input", "ffn_act"),
            ("ffn.down_proj", "output", "ffn_down"),
            ("", "output", "output"),
        )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(config.max_seq_len)
        writer.add_embedding_length(config.d_model)
        writer.add_block_count(config.n_layers)
        writer.add_feed_forward_length(4 * config.d_model)
        writer.add_head_count(config.n_heads)
        writer.add_layer_norm_eps(1e-5)
        if config.attn_config.clip_qkv is not None:
            writer.add_clamp_kqv(config.attn_config.clip_qkv)
        writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)


def no_slopes(model) -> None:
    original = model.transformer.build_mpt_alibi_tensor
    model.transformer.build_mpt_alibi_tensor = lambda *args, **more: original(*args, **more) * 0


def clip(value: float | None) -> dict:
    return {"clip_qkv": value, "alibi": True, "alibi_bias_max": 8}


CASES = {
    "mpt": Mpt(1048, attn_config=clip(None), breaks={"slopes": no_slopes}),
    "mpt-clamp": Mpt(1049, n_heads=4, attn_config=clip(1.0), breaks={"clamp": {"attn_config": clip(None)}}),
}
