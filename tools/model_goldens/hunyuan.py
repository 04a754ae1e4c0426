"""Hunyuan, dense and with experts: norms of each head after the rotation (attn_q_rope, then attn_q_norm); pairs are
halves of a head.

Keys: llama.cpp's converter (conversion/hunyuan.py). The released models' "dynamic" rotary with alpha is written as what
it is: plain rotary with rope.freq_base theta alpha^(head_dim / (head_dim - 2)), and a context of 262144. Experts:
softmax, weights brought to a sum of 1 (no key says so), and one shared expert.
"""

import gguf

from .base import SHAPE, Family, Mixture, shared

NORMS = (
    ("self_attn.query_layernorm", "output", "attn_q_norm"),
    ("self_attn.key_layernorm", "output", "attn_k_norm"),
)
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 50.0}


class Dense(Family):
    arch = "hunyuan-dense"
    model = "HunYuanDenseV1ForCausalLM"
    rotated_by = "function"
    shape = {
        **SHAPE,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rope_parameters": DYNAMIC,
    }
    breaks = {"alpha": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}
    layer_taps = (*Family.layer_taps, *NORMS)

    def rope_keys(self, writer: gguf.GGUFWriter, config) -> None:
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope["rope_theta"] * rope["alpha"] ** (config.head_dim / (config.head_dim - 2)))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1)
        writer.add_rope_scaling_orig_ctx_len(256 * 1024)

    def context_length(self, config) -> int:
        return 256 * 1024

    def random(self, name, shape, rng):
        return Family.random(self, name.replace("query_layer", "q_").replace("key_layer", "k_"), shape, rng)


class Moe(Mixture):
    arch = "hunyuan-moe"
    model = "HunYuanMoEV1ForCausalLM"
    rotated_by = "function"
    shape = {
        **SHAPE,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        "intermediate_size": 16,
        "num_experts": 5,
        "moe_topk": 2,
    }
    layer_taps = (*Mixture.layer_taps, *NORMS, *shared("mlp.shared_mlp"))
    random = Dense.random

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_expert_shared_feed_forward_length(config.intermediate_size)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_expert_shared_count(1)


CASES = {"hunyuan-dense": Dense(1094), "hunyuan-moe": Moe(1095)}
