"""Phi-3 and Phi-4: q, k and v in one tensor, gate and up in another (gate's rows first); pairs are halves of a head.

Keys: llama.cpp's converter (conversion/phi.py). attention.sliding_window is the window, 0 where the model has none
(Phi-4). llama.cpp's runtime leaves the window out; transformers has it, and so has the golden. LongRoPE:
rope_factors_long and rope_factors_short divide the frequencies, rope.scaling.attn_factor multiplies cos and sin.
transformers takes the long factors for a text longer than rope.scaling.original_context_length; llama.cpp for a context
that can be longer.
"""

import math

import gguf
import numpy as np

from .base import CONTEXT, PLAIN_ROPE, Family, qkv_parts


class Phi3(Family):
    arch = "phi3"
    model = "Phi3ForCausalLM"

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        rope = config.rope_parameters
        writer.add_context_length(config.max_position_embeddings)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.n_rot(config))
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_sliding_window(config.sliding_window or 0)
        if rope["rope_type"] == "longrope":
            original = config.original_max_position_embeddings
            scale = config.max_position_embeddings / original
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))

    def n_rot(self, config) -> int:
        return (
            int(config.rope_parameters.get("partial_rotary_factor", 1.0) * config.hidden_size)
            // config.num_attention_heads
        )

    def first_tensors(self, config):
        if config.rope_parameters["rope_type"] == "longrope":
            yield "rope_factors_long.weight", np.array(config.rope_parameters["long_factor"], dtype=np.float32)
            yield "rope_factors_short.weight", np.array(config.rope_parameters["short_factor"], dtype=np.float32)

    def parts(self, config) -> tuple:
        q, k, v = qkv_parts(config)
        n_ff = config.intermediate_size
        return (
            *self.layer_taps,
            ("self_attn.qkv_proj", "output", "attn_q", q),
            ("self_attn.qkv_proj", "output", "attn_k", k),
            ("self_attn.qkv_proj", "output", "attn_v", v),
            ("mlp.gate_up_proj", "output", "ffn_gate", (0, n_ff)),
            ("mlp.gate_up_proj", "output", "ffn_up", (n_ff, 2 * n_ff)),
        )


def longrope(original: int, **changes) -> dict:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,  # Phi-4 mini's
        "long_factor": [1.5, 3.0, 6.0],
        "short_factor": [1.0, 1.1, 1.4],
        "original_max_position_embeddings": original,
    }
    return {**rope, **changes}


def phi4(seed: int, original: int) -> Phi3:
    other = {"long_factor": [1.0, 1.1, 1.4], "short_factor": [1.5, 3.0, 6.0]}
    return Phi3(
        seed,
        tie_word_embeddings=True,
        original_max_position_embeddings=original,
        rope_parameters=longrope(original),
        breaks={
            "the right factors": {"rope_parameters": longrope(original, **other)},
            "factors": {"rope_parameters": {**PLAIN_ROPE, "partial_rotary_factor": 0.75}},
        },
    )


CASES = {
    "phi3": Phi3(
        1020,
        sliding_window=6,
        original_max_position_embeddings=CONTEXT,
        rope_parameters=PLAIN_ROPE,
        breaks={"window": {"sliding_window": None}},
    ),
    "phi3-longrope": phi4(1021, 8),  # shorter than the prompt: the long factors hold from the first step on
    "phi3-longrope-short": phi4(1022, 32),
}
