"""GLM-4-0414: norms before and after attention and feed-forward, half of each head turns, in adjacent pairs; gate's
rows, then up's.

Keys: llama.cpp's converter (conversion/glm.py). The checkpoint's order of q's and k's rows is the file's.
"""

import gguf

from .base import SHAPE, Family

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


class Glm4(Family):
    arch = "glm4"
    model = "Glm4ForCausalLM"
    shape = {**SHAPE, "head_dim": 16, "attention_bias": True, "rope_parameters": ROPE}

    def parts(self, config) -> tuple:
        n_ff = config.intermediate_size
        return (
            *self.layer_taps,
            ("post_self_attn_layernorm", "output", "attn_post_norm"),
            ("mlp.gate_up_proj", "output", "ffn_gate", (0, n_ff)),
            ("mlp.gate_up_proj", "output", "ffn_up", (n_ff, 2 * n_ff)),
            ("post_mlp_layernorm", "output", "ffn_post_norm"),
        )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))


CASES = {"glm4": Glm4(1031, breaks={"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}})}
