"""GPT-NeoX (Pythia): parallel blocks with two layer norms, biases everywhere, partial rotary in halves, GELU without a
gate.

Keys: llama.cpp's converter (conversion/gptneox.py), which writes no rope.freq_base: 10000, and brings the rows of q, k
and v, head by head in the checkpoint, into three blocks. llama.cpp computes GELU by tanh, transformers by the error
function.
"""

import gguf
import numpy as np

from .base import SHAPE, Family

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
N_HEADS = SHAPE["num_attention_heads"]


def part_of(index: int):
    """q, k or v of features that lie head by head."""
    return lambda array: array.reshape(array.shape[0], N_HEADS, 3, -1)[:, :, index].reshape(array.shape[0], -1)


class GptNeox(Family):
    arch = "gptneox"
    model = "GPTNeoXForCausalLM"
    shape = {
        **{k: v for k, v in SHAPE.items() if k not in ("rms_norm_eps", "num_key_value_heads")},
        "layer_norm_eps": 1e-5,
        "rope_parameters": ROPE,
    }
    layers = "gpt_neox.layers"
    model_taps = (
        ("gpt_neox.embed_in", "output", "token_embd"),
        ("gpt_neox.final_layer_norm", "output", "output_norm"),
    )

    def parts(self, config) -> tuple:
        resid = () if config.use_parallel_residual else (("post_attention_layernorm", "input", "attn_resid"),)
        return (
            ("input_layernorm", "output", "attn_norm"),
            ("attention.query_key_value", "output", "attn_q", part_of(0)),
            ("attention.query_key_value", "output", "attn_k", part_of(1)),
            ("attention.query_key_value", "output", "attn_v", part_of(2)),
            ("attention.dense", "input", "attn_ctx"),
            ("attention.dense", "output", "attn_out"),
            *resid,
            ("post_attention_layernorm", "output", "ffn_norm"),
            ("mlp.dense_h_to_4h", "output", "ffn_up"),
            ("mlp.dense_4h_to_h", "input", "ffn_act"),
            ("mlp.dense_4h_to_h", "output", "ffn_down"),
            ("", "output", "output"),
        )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        part = config.rope_parameters["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(part * (config.hidden_size // config.num_attention_heads)))
        writer.add_head_count(config.num_attention_heads)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)

    def tensors(self, name, values, config):
        if "query_key_value" in name:
            heads = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
            values = np.concatenate([heads[:, i].reshape(-1, *values.shape[1:]) for i in range(3)])
        yield from super().tensors(name, values, config)


PARTIAL = {"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}}

CASES = {
    "gptneox": GptNeox(1027, breaks={"parallel blocks": {"use_parallel_residual": False}, **PARTIAL}),
    "gptneox-sequential": GptNeox(1028, use_parallel_residual=False, breaks=PARTIAL),
}
