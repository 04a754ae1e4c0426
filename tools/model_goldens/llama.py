"""Llama and what GGUF files as llama: Mistral and SmolLM2."""

import gguf

from .base import PLAIN_ROPE, Family, llama3_factors


class Plain(Family):
    """The keys that the first goldens have: fewer than llama.cpp's converter writes today."""

    n_tokens = 14
    rotated_by = "function"

    def random(self, name, shape, rng):
        if name.endswith("_norm.weight"):
            return rng.uniform(0.5, 1.5, shape)
        return super().random(name, shape, rng)

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope["rope_theta"])
        self.vocab_keys(writer, config)
        head_dim = self.head_dim(config)
        if head_dim * config.num_attention_heads != config.hidden_size:
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
        if getattr(config, "sliding_window", None):
            writer.add_sliding_window(config.sliding_window)

    def vocab_keys(self, writer: gguf.GGUFWriter, config) -> None:
        pass


class Llama(Plain):
    arch = "llama"
    model = "LlamaForCausalLM"
    permuted = True  # "Meta AI original pth" in GGUF's specification

    def vocab_keys(self, writer, config):
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_dim(config))

    def first_tensors(self, config):
        if config.rope_parameters["rope_type"] == "llama3":
            yield "rope_freqs.weight", llama3_factors(config.rope_parameters, self.head_dim(config))


class Mistral(Llama):
    model = "MistralForCausalLM"


CASES = {
    "llama": Llama(1000, rope_parameters=PLAIN_ROPE),
    "llama-rope-factors": Llama(
        1001,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 50.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "llama-linear": Llama(1002, rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}),
    "llama-yarn": Llama(
        1003,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "beta_fast": 2.0,
            "beta_slow": 0.25,
            "original_max_position_embeddings": 16,
        },
    ),
    "llama-bias": Llama(1004, attention_bias=True, mlp_bias=True, rope_parameters=PLAIN_ROPE),
    "mistral": Mistral(
        1005,
        head_dim=16,
        sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        breaks={"window": {"sliding_window": None}},
    ),
    "smollm2": Llama(
        1006,
        hidden_size=36,
        num_attention_heads=3,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    ),
}
