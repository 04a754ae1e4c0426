"""GPT-2, with a vocabulary of byte pairs."""

import math
from collections.abc import Iterator

import gguf
import numpy as np

from .base import CONTEXT, Family

VOCAB = 271  # 256 bytes, 14 merges, one special token


def write_byte_pairs(writer: gguf.GGUFWriter, vocab: int) -> None:
    """GPT-2's bytes as characters (https://github.com/openai/gpt-2, src/encoder.py), merges, and one special token."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    pieces = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    merges = [
        "t h",
        "th e",
        "i n",
        "a n",
        "\u0120 t",
        "\u0120 a",
        "e r",
        "o n",
        "\u0120t he",
        "an d",
        "o u",
        "e n",
        "r e",
        "\u0120 s",
    ]
    pieces += [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>"]
    assert len(pieces) == vocab
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([1] * (vocab - 1) + [3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab - 1)
    writer.add_eos_token_id(vocab - 1)


def is_transposed(name: str) -> bool:
    """GPT-2's Conv1D keeps a weight as [in, out]."""
    return ".c_" in name and name.endswith(".weight")


class Gpt2(Family):
    arch = "gpt2"
    model = "GPT2LMHeadModel"
    shape = {
        "n_embd": 32,
        "n_inner": 48,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": VOCAB,
        "n_positions": CONTEXT,
        "bos_token_id": VOCAB - 1,
        "eos_token_id": VOCAB - 1,
    }

    layers = "transformer.h"
    model_taps = (
        ("transformer.wte", "output", "token_embd"),
        ("transformer.wpe", "output", "position_embd"),
        ("transformer.h.0.ln_1", "input", "embd"),
        ("transformer.ln_f", "output", "output_norm"),
    )
    layer_taps = (
        ("ln_1", "output", "attn_norm"),
        ("attn.c_attn", "output", "attn_q", 0),
        ("attn.c_attn", "output", "attn_k", 1),
        ("attn.c_attn", "output", "attn_v", 2),
        ("attn.c_proj", "input", "attn_ctx"),
        ("attn.c_proj", "output", "attn_out"),
        ("ln_2", "input", "attn_resid"),
        ("ln_2", "output", "ffn_norm"),
        ("mlp.c_fc", "output", "ffn_up"),
        ("mlp.c_proj", "input", "ffn_act"),
        ("mlp.c_proj", "output", "ffn_down"),
        ("", "output", "output"),
    )

    def random(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if ".wpe." in name:
            return rng.normal(0.5, 0.5, shape)  # rows whose mean is far from 0: a layer norm that keeps it is noticed
        if is_transposed(name):
            values = rng.normal(0, 1 / math.sqrt(shape[0]), shape)
            if "c_attn" in name:
                values[:, : 2 * shape[0]] *= 1.6
            return values
        return super().random(name, shape, rng)

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.n_inner)
        writer.add_head_count(config.num_attention_heads)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)

    def vocabulary(self, writer, config):
        write_byte_pairs(writer, config.vocab_size)

    def tensors(self, name: str, values: np.ndarray, config) -> Iterator[tuple[str, np.ndarray]]:
        yield from super().tensors(name, values.T if is_transposed(name) else values, config)


CASES = {"gpt2": Gpt2(1010, layer_norm_epsilon=1e-4)}
