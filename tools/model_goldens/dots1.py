"""dots.llm1: a dense layer first, then experts by sigmoid with a bias for the choice and shared experts; norms of each
head.

Keys: llama.cpp's converter (conversion/dots1.py). Pairs are halves of a head.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE
from .glm4_moe import BySigmoid


class Dots1(BySigmoid):
    arch = "dots1"
    model = "Dots1ForCausalLM"
    shape = {
        **SHAPE,
        "num_key_value_heads": 4,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "sliding_window": None,
        "rope_parameters": PLAIN_ROPE,
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        self.mixture_keys(writer, config)


CASES = {"dots1": Dots1(1086)}
