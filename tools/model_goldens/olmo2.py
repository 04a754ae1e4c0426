"""OLMo 2 and 3: norms after attention and feed-forward only, and over the whole of q and of k; pairs are halves of a
head.

GGUF files OLMo 3 as olmo2 too (conversion/olmo.py), with attention.sliding_window and, layer by layer,
attention.sliding_window_pattern. OLMo 3's YaRN holds in the layers that see everything; the others turn as without it.
"""

import gguf
import numpy as np

from .base import PLAIN_ROPE, SHAPE, Family


class Olmo2(Family):
    arch = "olmo2"
    model = "Olmo2ForCausalLM"
    shape = {**SHAPE, "rope_parameters": PLAIN_ROPE}
    layer_taps = (
        *(tap for tap in Family.layer_taps if "layernorm" not in tap[0]),
        ("post_attention_layernorm", "output", "attn_post_norm"),
        ("mlp", "input", "attn_resid"),
        ("post_feedforward_layernorm", "output", "ffn_post_norm"),
    )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        if getattr(config, "sliding_window", None) is not None:
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


class Olmo3(Olmo2):
    model = "Olmo3ForCausalLM"


def rope(full: dict) -> dict:
    return {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": full}


YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
    "original_max_position_embeddings": 16,
    "attention_factor": 1.1386294361119891,  # 0.1 ln(factor) + 1, as in the released configuration
}
KINDS = ["sliding_attention", "full_attention"]

CASES = {
    "olmo2": Olmo2(1032),
    "olmo3": Olmo3(
        1033,
        sliding_window=6,
        layer_types=KINDS,
        rope_parameters=rope(YARN),
        breaks={
            "window": {"sliding_window": 64},
            "pattern": {"layer_types": KINDS[::-1]},
            "YaRN": {"rope_parameters": rope({"rope_type": "default", "rope_theta": 100.0})},
            "plain rotary in windowed layers": {"rope_parameters": {"sliding_attention": YARN, "full_attention": YARN}},
        },
    ),
}
assert np.isclose(YARN["attention_factor"], 0.1 * np.log(4.0) + 1)
