"""Apertus: norms of each head, no gate, and xIELU, an activation with two learned numbers a layer; Llama 3's frequency
divisors.

Keys: llama.cpp's converter (conversion/llama.py): xielu.alpha_p, alpha_n, beta and eps, a number a layer, as the
checkpoint has them: with a = softplus(alpha_p) and b = beta + softplus(alpha_n), x > 0 becomes a x x + beta x, any
other x b (exp(min(x, eps)) - 1 - x) + beta x. Pairs are halves of a head (the converter leaves the rows as they are).
"""

import gguf
import numpy as np

from .base import SHAPE, Family, llama3_factors

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def same_alphas(model) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn.alpha_n.fill_(0.5)


class Apertus(Family):
    arch = "apertus"
    model = "ApertusForCausalLM"
    shape = {**SHAPE, "rope_parameters": ROPE}
    layer_taps = (
        *(tap for tap in Family.layer_taps if "layernorm" not in tap[0]),
        ("attention_layernorm", "output", "attn_norm"),
        ("feedforward_layernorm", "input", "attn_resid"),
        ("feedforward_layernorm", "output", "ffn_norm"),
    )
    breaks = {
        "factors": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        "alpha_n": same_alphas,
    }

    def random(self, name, shape, rng):
        return rng.uniform(-1, 1.5, shape) if "act_fn" in name else super().random(name, shape, rng)

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))

    def first_tensors(self, config):
        yield "rope_freqs.weight", llama3_factors(config.rope_parameters, self.head_dim(config))

    def tensors(self, name, values, config):
        if "act_fn" not in name:
            yield from super().tensors(name, values, config)

    def model_keys(self, writer: gguf.GGUFWriter, model) -> None:
        activations = [layer.mlp.act_fn for layer in model.model.layers]
        for key in ("alpha_n", "alpha_p", "beta", "eps"):
            numbers = [float(np.float32(getattr(activation, key).item())) for activation in activations]
            getattr(writer, f"add_xielu_{key}")(numbers)


CASES = {"apertus": Apertus(1047)}
