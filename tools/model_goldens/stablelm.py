"""StableLM: layer norms, partial rotary; StableLM 2 12B has parallel blocks and a norm of its own for each head of q
and of k.

Keys: llama.cpp's converter (conversion/stablelm.py), which writes no rope.freq_base: 10000, and stacks the heads' norms
as attn_q_norm [heads, head_dim]. use_parallel_residual says whether a block is parallel; such a block has no ffn_norm.
"""

import re

import gguf
import numpy as np
import torch

from .base import SHAPE, Family

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


class StableLm(Family):
    arch = "stablelm"
    model = "StableLmForCausalLM"
    shape = {**{k: v for k, v in SHAPE.items() if k != "rms_norm_eps"}, "layer_norm_eps": 1e-5, "rope_parameters": ROPE}
    layer_taps = (
        *Family.layer_taps,
        ("self_attn.q_layernorm", "output", "attn_q_norm"),
        ("self_attn.k_layernorm", "output", "attn_k_norm"),
    )

    def random(self, name, shape, rng):
        return (
            rng.uniform(0.8, 2.2, shape)
            if "k_layernorm" in name or "q_layernorm" in name
            else super().random(name, shape, rng)
        )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        part = config.rope_parameters["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(part * (config.hidden_size // config.num_attention_heads)))
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)

    def tensors(self, name, values, config):
        if found := re.match(r"(.*_layernorm)\.norms\.(\d+)\.weight", name):
            heads = self.stacked.setdefault(found[1], [])
            heads.append(values)
            full = config.num_attention_heads if "q_layernorm" in name else config.num_key_value_heads
            if len(heads) == full:
                yield self.tensor_name(f"{found[1]}.weight", config), np.stack(self.stacked.pop(found[1]))
        else:
            yield from super().tensors(name, values, config)

    def __init__(self, *args, **changes):
        super().__init__(*args, **changes)
        self.stacked: dict[str, list[np.ndarray]] = {}


def swap_heads(model: torch.nn.Module) -> None:
    """Gives every head of q the first head's norm."""
    for layer in model.model.layers:
        for norm in layer.self_attn.q_layernorm.norms:
            norm.weight.copy_(layer.self_attn.q_layernorm.norms[0].weight)


CASES = {
    "stablelm": StableLm(
        1025,
        use_qkv_bias=True,
        breaks={"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}},
    ),
    "stablelm-parallel": StableLm(
        1026, use_parallel_residual=True, qk_layernorm=True, breaks={"norms by head": swap_heads}
    ),
}
