"""OLMoE: experts by softmax, weights as they are, and norms over the whole of q and of k. Pairs are halves of a head.

Keys: what llama.cpp's converter writes for every text model.
"""

from .base import PLAIN_ROPE, SHAPE, Mixture


class Olmoe(Mixture):
    arch = "olmoe"
    model = "OlmoeForCausalLM"
    shape = {
        **SHAPE,
        "intermediate_size": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "rope_parameters": PLAIN_ROPE,
    }
    breaks = {"weights that are not normalised": {"norm_topk_prob": True}}


CASES = {"olmoe": Olmoe(1083)}
