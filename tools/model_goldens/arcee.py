"""Arcee (AFM-4.5B): Llama whose feed-forward has no gate and squares what its ReLU lets through, with YaRN.

Keys and the order of q's and k's rows: llama.cpp's converter (conversion/llama.py).
"""

import gguf

from .base import SHAPE, Family


class Arcee(Family):
    arch = "arcee"
    model = "ArceeForCausalLM"
    permuted = True
    shape = SHAPE

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))


ROPE = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "original_max_position_embeddings": 16,
}

CASES = {
    "arcee": Arcee(
        1046,
        rope_parameters=ROPE,
        breaks={
            "square": {"hidden_act": "relu"},
            "YaRN": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        },
    ),
}
