"""GLM-4.5: dense layers first, then experts by sigmoid: a bias helps choose and does not weigh; weights are normalised, then scaled.

Keys: llama.cpp's converter (conversion/glm.py). Half of each head turns, in halves; the norm before the feed-forward is
post_attention_norm. transformers has no layer of prediction (nextn), which real files have after block_count - 1 others; this file has
none and says so.
"""

import gguf

from .base import SHAPE, Mixture, shared

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


def no_bias(model) -> None:
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.e_score_correction_bias.zero_()


class BySigmoid(Mixture):
    """A bias is added to the sigmoid of the logits for the choice alone."""

    buffers = ("e_score_correction_bias",)
    layer_taps = (*Mixture.layer_taps, *shared("mlp.shared_experts"))
    breaks = {
        "bias of the choice": no_bias,
        "normalised weights": {"norm_topk_prob": False},
        "scale of weights": {"routed_scaling_factor": 1.0},
    }

    def choice(self, logits, model, layer):
        return logits.sigmoid() + model.model.layers[layer].mlp.gate.e_score_correction_bias

    def tensors(self, name, values, config):
        if name.endswith("e_score_correction_bias"):
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        yield from super().tensors(name, values, config)

    def mixture_keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_expert_weights_norm(config.norm_topk_prob)


class Glm4Moe(BySigmoid):
    arch = "glm4moe"
    model = "Glm4MoeForCausalLM"
    shape = {
        **SHAPE,
        "intermediate_size": 32,
        "head_dim": 16,
        "attention_bias": True,
        "use_qk_norm": True,
        "n_routed_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.8,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 0,
        "rope_parameters": ROPE,
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
        self.mixture_keys(writer, config)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_nextn_predict_layers(0)


CASES = {"glm4moe": Glm4Moe(1085, breaks={"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}})}
