"""Gemma 4: heads of two lengths, norms of q, k and (without weight) v, layers that share an earlier one's k and v,
per-layer embeddings.

Keys and names: llama.cpp's converter (conversion/gemma.py). Weights of norms are as they are (nothing is added).
Attention is not scaled. attention.key_length, rope.dimension_count and rope.freq_base are of the layers that see
everything, the same with _swa of those with a window; attention.sliding_window_pattern says which is which, layer by
layer. The last attention.shared_kv_layers layers have no k and v: they take those of the last layer before them that is
of their kind. In files like E2B's these layers' feed-forwards are twice as wide (feed_forward_length is an array).
"Proportional" rotary, of the layers that see everything: the first quarter of the pairs turns; rope_freqs divides the
frequencies of the others by 1e30. Pairs are halves of a head. Per-layer embeddings: rows of per_layer_token_embd times
sqrt(their length), plus the norm (per_layer_proj_norm) of per_layer_model_proj's output over sqrt(d), both over
sqrt(2); a block's part, times the activated inp_gate, through proj and post_norm is added to its output. At the end of
a block everything is multiplied by layer_output_scale. The mixture (26B-A4B): experts beside the feed-forward, each
with norms of its own (pre_ffw_norm_2, post_ffw_norm_1 and _2). The router sees the residual stream after a norm without
weight, times ffn_gate_inp.scale over sqrt(d); weights are a softmax brought to a sum of 1, then times
ffn_down_exps.scale, one number an expert (ffn_expert_weights is not recorded: it depends on where that comes in). An
expert's gate and up are one tensor, ffn_gate_up_exps, gate's rows first. There layers that see everything have no v: it
is k before its norm. head_count_kv is an array.
"""

import gguf
import numpy as np

from .base import SHAPE, Family, Mixture, block_of
from .gemma import unscaled

PART = 0.25


def rope(local: float = 100.0, part: float = PART) -> dict:
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": part},
    }


def no_scales(model) -> None:
    for layer in model.model.layers:
        layer.layer_scalar.fill_(1.0)


def no_table(model) -> None:
    model.model.embed_tokens_per_layer.weight.zero_()


def no_expert_scales(model) -> None:
    for layer in model.model.layers:
        layer.router.per_expert_scale.fill_(1.0)


class Gemma4(Mixture):
    arch = "gemma4"
    model = "Gemma4ForCausalLM"
    buffers = ("layer_scalar",)
    router = "router.proj"
    experts = "experts"
    shape = {
        **{k: v for k, v in SHAPE.items() if k not in ("bos_token_id", "eos_token_id")},
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "sliding_window": 6,
        "final_logit_softcapping": 4.0,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": SHAPE["vocab_size"],
        "rope_parameters": rope(),
    }
    model_taps = (
        ("model.embed_tokens", "output", "embd"),
        ("model.norm", "output", "output_norm"),
    )
    layer_taps = (
        *(tap for tap in Family.layer_taps if tap[0] != "post_attention_layernorm"),
        ("post_attention_layernorm", "output", "attn_post_norm"),
        ("pre_feedforward_layernorm", "input", "attn_resid"),
        ("pre_feedforward_layernorm", "output", "ffn_norm"),
        ("post_feedforward_layernorm", "output", "ffn_post_norm"),
    )
    breaks = {
        "scale of embeddings": unscaled,
        "window": {"sliding_window": 64},
        "cap of logits": {"final_logit_softcapping": None},
        "the base of windowed layers": {"rope_parameters": rope(1000.0)},
        "proportional rotary": {"rope_parameters": rope(part=1.0)},
        "scales of layers": no_scales,
    }

    def random(self, name, shape, rng):
        if name.endswith(("layer_scalar", "per_expert_scale", "router.scale")):
            return rng.uniform(0.4, 1.6, shape)
        if "k_norm" in name:
            return rng.uniform(0.5, 1.0, shape)  # attention is not scaled
        return super().random(name, shape, rng)

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        n_layers, kinds = config.num_hidden_layers, config.layer_types
        full, windowed = (
            config.per_layer_config[kinds.index(kind)] for kind in ("full_attention", "sliding_attention")
        )
        writer.add_block_count(n_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        n_ff, n_shared = config.intermediate_size, config.num_kv_shared_layers
        wide = [n_ff] * (n_layers - n_shared) + [2 * n_ff] * n_shared
        writer.add_feed_forward_length(wide if config.use_double_wide_mlp else n_ff)
        writer.add_head_count(config.num_attention_heads)
        by_layer = [config.per_layer_config[n].num_key_value_heads for n in range(n_layers)]
        writer.add_head_count_kv(by_layer if config.attention_k_eq_v else by_layer[0])
        self.rope_keys(writer, config)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if config.num_experts is not None:
            writer.add_expert_count(config.num_experts)
            writer.add_expert_used_count(config.top_k_experts)
            writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
        writer.add_shared_kv_layers(n_shared)
        writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])
        writer.add_key_length(full.head_dim)
        writer.add_value_length(full.head_dim)
        writer.add_key_length_swa(windowed.head_dim)
        writer.add_value_length_swa(windowed.head_dim)
        writer.add_rope_dimension_count(full.head_dim)
        writer.add_rope_dimension_count_swa(windowed.head_dim)

    def first_tensors(self, config):
        half = config.per_layer_config[config.layer_types.index("full_attention")].head_dim // 2
        turning = int(2 * half * PART / 2)
        yield "rope_freqs.weight", np.array([1.0] * turning + [1e30] * (half - turning), dtype=np.float32)

    def tensors(self, name, values, config):
        block = block_of(name)
        if name.endswith("layer_scalar"):
            yield self.tensor_name(f"{name}.weight", config), values
        elif name.endswith("router.scale"):
            yield f"{block}.ffn_gate_inp.scale", values
        elif name.endswith("experts.gate_up_proj"):
            yield f"{block}.ffn_gate_up_exps.weight", values
        elif name.endswith("router.per_expert_scale"):
            yield f"{block}.ffn_down_exps.scale", values
        else:
            yield from super().tensors(name, values, config)

    def more_values(self, values, model):
        values["token_embd"] = model.model.embed_tokens.weight.detach().numpy()[values["tokens"]].astype(np.float32)

    def router_hook(self, keep, block, model, layer):
        hook = super().router_hook(keep, block, model, layer)
        return lambda module, args, output: hook(module, args, (output,))

    def experts_hook(self, keep, block):
        return super().experts_hook(lambda name, value: None if name.endswith("weights") else keep(name, value), block)

    def shows(self, value, layer, model):
        return not (value == "attn_k_rope" and model.model.layers[layer].self_attn.is_kv_shared_layer)


def kinds(*letters: str) -> list[str]:
    return [{"w": "sliding_attention", "f": "full_attention"}[letter] for letter in letters]


CASES = {
    "gemma4": Gemma4(
        1110,
        num_hidden_layers=4,
        layer_types=kinds("w", "f", "w", "f"),
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        breaks={"per-layer embeddings": no_table},
    ),
    "gemma4-moe": Gemma4(
        1111,
        layer_types=kinds("w", "f"),
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        breaks={"scales of experts": no_expert_scales},
    ),
}
