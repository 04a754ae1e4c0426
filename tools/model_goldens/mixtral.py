"""Mixtral, which GGUF files as llama with experts: softmax over all, the best two, whose weights are brought to a sum
of 1.

Keys and the order of q's and k's rows: llama.cpp's converter (conversion/llama.py). No key says that the weights are
normalised.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Mixture


class Mixtral(Mixture):
    arch = "llama"
    model = "MixtralForCausalLM"
    permuted = True
    shape = {
        **SHAPE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "rope_parameters": PLAIN_ROPE,
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))


CASES = {"mixtral": Mixtral(1080)}
