"""The text models of Qwen2-VL and Qwen3-VL: Qwen2 and Qwen3 whose rotary has sections for three axes; a text's are
equal.

Keys: what llama.cpp's converter writes for every text model: rope.dimension_sections, padded to four. Qwen2-VL's
sections lie one after the other, Qwen3-VL's take turns; with equal positions both are plain rotary in halves of a head.
Qwen3-VL's n_deepstack_layers counts what the picture's model adds to the first layers; in a text they get nothing.
"""

import gguf

from .base import SHAPE, Family

VISION = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 2,
    "temporal_patch_size": 1,
    "spatial_merge_size": 1,
    "in_channels": 1,
}


class QwenVl(Family):
    layers = "model.language_model.layers"
    model_taps = (
        ("model.language_model.embed_tokens", "output", "token_embd"),
        ("model.language_model.norm", "output", "output_norm"),
    )

    def __init__(self, seed: int, vision: dict, **text):
        super().__init__(seed)
        self.config = {
            "text_config": {**SHAPE, **text},
            "vision_config": {**VISION, **vision},
            "tie_word_embeddings": False,
        }

    def random(self, name, shape, rng):
        return rng.normal(0, 1, shape) if ".visual." in name else super().random(name, shape, rng)

    def more_values(self, values, model):
        """The picture's model has one layer, which counts as the first: its text layers are numbered from 1."""
        for name in [n for n in values if n.endswith(("_rope", "attn_probs"))]:
            layer, stem = name.removeprefix("blk.").split(".")
            values[f"blk.{int(layer) - 1}.{stem}"] = values.pop(name)

    def tensors(self, name, values, config):
        if ".visual." not in name:
            yield from super().tensors(name.replace("language_model.", ""), values, config)


class Qwen2Vl(QwenVl):
    arch = "qwen2vl"
    model = "Qwen2VLForConditionalGeneration"


class Qwen3Vl(QwenVl):
    arch = "qwen3vl"
    model = "Qwen3VLForConditionalGeneration"

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_num_deepstack_layers(1)


def rope(*sections: int) -> dict:
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(sections)}


CASES = {
    "qwen2vl": Qwen2Vl(
        1043, {"embed_dim": 8, "hidden_size": 32, "mlp_ratio": 1}, rms_norm_eps=1e-6, rope_parameters=rope(2, 1, 1)
    ),
    "qwen3vl": Qwen3Vl(
        1044,
        {
            "hidden_size": 8,
            "intermediate_size": 8,
            "out_hidden_size": 32,
            "num_position_embeddings": 4,
            "deepstack_visual_indexes": [0],
        },
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_parameters=rope(4, 2, 2),
    ),
}
