"""Command-R (command-r) and Command-R7B (cohere2): parallel blocks after one layer norm without bias, scaled logits,
adjacent pairs.

Keys: llama.cpp's converter (conversion/command_r.py). Command-R+ has norms over each head with weights of its own:
attn_q_norm [heads, head_dim]. In cohere2 windowed layers turn and the others do not; no key says which: llama.cpp's
runtime takes every fourth layer to see everything.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Family


class CommandR(Family):
    arch = "command-r"
    model = "CohereForCausalLM"
    shape = {
        **{k: v for k, v in SHAPE.items() if k != "rms_norm_eps"},
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.25,
        "tie_word_embeddings": True,
        "rope_parameters": PLAIN_ROPE,
    }
    breaks = {"scale of logits": {"logit_scale": 1.0}}

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_logit_scale(config.logit_scale)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


class Cohere2(CommandR):
    arch = "cohere2"
    model = "Cohere2ForCausalLM"
    shape = {
        **CommandR.shape,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 4,
        "sliding_window": 6,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    }
    breaks = {
        **CommandR.breaks,
        "window": {"sliding_window": 64},
        "pattern": {"layer_types": ["full_attention"] + ["sliding_attention"] * 3},
    }

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Family.keys(self, writer, config)
        writer.add_logit_scale(config.logit_scale)
        writer.add_sliding_window(config.sliding_window)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


CASES = {
    "command-r": CommandR(1038),
    "command-r-plus": CommandR(1039, use_qk_norm=True),
    "cohere2": Cohere2(1040),
}
