"""ERNIE 4.5: Llama in adjacent pairs, its rows as they are; and with experts by softmax, a bias for the choice, shared
experts.

Keys: llama.cpp's converter (conversion/ernie.py). It writes expert_shared_feed_forward_length as feed_forward_length /
head_count_kv: right for the released models and for this one, wrong in general. Weights are brought to a sum of 1; no
key says so, nor that the gate is softmax. exp_probs_b.bias is [1, experts], as in the checkpoint.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Family, Mixture, block_of, shared


class Ernie(Family):
    arch = "ernie4_5"
    model = "Ernie4_5ForCausalLM"
    shape = {**SHAPE, "head_dim": 16, "tie_word_embeddings": True, "rope_parameters": PLAIN_ROPE}


def no_bias(model) -> None:
    for layer in model.model.layers[1:]:
        layer.mlp.gate.moe_statics.e_score_correction_bias.zero_()


class ErnieMoe(Mixture):
    arch = "ernie4_5-moe"
    model = "Ernie4_5_MoeForCausalLM"
    shape = {
        **SHAPE,
        "moe_num_experts": 5,
        "moe_k": 2,
        "moe_intermediate_size": 12,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
        "rope_parameters": PLAIN_ROPE,
    }
    layer_taps = (*Mixture.layer_taps, *shared("mlp.shared_experts"))
    breaks = {"bias of the choice": no_bias}

    def random(self, name, shape, rng):
        return (
            rng.normal(0, 0.3, shape) if name.endswith("e_score_correction_bias") else super().random(name, shape, rng)
        )

    def choice(self, logits, model, layer):
        return logits.softmax(-1) + model.model.layers[layer].mlp.gate.moe_statics.e_score_correction_bias

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_interleave_moe_layer_step(config.moe_layer_interval)
        writer.add_leading_dense_block_count(config.moe_layer_start_index)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_count(config.moe_num_shared_experts)
        length = config.intermediate_size // config.num_key_value_heads
        assert length == config.moe_intermediate_size * config.moe_num_shared_experts
        writer.add_expert_shared_feed_forward_length(length)

    def tensors(self, name, values, config):
        if name.endswith("moe_statics.e_score_correction_bias"):
            block = block_of(name)
            yield f"{block}.exp_probs_b.bias", values
        else:
            yield from super().tensors(name, values, config)


CASES = {"ernie4_5": Ernie(1092), "ernie4_5-moe": ErnieMoe(1093)}
