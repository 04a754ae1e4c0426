"""Falcon: 7B has one head of k and v and one layer norm for both halves of a parallel block; 40B has groups and two
norms.

Keys: llama.cpp's converter (conversion/falcon.py), which writes no rope.freq_base: 10000, a context of 2048, and brings
the groups of the checkpoint's query_key_value into the rows of q, of k and of v. In files of 40B attn_norm_2 is the
norm before attention, attn_norm the one before the feed-forward; the values have the tensors' names. llama.cpp computes
GELU by tanh, transformers by the error function.
"""

import gguf
import numpy as np

from .base import SHAPE, Family


def kv_heads(config) -> int:
    return config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1


def parts_of(config, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and v of [groups * (heads of q in a group + 2) * head_dim, ...]."""
    n_kv, head_dim = kv_heads(config), config.hidden_size // config.num_attention_heads
    groups = rows.reshape(n_kv, -1, head_dim, *rows.shape[1:])
    return tuple(part.reshape(-1, *rows.shape[1:]) for part in (groups[:, :-2], groups[:, -2], groups[:, -1]))


class Falcon(Family):
    arch = "falcon"
    model = "FalconForCausalLM"
    rotated_by = "function"
    shape = {
        **{k: v for k, v in SHAPE.items() if k not in ("rms_norm_eps", "num_key_value_heads", "intermediate_size")},
        "layer_norm_epsilon": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    layers = "transformer.h"
    model_taps = (
        ("transformer.word_embeddings", "output", "token_embd"),
        ("transformer.ln_f", "output", "output_norm"),
    )

    def random(self, name, shape, rng):
        return rng.normal(0, 1, shape) if "word_embeddings" in name else super().random(name, shape, rng)

    def parts(self, config) -> tuple:
        return (
            ("input_layernorm", "output", "attn_norm"),
            ("ln_attn", "output", "attn_norm_2"),
            ("ln_mlp", "output", "attn_norm"),
            *(
                ("self_attention.query_key_value", "output", name, lambda a, i=i: parts_of(config, a.T)[i].T)
                for i, name in enumerate(("attn_q", "attn_k", "attn_v"))
            ),
            ("self_attention.dense", "input", "attn_ctx"),
            ("self_attention.dense", "output", "attn_out"),
            ("mlp.dense_h_to_4h", "output", "ffn_up"),
            ("mlp.dense_4h_to_h", "input", "ffn_act"),
            ("mlp.dense_4h_to_h", "output", "ffn_down"),
            ("", "output", "output"),
        )

    def reorder(self, value, array, config):
        if value.endswith("attn_k_rope"):  # a group's k comes once for each head of q
            n_kv, head_dim = kv_heads(config), config.hidden_size // config.num_attention_heads
            groups = array.reshape(array.shape[0], n_kv, -1, head_dim)
            return groups[:, :, 0].reshape(array.shape[0], -1)
        return array

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_context_length(2048)
        writer.add_tensor_data_layout("jploski")
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(kv_heads(config))
        writer.add_layer_norm_eps(config.layer_norm_epsilon)

    def tensors(self, name, values, config):
        if "query_key_value" in name:
            values = np.concatenate(parts_of(config, values))
        yield from super().tensors(name, values, config)


CASES = {
    "falcon": Falcon(1029, tie_word_embeddings=False),
    "falcon-40b": Falcon(1030, new_decoder_architecture=True, num_kv_heads=2, tie_word_embeddings=True),
}
