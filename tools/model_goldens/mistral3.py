"""Mistral Small 3 and Ministral 3 (mistral3): Llama with YaRN, and a temperature of q that grows with the position.

Keys: llama.cpp's converter (conversion/mistral3.py). rope.scaling.yarn_log_multiplier is the checkpoint's
mscale_all_dim; with it cos and sin are multiplied by m(1) / m(yarn_log_multiplier), m(x) = 0.1 x ln(factor) + 1, not by
m(1). attention.temperature_scale is beta in 1 + beta ln(1 + floor(position / rope.scaling.original_context_length)), by
which q is multiplied after its rotation; attn_q_rope is before that.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Family

ROPE = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.5,
}


class Mistral3(Family):
    arch = "mistral3"
    permuted = True
    rotated_by = "function"
    shape = {**SHAPE, "head_dim": 16}

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
        if config.model_type == "ministral3":
            writer.add_rope_scaling_yarn_log_mul(config.rope_parameters["mscale_all_dim"])
            writer.add_attn_temperature_scale(config.rope_parameters["llama_4_scaling_beta"])


class Small(Mistral3):
    model = "MistralForCausalLM"  # what Mistral3ForConditionalGeneration has as its text model


class Ministral(Mistral3):
    model = "Ministral3ForCausalLM"


CASES = {
    "mistral3": Small(1041, sliding_window=None, rope_parameters=PLAIN_ROPE),
    "ministral3": Ministral(
        1042,
        rope_parameters=ROPE,
        breaks={
            "temperature": {"rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.0}},
            "YaRN's multiplier": {"rope_parameters": {**ROPE, "mscale_all_dim": 0.0}},
        },
    ),
}
