"""GLM-4.5: dense layers first, then experts by sigmoid: a bias helps choose and does not weigh; weights are normalised,
then scaled.

Keys: llama.cpp's converter (conversion/glm.py). Half of each head turns, in halves; the norm before the feed-forward is
post_attention_norm. transformers has no layer of prediction (nextn), which real files have after the
others, counted in block_count; of the goldens, glm4moe-nextn's file has one, with random weights.
"""

from collections.abc import Iterator

import gguf
import numpy as np
import torch

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
        """Groups compete by the sum of their best two; the experts of those that lose cannot be chosen."""
        gate = model.model.layers[layer].mlp.gate
        scores = logits.sigmoid() + gate.e_score_correction_bias
        groups = scores.unflatten(1, (gate.num_group, -1))
        strength = groups.topk(2, dim=-1)[0].sum(-1)
        best = strength.topk(gate.topk_group, dim=-1)
        if gate.topk_group < gate.num_group:
            ordered = strength.sort(dim=-1, descending=True)[0]
            margin = float((ordered[:, gate.topk_group - 1] - ordered[:, gate.topk_group]).min())
            assert gate.weight.dtype != torch.float64 or margin > self.min_margin, (
                f"layer {layer}: a choice of groups by {margin:.1e}"
            )
        lost = torch.ones_like(strength, dtype=torch.bool).scatter(1, best[1], False)
        return groups.masked_fill(lost[..., None], -1e9).flatten(1)

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
        writer.add_nextn_predict_layers(config.num_nextn_predict_layers)

    def block_count(self, config) -> int:
        return config.num_hidden_layers + config.num_nextn_predict_layers

    def last_tensors(self, written, config) -> Iterator[tuple[str, np.ndarray]]:
        """The block of prediction: tensors like those of the last block, and its own."""
        if config.num_nextn_predict_layers == 0:
            return
        rng = np.random.default_rng(self.seed)
        last, d = config.num_hidden_layers - 1, config.hidden_size
        for name, values in written.items():
            if name.startswith(f"blk.{last}."):
                yield (
                    name.replace(f"blk.{last}.", f"blk.{last + 1}."),
                    rng.normal(0, 1, values.shape).astype(np.float32),
                )
        for name, shape in (("eh_proj", (d, 2 * d)), ("enorm", d), ("hnorm", d), ("shared_head_norm", d)):
            yield f"blk.{last + 1}.nextn.{name}.weight", rng.normal(0, 1, shape).astype(np.float32)


PARTIAL = {"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}}

CASES = {
    "glm4moe": Glm4Moe(1085, breaks=PARTIAL),
    "glm4moe-nextn": Glm4Moe(
        1112,
        hidden_size=24,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        use_qk_norm=False,
        n_routed_experts=4,
        n_shared_experts=1,
        num_nextn_predict_layers=1,
    ),
    # The released models have one group.
    "glm4moe-groups": Glm4Moe(
        1113,
        hidden_size=24,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        n_routed_experts=6,
        n_group=3,
        topk_group=2,
        moe_intermediate_size=8,
        breaks={"groups": {"n_group": 1, "topk_group": 1}},
    ),
}
