"""gpt-oss: sinks, a window in every other layer, experts with biases and a clamped gate, YaRN.

Keys and the parting of gate and up, whose rows take turns in the checkpoint: llama.cpp's converter
(conversion/gpt_oss.py). Real files have the experts in MXFP4; this one has F32. The norm before the feed-forward is
post_attention_norm. What no key says: softmax runs over the logits of the chosen experts; gate is clamped to at most 7
and up to -7 to 7; the product is (up + 1) gate sigmoid(1.702 gate); the first layer has the window, and every other.
llama.cpp rounds YaRN's two limits outward to whole components; transformers leaves them as they are in gpt-oss
("truncate": false). Attention's weights are those of the positions; with the sink's they make a sum of 1.
"""

import gguf
import numpy as np
import torch

from .base import SHAPE, Mixture, block_of

KINDS = ["sliding_attention", "full_attention"]
ROPE = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "truncate": False,
    "original_max_position_embeddings": 16,
}


def no_sinks(model) -> None:
    for layer in model.model.layers:
        layer.self_attn.sinks.fill_(-1e9)


def no_clamp(model) -> None:
    for layer in model.model.layers:
        layer.mlp.experts.limit = 1e9


class GptOss(Mixture):
    arch = "gpt-oss"
    model = "GptOssForCausalLM"
    router = "mlp.router"
    shape = {
        **SHAPE,
        "intermediate_size": 16,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
        "layer_types": KINDS,
        "rope_parameters": ROPE,
    }
    breaks = {
        "sinks": no_sinks,
        "clamp": no_clamp,
        "window": {"sliding_window": 64},
        "pattern": {"layer_types": KINDS[::-1]},
        "YaRN's limits as they are": {"rope_parameters": {**ROPE, "truncate": True}},
    }

    def random(self, name, shape, rng):
        if name.endswith("sinks"):
            return rng.normal(1.0, 1.0, shape)
        if name.endswith(".experts.gate_up_proj"):
            return rng.normal(0, 4 / np.sqrt(shape[1]), shape)
        if name.endswith(".experts.down_proj"):
            return rng.normal(0, 0.3 / np.sqrt(shape[1]), shape)
        return super().random(name, shape, rng)

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_sliding_window(config.sliding_window)
        writer.add_expert_feed_forward_length(config.intermediate_size)

    def tensors(self, name, values, config):
        block = block_of(name)
        if name.endswith("gate_up_proj"):
            yield f"{block}.ffn_gate_exps.weight", values[..., ::2].swapaxes(1, 2)
            yield f"{block}.ffn_up_exps.weight", values[..., 1::2].swapaxes(1, 2)
        elif name.endswith("gate_up_proj_bias"):
            yield f"{block}.ffn_gate_exps.bias", values[..., ::2]
            yield f"{block}.ffn_up_exps.bias", values[..., 1::2]
        elif name.endswith("experts.down_proj"):
            yield f"{block}.ffn_down_exps.weight", values.swapaxes(1, 2)
        elif name.endswith("experts.down_proj_bias"):
            yield f"{block}.ffn_down_exps.bias", values
        elif name.endswith("sinks"):
            yield self.tensor_name(f"{name}.weight", config), values
        else:
            yield from super().tensors(name, values, config)

    def expert(self, module, x: torch.Tensor, e: int) -> tuple[torch.Tensor, ...]:
        both = x @ module.gate_up_proj[e] + module.gate_up_proj_bias[e]
        act = module._apply_gate(both)
        return both[::2], both[1::2], act, act @ module.down_proj[e] + module.down_proj_bias[e]


CASES = {"gpt-oss": GptOss(1084)}
