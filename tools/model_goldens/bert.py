"""Encoders: BERT, nomic-embed-text (nomic-bert) and ModernBERT; each position sees all the others.

Keys: llama.cpp's converter (conversion/bert.py), without the pooling's dense layer. BERT and Nomic add the first row of
token_types to every position, and have norms after each sum alone: attn_output_norm and layer_output_norm, whose values
have the tensors' names; attn_resid is the sum of attention and its input, token_embd_norm the norm of the embeddings'
sum embd. There is no last norm. Nomic's file has q, k and v in attn_qkv; gate is the checkpoint's fc12, up its fc11.
Pairs are halves of a head. ModernBERT has a norm of the embeddings instead of the first attn_norm. Its ffn_up has the
rows that are activated (ffn_gate) first. A windowed layer sees attention.sliding_window / 2 positions to each side;
attention.sliding_window_pattern 3 means that the first layer of every three sees everything (the newest converter also
writes hidden_activation and classifier.pooling_type, which gguf 0.19 does not have). Rotary: rope.freq_base, and
rope.freq_base_swa in windowed layers. llama.cpp computes GELU by tanh, transformers by the error function.
"""

import gguf
import numpy as np

from .base import PLAIN_ROPE, SHAPE, VOCAB, Family

ENCODER = {k: v for k, v in SHAPE.items() if k not in ("rms_norm_eps", "num_key_value_heads", "tie_word_embeddings")}


def write_wordpiece(writer: gguf.GGUFWriter) -> None:
    """Words begin with U+2581 where WordPiece marks what goes on with ##."""
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"] + ["\u2581" + chr(ord("a") + i) for i in range(26)]
    pieces += (
        [chr(ord("a") + i) for i in range(26)]
        + ["\u2581" + str(i) for i in range(10)]
        + ["\u2581.", "\u2581,", "\u2581the", "ing", "er"]
    )
    assert len(pieces) == VOCAB
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("bert-bge")
    writer.add_token_list(pieces)
    writer.add_token_types([3] * 5 + [1] * (VOCAB - 5))
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_sep_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)


def no_types(model) -> None:
    model.embeddings.token_type_embeddings.weight.zero_()


class Encoder(Family):
    decoder = False
    pooling = gguf.PoolingType.MEAN

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_causal_attention(False)
        writer.add_pooling_type(self.pooling)

    def vocabulary(self, writer, config):
        write_wordpiece(writer)


class Bert(Encoder):
    arch = "bert"
    model = "BertModel"
    pooling = gguf.PoolingType.CLS
    shape = {**ENCODER, "layer_norm_eps": 1e-5, "type_vocab_size": 2, "pad_token_id": 0}
    layers = "encoder.layer"
    model_taps = (
        ("embeddings.word_embeddings", "output", "token_embd"),
        ("embeddings.position_embeddings", "output", "position_embd"),
        ("embeddings.LayerNorm", "input", "embd"),
        ("embeddings.LayerNorm", "output", "token_embd_norm"),
    )
    layer_taps = (
        ("attention.self.query", "output", "attn_q"),
        ("attention.self.key", "output", "attn_k"),
        ("attention.self.value", "output", "attn_v"),
        ("attention.output.dense", "input", "attn_ctx"),
        ("attention.output.dense", "output", "attn_out"),
        ("attention.output.LayerNorm", "input", "attn_resid"),
        ("attention.output.LayerNorm", "output", "attn_output_norm"),
        ("intermediate.dense", "output", "ffn_up"),
        ("output.dense", "input", "ffn_act"),
        ("output.dense", "output", "ffn_down"),
        ("output.LayerNorm", "output", "layer_output_norm"),
    )
    breaks = {"token types": no_types}

    def tensors(self, name, values, config):
        if not name.startswith("pooler."):
            yield from super().tensors(name, values, config)


