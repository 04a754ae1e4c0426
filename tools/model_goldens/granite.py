"""Granite 3: Llama with multipliers for embeddings, attention, what a block adds, and (as a divisor) logits.

Keys and the order of q's and k's rows: llama.cpp's converter (conversion/granite.py). token_embd are the rows
themselves, embd what enters the first block.
"""

import gguf

from .base import PLAIN_ROPE, SHAPE, Family


class Granite(Family):
    arch = "granite"
    model = "GraniteForCausalLM"
    permuted = True
    shape = {
        **SHAPE,
        "tie_word_embeddings": True,
        "rope_parameters": PLAIN_ROPE,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.6,
        "logits_scaling": 4.0,
    }
    breaks = {
        "embedding_multiplier": {"embedding_multiplier": 1.0},
        "attention_multiplier": {"attention_multiplier": 8**-0.5},
        "residual_multiplier": {"residual_multiplier": 1.0},
        "logits_scaling": {"logits_scaling": 1.0},
    }
    model_taps = (*Family.model_taps, ("model.layers.0.input_layernorm", "input", "embd"))

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Family.keys(self, writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


CASES = {"granite": Granite(1045)}
