"""Phi-3.5-MoE: layer norms, biases of attention and of the output, and a router that chooses the best two one after the
other.

Keys: llama.cpp's converter (conversion/phi.py); attention.layer_norm_rms_epsilon is the epsilon of layer norms here.
transformers weighs the first choice by a softmax over the experts whose logit is within 2 router_jitter_noise (0.01) of
the best, relative to it, and the second by one over the rest, found the same way: the weights are close to 1 each and
do not make a sum of 1. llama.cpp weighs by the softmax over all. No key has the noise. LongRoPE: transformers
multiplies cos and sin by long_mscale or short_mscale (1.243 in the released model), the converter writes
rope.scaling.attn_factor by Phi-3's formula (1.190 for it); here both are the formula's. transformers 5.24 divides by
the short factors whatever the text's length, which the released model's own code does not; here the text is short, and
both agree.
"""

import math

import gguf

from .base import CONTEXT, SHAPE, Mixture
from .phi3 import Phi3

ORIGINAL = 32
M_SCALE = math.sqrt(1 + math.log(CONTEXT / ORIGINAL) / math.log(ORIGINAL))
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.5, 3.0, 6.0, 8.0],
    "short_factor": [1.0, 1.1, 1.4, 1.6],
    "long_mscale": M_SCALE,
    "short_mscale": M_SCALE,
    "original_max_position_embeddings": ORIGINAL,
}


def wide(model) -> None:
    for layer in model.model.layers:
        layer.mlp.router.router_jitter_noise = 10.0


class PhiMoe(Mixture):
    arch = "phimoe"
    model = "PhimoeForCausalLM"
    router = "mlp.router"
    shape = {
        **SHAPE,
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
        "original_max_position_embeddings": ORIGINAL,
        "rope_parameters": ROPE,
    }
    breaks = {
        "the right factors": {"rope_parameters": {**ROPE, "short_factor": ROPE["long_factor"]}},
        "noise of the router": wide,
    }
    n_rot = Phi3.n_rot
    first_tensors = Phi3.first_tensors

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Phi3.keys(self, writer, config)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_count(config.num_local_experts)


CASES = {"phimoe": PhiMoe(1087)}
