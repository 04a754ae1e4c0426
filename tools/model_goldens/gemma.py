"""Gemma 2, 3 and EmbeddingGemma: norms before and after attention and feed-forward, embeddings times sqrt(d), GELU by
tanh with a gate.

Keys: llama.cpp's converter (conversion/gemma.py), which adds 1 to the weight of every norm. Pairs are halves of a head.
token_embd are the rows themselves, embd what enters the first block. What no key says, llama.cpp's runtime knows: which
layers have the window (Gemma 2: every other, from the first; Gemma 3: all but every sixth) and the scale of attention,
1 / sqrt(head_dim) (in the 27B models 1 / sqrt(d / heads)). Gemma 3's rope.scaling holds in the layers without a window
alone; those with one turn by rope.freq_base_swa.
"""

import gguf
import numpy as np

from .base import SHAPE, Family


def unscaled(model) -> None:
    model.get_input_embeddings().embed_scale.fill_(1.0)


class Gemma(Family):
    shape = {**SHAPE, "rms_norm_eps": 1e-6, "head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
    breaks = {"scale of embeddings": unscaled}
    layer_taps = (
        *(tap for tap in Family.layer_taps if tap[0] != "post_attention_layernorm"),
        ("post_attention_layernorm", "output", "attn_post_norm"),
        ("pre_feedforward_layernorm", "input", "attn_resid"),
        ("pre_feedforward_layernorm", "output", "ffn_norm"),
        ("post_feedforward_layernorm", "output", "ffn_post_norm"),
    )
    model_taps = (
        ("model.embed_tokens", "output", "embd"),
        ("model.norm", "output", "output_norm"),
    )
    shift = 1.0

    def random(self, name, shape, rng):
        return super().random(name, shape, rng) - (self.shift if "norm" in name else 0.0)

    def tensors(self, name, values, config):
        if name.endswith("norm.weight"):
            values = values + np.float32(self.shift)
        yield from super().tensors(name, values, config)

    def more_values(self, values, model):
        tokens = values["tokens"]
        values["token_embd"] = model.get_input_embeddings().weight.detach().numpy()[tokens].astype(np.float32)


class Gemma2(Gemma):
    arch = "gemma2"
    model = "Gemma2ForCausalLM"
    breaks = {
        **Gemma.breaks,
        "window": {"sliding_window": 64},
        "pattern": {"layer_types": ["full_attention", "sliding_attention"]},
        "cap of attention": {"attn_logit_softcapping": None},
        "cap of logits": {"final_logit_softcapping": None},
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def rope(full: dict, local: float = 100.0) -> dict:
    return {"sliding_attention": {"rope_type": "default", "rope_theta": local}, "full_attention": full}


LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}


class Gemma3(Gemma):
    arch = "gemma3"
    model = "Gemma3ForCausalLM"
    shape = {
        **Gemma.shape,
        "hidden_size": 18,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 6,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "rope_parameters": rope(LINEAR),
    }
    breaks = {
        **Gemma.breaks,
        "window": {"sliding_window": 64},
        "pattern": {"layer_types": ["full_attention"] + ["sliding_attention"] * 5},
        "the base of windowed layers": {"rope_parameters": rope(LINEAR, 1000.0)},
        "linear scaling": {"rope_parameters": rope({"rope_type": "default", "rope_theta": 1000.0})},
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_sliding_window(config.sliding_window)


class Embedding(Gemma3):
    """The window is the whole width: a position sees those at most half of it away, before and after."""

    arch = "gemma-embedding"
    model = "Gemma3TextModel"
    decoder = False
    layers = "layers"
    model_taps = (
        ("embed_tokens", "output", "embd"),
        ("norm", "output", "output_norm"),
    )
    breaks = {**Gemma3.breaks, "both sides": {"use_bidirectional_attention": False, "sliding_window": 4}}

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Family.keys(self, writer, config)
        writer.add_sliding_window(self.config["sliding_window"])
        writer.add_pooling_type(gguf.PoolingType.MEAN)


CASES = {
    "gemma2": Gemma2(
        1060,
        sliding_window=6,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "gemma3": Gemma3(1061),
    "gemma-embedding": Embedding(1062, use_bidirectional_attention=True),
}
