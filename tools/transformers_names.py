"""Which of Plumb's named values a module of a Hugging Face model takes or gives, and in which order a GGUF file has it.

For the families llama (and mistral, which GGUF files as llama), qwen2 and qwen3 of transformers 5.23.0.
"""

from typing import Literal, NamedTuple

# model_type of a configuration, to the architecture a GGUF file of it has.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


class Tap(NamedTuple):
    module: str
    side: Literal["input", "output"]
    value: str


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
    Tap("self_attn.q_norm", "output", "attn_q_norm"),  # where there is one
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
# The function apply_rotary_pos_emb of the model's module gives these two, as [1, heads, T, head_dim].
ROTATED = ("attn_q_rope", "attn_k_rope")


def taps(n_layers: int) -> list[Tap]:
    """Of a whole model. What a block leaves is what the next block's norm, or the last norm, takes."""
    found = list(MODEL_TAPS)
    for n in range(n_layers):
        found += [Tap(f"model.layers.{n}.{module}", side, f"blk.{n}.{value}") for module, side, value in LAYER_TAPS]
        after = f"model.layers.{n + 1}.input_layernorm" if n + 1 < n_layers else "model.norm"
        found.append(Tap(after, "input", f"blk.{n}.output"))
    return found


def heads_to_reorder(architecture: str, value: str, n_heads: int, n_kv_heads: int) -> int:
    """How many heads of the value lie in another order in the file than in transformers; 0: none.

    Files of llama have the rows of Q and K permuted so that adjacent components rotate together ("Meta AI original pth"
    in the GGUF specification), where transformers rotates the halves of a head.
    """
    if architecture != "llama":
        return 0
    stem = value.rpartition(".")[2]
    return {"attn_q": n_heads, "attn_q_rope": n_heads, "attn_k": n_kv_heads, "attn_k_rope": n_kv_heads}.get(stem, 0)


def adjacent_pairs(n_heads: int, head_dim: int) -> list[int]:
    """Feature i of the file's order is feature adjacent_pairs()[i] of transformers'."""
    half = head_dim // 2
    return [head * head_dim + side * half + pair for head in range(n_heads) for pair in range(half) for side in (0, 1)]
