"""Seed-OSS: Qwen2 by another name, with heads of a length of their own. The norm before the feed-forward is
post_attention_norm.

Keys: what llama.cpp's converter writes for every text model. Pairs are halves of a head.
"""

from .base import PLAIN_ROPE, SHAPE, Family


class SeedOss(Family):
    arch = "seed_oss"
    model = "SeedOssForCausalLM"
    shape = {
        **SHAPE,
        "head_dim": 16,
        "attention_bias": True,
        "attention_out_bias": False,
        "rope_parameters": PLAIN_ROPE,
    }


CASES = {"seed_oss": SeedOss(1035)}
