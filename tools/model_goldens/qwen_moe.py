"""Qwen2-MoE and Qwen3-MoE: many small experts by softmax; Qwen2's have a shared one with a gate of its own.

Keys: llama.cpp's converter (conversion/qwen.py). No key says whether the weights are brought to a sum of 1: Qwen3's
are, Qwen2's are not. Pairs are halves of a head.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Mixture, shared


def no_gate(model) -> None:
    for layer in model.model.layers:
        layer.mlp.shared_expert_gate.weight.zero_()


class Qwen2Moe(Mixture):
    arch = "qwen2moe"
    model = "Qwen2MoeForCausalLM"
    shape = {
        **SHAPE,
        "rms_norm_eps": 1e-6,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 24,
        "norm_topk_prob": False,
        "rope_parameters": PLAIN_ROPE,
    }
    layer_taps = (*Mixture.layer_taps, *shared("mlp.shared_expert"))
    breaks = {"weights that are not normalised": {"norm_topk_prob": True}, "the shared expert's gate": no_gate}

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if (length := getattr(config, "shared_expert_intermediate_size", None)) is not None:
            writer.add_expert_shared_feed_forward_length(length)


class Qwen3Moe(Qwen2Moe):
    arch = "qwen3moe"
    model = "Qwen3MoeForCausalLM"
    shape = {
        **{k: v for k, v in Qwen2Moe.shape.items() if k != "shared_expert_intermediate_size"},
        "head_dim": 16,
        "num_experts": 5,
        "norm_topk_prob": True,
    }
    breaks = {"normalised weights": {"norm_topk_prob": False}}


CASES = {"qwen2moe": Qwen2Moe(1081), "qwen3moe": Qwen3Moe(1082)}
