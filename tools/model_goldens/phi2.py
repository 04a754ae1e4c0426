"""Phi-1.5 and Phi-2: attention and feed-forward side by side after one layer norm, biases everywhere, GELU by tanh.

Keys: llama.cpp's converter (conversion/phi.py), which writes no rope.freq_base: 10000. The first rope.dimension_count
features of a head turn, in halves.
"""

import gguf

from .base import SHAPE, Family


class Phi2(Family):
    arch = "phi2"
    model = "PhiForCausalLM"
    shape = {**SHAPE, "intermediate_size": 128, "num_key_value_heads": 4, "layer_norm_eps": 1e-5}
    model_taps = (
        ("model.embed_tokens", "output", "token_embd"),
        ("model.final_layernorm", "output", "output_norm"),
    )
    layer_taps = (
        *(tap for tap in Family.layer_taps if "_proj" in tap[0] or "input_" in tap[0] or not tap[0]),
        ("self_attn.dense", "input", "attn_ctx"),
        ("self_attn.dense", "output", "attn_out"),
        ("mlp.fc1", "output", "ffn_up"),
        ("mlp.fc2", "input", "ffn_act"),
        ("mlp.fc2", "output", "ffn_down"),
    )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        assert config.intermediate_size == 4 * config.hidden_size  # what the converter writes
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_attention_heads)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        part = config.rope_parameters["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(part * config.hidden_size) // config.num_attention_heads)
        writer.add_add_bos_token(False)


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

CASES = {
    "phi2": Phi2(
        1023,
        rope_parameters=ROPE,
        breaks={"partial rotary": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}},
    ),
}