class NomicBert(Encoder):
    arch = "nomic-bert"
    model = "NomicBertModel"
    shape = {
        **ENCODER,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
    layers = "layers"
    model_taps = tuple(tap for tap in Bert.model_taps if "position" not in tap[0])
    layer_taps = (
        *(tap for tap in Family.layer_taps if "layernorm" not in tap[0] and tap[0]),
        ("post_attention_layernorm", "input", "attn_resid"),
        ("post_attention_layernorm", "output", "attn_output_norm"),
        ("post_mlp_layernorm", "output", "layer_output_norm"),
    )
    breaks = {"token types": no_types, "rotary": {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}}
    names = {
        "post_attention_layernorm": "attn_output_norm",
        "post_mlp_layernorm": "layer_output_norm",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }

    def __init__(self, *args, **changes):
        super().__init__(*args, **changes)
        self.qkv: list[np.ndarray] = []

    def tensors(self, name, values, config):
        if not name.startswith("layers."):
            yield from super().tensors(name, values, config)
            return
        _, layer, rest = name.split(".", 2)
        module, kind = rest.rsplit(".", 1)
        if module in self.names:
            yield f"blk.{layer}.{self.names[module]}.{kind}", values
            return
        self.qkv.append(values)
        assert rest == f"self_attn.{'qkv'[len(self.qkv) - 1]}_proj.weight"
        if len(self.qkv) == 3:
            yield f"blk.{layer}.attn_qkv.weight", np.concatenate(self.qkv)
            self.qkv.clear()


def all_rotary(theta: float, local: float) -> dict:
    return {
        "full_attention": {"rope_type": "default", "rope_theta": theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


class ModernBert(Encoder):
    arch = "modern-bert"
    model = "ModernBertModel"
    shape = {
        **ENCODER,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "norm_eps": 1e-5,
        "local_attention": 8,
        "global_attn_every_n_layers": 3,
        "rope_parameters": all_rotary(10000.0, 100.0),
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    layers = "layers"
    model_taps = (
        ("embeddings.tok_embeddings", "output", "token_embd"),
        ("embeddings.norm", "output", "token_embd_norm"),
        ("final_norm", "output", "output_norm"),
    )
    breaks = {
        "window": {"local_attention": 64},
        "the base of windowed layers": {"rope_parameters": all_rotary(10000.0, 10000.0)},
        "layers that see everything": {"global_attn_every_n_layers": 4},
    }

    def random(self, name, shape, rng):
        return super().random(name, shape, rng) * (1.5 if "Wqkv" in name else 1.0)

    def taps(self, config):
        return [tap for tap in super().taps(config) if tap.value != "blk.0.attn_norm"]

    def parts(self, config) -> tuple:
        n_ff = config.intermediate_size
        return (
            ("attn_norm", "output", "attn_norm"),
            ("attn.Wqkv", "output", "attn_q", 0),
            ("attn.Wqkv", "output", "attn_k", 1),
            ("attn.Wqkv", "output", "attn_v", 2),
            ("attn.Wo", "input", "attn_ctx"),
            ("attn.Wo", "output", "attn_out"),
            ("mlp_norm", "input", "attn_resid"),
            ("mlp_norm", "output", "ffn_norm"),
            ("mlp.Wi", "output", "ffn_gate", (0, n_ff)),
            ("mlp.Wi", "output", "ffn_up", (n_ff, 2 * n_ff)),
            ("mlp.Wo", "input", "ffn_act"),
            ("mlp.Wo", "output", "ffn_down"),
            ("", "output", "output"),
        )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_sliding_window(config.local_attention)
        writer.add_sliding_window_pattern(config.global_attn_every_n_layers)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_vocab_size(config.vocab_size)


class Qwen3Embedding(Family):
    """Qwen3-Embedding: Qwen3 without logits; the text's vector is the last position's."""

    arch = "qwen3"
    model = "Qwen3Model"
    decoder = False
    shape = {**SHAPE, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_parameters": PLAIN_ROPE}
    layers = "layers"
    model_taps = (
        ("embed_tokens", "output", "token_embd"),
        ("norm", "output", "output_norm"),
    )

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_pooling_type(gguf.PoolingType.LAST)

    def tensors(self, name, values, config):
        yield from super().tensors(f"model.{name}", values, config)


CASES = {
    "bert": Bert(1100),
    "nomic-bert": NomicBert(1101),
    "modern-bert": ModernBert(1102),
    "qwen3-embedding": Qwen3Embedding(1103),
}
