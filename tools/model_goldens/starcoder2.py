"""StarCoder2: layer norms and biases everywhere, GELU by tanh, without a gate; pairs are halves of a head.

Keys: what llama.cpp's converter writes for every text model. It writes no window, though the models of 2024 have one of
4096 positions: a file cannot ask for it.
"""

from .base import PLAIN_ROPE, SHAPE, Family


class Starcoder2(Family):
    arch = "starcoder2"
    model = "Starcoder2ForCausalLM"
    shape = {
        **{k: v for k, v in SHAPE.items() if k != "rms_norm_eps"},
        "norm_epsilon": 1e-5,
        "rope_parameters": PLAIN_ROPE,
    }
    layer_taps = (
        *Family.layer_taps,
        ("mlp.c_fc", "output", "ffn_up"),
        ("mlp.c_proj", "input", "ffn_act"),
        ("mlp.c_proj", "output", "ffn_down"),
    )


CASES = {"starcoder2": Starcoder2(1024, tie_word_embeddings=True)}
