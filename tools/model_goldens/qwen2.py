"""Qwen2, and Qwen3, which adds norms of the heads and leaves out the biases."""

from .llama import Plain


class Qwen2(Plain):
    arch = "qwen2"
    model = "Qwen2ForCausalLM"


class Qwen3(Plain):
    arch = "qwen3"
    model = "Qwen3ForCausalLM"


ROPE = {"rope_type": "default", "rope_theta": 1e6}

CASES = {
    "qwen2": Qwen2(1007, rms_norm_eps=1e-6, rope_parameters=ROPE),
    "qwen2-tied": Qwen2(1008, tie_word_embeddings=True, rope_parameters=ROPE),
    "qwen3": Qwen3(1009, head_dim=16, rms_norm_eps=1e-6, rope_parameters=ROPE),
}
