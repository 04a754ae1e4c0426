"""EXAONE 4: norms after attention and feed-forward only, and of each head; windowed layers turn, the others do not.

Keys: llama.cpp's converter (conversion/exaone.py). A file without a window (1.2B) turns in every layer. llama.cpp's
runtime takes the window for 64 layers only. Pairs are halves of a head.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Family, llama3_factors
from .olmo2 import KINDS, Olmo2


class Exaone4(Olmo2):
    arch = "exaone4"
    model = "Exaone4ForCausalLM"
    shape = {**SHAPE, "rope_parameters": PLAIN_ROPE}

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Family.keys(self, writer, config)
        writer.add_vocab_size(config.vocab_size)
        if config.sliding_window is not None:
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])

    def first_tensors(self, config):
        if config.rope_parameters["rope_type"] == "llama3":
            yield "rope_freqs.weight", llama3_factors(config.rope_parameters, self.head_dim(config))


SCALED = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FULL = ["full_attention", "full_attention"]

CASES = {
    "exaone4": Exaone4(
        1036,
        sliding_window=6,
        layer_types=KINDS,
        breaks={
            "window": {"sliding_window": 64},
            "pattern": {"layer_types": KINDS[::-1]},
            "layers without rotation": {"sliding_window": None, "layer_types": FULL},
        },
    ),
    "exaone4-full": Exaone4(
        1037,
        sliding_window=None,
        layer_types=FULL,
        tie_word_embeddings=True,
        rope_parameters=SCALED,
        breaks={"factors": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}},
    ),
}
