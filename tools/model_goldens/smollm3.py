"""SmolLM3: Llama without rotation in every fourth layer. No key says so: llama.cpp's runtime knows the step of 4.

Keys and the order of q's and k's rows: llama.cpp's converter (conversion/llama.py).
"""

import gguf

from .base import SHAPE, Family


class SmolLm3(Family):
    arch = "smollm3"
    model = "SmolLM3ForCausalLM"
    permuted = True
    shape = {
        **SHAPE,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 4,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))


CASES = {"smollm3": SmolLm3(1034, breaks={"layers without rotation": {"no_rope_layers": [1, 1, 1, 1]}})}
