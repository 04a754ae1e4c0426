"""MiniMax-M2: norms over the whole of q and of k, a part of each head turns, experts by sigmoid with a bias for the
choice.

Keys: llama.cpp's converter (conversion/minimax.py): rope.dimension_count is the checkpoint's rotary_dim. Weights are
brought to a sum of 1; no key says so. Pairs are halves of the turning part.
"""

import gguf

from .base import SHAPE, Mixture

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


def no_bias(model) -> None:
    for layer in model.model.layers:
        layer.mlp.e_score_correction_bias.zero_()


class MiniMaxM2(Mixture):
    arch = "minimax-m2"
    model = "MiniMaxM2ForCausalLM"
    buffers = ("e_score_correction_bias",)
    shape = {
        **SHAPE,
        "intermediate_size": 12,
        "head_dim": 16,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "scoring_func": "sigmoid",
        "rope_parameters": ROPE,
    }
    breaks = {
        "bias of the choice": no_bias,
        "partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
    }

    def choice(self, logits, model, layer):
        return logits.sigmoid() + model.model.layers[layer].mlp.e_score_correction_bias

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))

    def tensors(self, name, values, config):
        if name.endswith("e_score_correction_bias"):
            name = name.replace("mlp.e_score_correction_bias", "block_sparse_moe.e_score_correction.bias")
        yield from super().tensors(name, values, config)


CASES = {"minimax-m2": MiniMaxM2(1191)}
