"""Plumb's names for the inputs and outputs of a Hugging Face model's modules, and the order of their features in a GGUF file.

For the families llama (and mistral, which GGUF files as llama), qwen2, qwen3 and gpt2 of transformers 5.23.0.
"""

from typing import Literal, NamedTuple

# From a configuration's model_type to the architecture of its GGUF files.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}


class Tap(NamedTuple):
    module: str
    side: Literal["input", "output"]
    value: str
    # Which third of the features, of a module that makes q, k and v; or the features [from, to), of a module that makes several.
    part: int | tuple[int, int] | None = None


MODEL_TAPS = (
    Tap("model.embed_tokens", "output", "token_embd"),
    Tap("model.norm", "output", "output_norm"),
    Tap("lm_head", "output", "logits"),
)
LAYER_TAPS = (
    Tap("input_layernorm", "output", "attn_norm"),
    Tap("self_attn.q_proj", "output", "attn_q"),
    Tap("self_attn.k_proj", "output", "attn_k"),
    Tap("self_attn.v_proj", "output", "attn_v"),
    Tap("self_attn.q_norm", "output", "attn_q_norm"),  # only in qwen3
    Tap("self_attn.k_norm", "output", "attn_k_norm"),
    Tap("self_attn.o_proj", "input", "attn_ctx"),
    Tap("self_attn.o_proj", "output", "attn_out"),
    Tap("post_attention_layernorm", "input", "attn_resid"),
    Tap("post_attention_layernorm", "output", "ffn_norm"),
    Tap("mlp.gate_proj", "output", "ffn_gate"),
    Tap("mlp.up_proj", "output", "ffn_up"),
    Tap("mlp.down_proj", "input", "ffn_act"),
    Tap("mlp.down_proj", "output", "ffn_down"),
)
GPT2_MODEL_TAPS = (
    Tap("transformer.wte", "output", "token_embd"),
    Tap("transformer.wpe", "output", "position_embd"),
    Tap("transformer.h.0.ln_1", "input", "embd"),
    Tap("transformer.ln_f", "output", "output_norm"),
    Tap("lm_head", "output", "logits"),
)
GPT2_LAYER_TAPS = (
    Tap("ln_1", "output", "attn_norm"),
    Tap("attn.c_attn", "output", "attn_q", 0),
    Tap("attn.c_attn", "output", "attn_k", 1),
    Tap("attn.c_attn", "output", "attn_v", 2),
    Tap("attn.c_proj", "input", "attn_ctx"),
    Tap("attn.c_proj", "output", "attn_out"),
    Tap("ln_2", "input", "attn_resid"),
    Tap("ln_2", "output", "ffn_norm"),
    Tap("mlp.c_fc", "output", "ffn_up"),
    Tap("mlp.c_proj", "input", "ffn_act"),
    Tap("mlp.c_proj", "output", "ffn_down"),
)
# The function apply_rotary_pos_emb of the model's source file, where it has one, returns these two, as [1, heads, T, head_dim].
ROTATED = ("attn_q_rope", "attn_k_rope")


def taps(architecture: str, n_layers: int) -> list[Tap]:
    """The taps of a whole model. A block's output is tapped as the input of the next block's norm, or of the last norm."""
    if architecture == "gpt2":
        found, of_layer, layers, first, last = list(GPT2_MODEL_TAPS), GPT2_LAYER_TAPS, "transformer.h", "ln_1", "transformer.ln_f"
    else:
        found, of_layer, layers, first, last = list(MODEL_TAPS), LAYER_TAPS, "model.layers", "input_layernorm", "model.norm"
    for n in range(n_layers):
        found += [Tap(f"{layers}.{n}.{tap.module}", tap.side, f"blk.{n}.{tap.value}", tap.part) for tap in of_layer]
        after = f"{layers}.{n + 1}.{first}" if n + 1 < n_layers else last
        found.append(Tap(after, "input", f"blk.{n}.output"))
    return found


def heads_to_reorder(architecture: str, value: str, n_heads: int, n_kv_heads: int) -> int:
    """The number of heads whose features must be reordered for the file; 0 for values that have the file's order.

    In files of llama the rows of Q and K are permuted so that adjacent components rotate together ("Meta AI original pth"
    in the GGUF specification); transformers rotates the halves of a head.
    """
    if architecture != "llama":
        return 0
    stem = value.rpartition(".")[2]
    return {"attn_q": n_heads, "attn_q_rope": n_heads, "attn_k": n_kv_heads, "attn_k_rope": n_kv_heads}.get(stem, 0)


def adjacent_pairs(n_heads: int, head_dim: int) -> list[int]:
    """Feature i of the file's order is feature adjacent_pairs()[i] of transformers'."""
    half = head_dim // 2
    return [head * head_dim + side * half + pair for head in range(n_heads) for pair in range(half) for side in (0, 1)]
