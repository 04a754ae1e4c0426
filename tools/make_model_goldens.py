#!/usr/bin/env python3
"""Makes tests/data/model: tiny random models as GGUF, and what Hugging Face transformers computes with them.

For each case NAME.gguf has float32 weights. NAME.safetensors has the token ids ("tokens"), the logits and the inner values,
under the names of docs/architecture.md. transformers runs in float64 from the same float32 weights, with eager
attention. Needs gguf, numpy, torch and transformers.

    python tools/make_model_goldens.py [--out tests/data/model] [--only NAME ...] [--hf FOLDER]

--hf also saves the models themselves, in float32, as FOLDER/NAME, for tools/trace_transformers.py to run.
"""

import argparse
import json
import math
import pathlib
import struct

import gguf
import numpy as np
import torch
import transformers

VOCAB = 72
CONTEXT = 64
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
# With these bases the slow components turn noticeably within the prompt's 14 positions, so that a wrong scaling shows.
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

CASES = {
    "llama": ("llama", "Llama", {"rope_parameters": PLAIN_ROPE}),
    "llama-rope-factors": (
        "llama",
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 50.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama-linear": ("llama", "Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}}),
    "llama-yarn": (
        "llama",
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "beta_fast": 2.0,
                "beta_slow": 0.25,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama-bias": ("llama", "Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": PLAIN_ROPE}),
    "mistral": (
        "llama",
        "Mistral",
        {"head_dim": 16, "sliding_window": 6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "smollm2": (
        "llama",
        "Llama",
        {
            "hidden_size": 36,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        },
    ),
    "qwen2": ("qwen2", "Qwen2", {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-tied": (
        "qwen2",
        "Qwen2",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3": (
        "qwen3",
        "Qwen3",
        {"head_dim": 16, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
}
N_TOKENS = 14


def permute(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Permutes axis 0 (rows or features) of Q or K from halves to adjacent pairs: GGUF's "Meta AI original pth" layout."""
    head_dim = rows.shape[0] // n_heads
    return rows.reshape(n_heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def randomize(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random float32 values, stored in the model's precision. Q and K are large, so that attention is far from uniform."""
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if "norm" in name:
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(".bias"):
            values = rng.normal(0, 0.5, shape)
        elif "embed_tokens" in name:
            values = rng.normal(0, 1, shape)
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            values = rng.normal(0, gain / math.sqrt(shape[1]), shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.astype(np.float32).astype(np.float64)))


STEMS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensor_name(name: str) -> str:
    if name.startswith("model.layers."):
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        module, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{STEMS[module]}.{kind}"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]


def llama3_factors(rope: dict, n_rot: int) -> np.ndarray:
    """Llama 3's frequency divisors (https://github.com/meta-llama/llama-models, models/llama3/model.py)."""
    factors = []
    for i in range(n_rot // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * i / n_rot)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        mix = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - mix) / rope["factor"] + mix))
    return np.array(factors, dtype=np.float32)


def write_gguf(path: pathlib.Path, arch: str, name: str, config, model: torch.nn.Module) -> None:
    writer = gguf.GGUFWriter(path, arch)
    rope = config.rope_parameters
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if head_dim * n_heads != config.hidden_size:
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

    pieces = ["<unk>", "<s>", "</s>", "\u2581"] + [chr(ord("a") + i) for i in range(26)] + [str(i) for i in range(10)]
    pieces += ["\u2581" + chr(ord("a") + i) for i in range(26)] + [".", ",", "!", "?", "th", "he"]
    assert len(pieces) == VOCAB
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(VOCAB - 3)])
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    for key, parameter in model.named_parameters():
        values = parameter.detach().numpy().astype(np.float32)
        if arch == "llama" and ".q_proj." in key:
            values = permute(values, n_heads)
        if arch == "llama" and ".k_proj." in key:
            values = permute(values, n_kv_heads)
        writer.add_tensor(tensor_name(key), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record(arch: str, config, model: torch.nn.Module, tokens: list[int]) -> dict[str, np.ndarray]:
    """Runs the model and returns its values as [T, features] float32."""
    values: dict[str, np.ndarray] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        array = tensor.detach().numpy()
        array = array.reshape(len(tokens), -1)
        heads = None
        stem = name.rsplit(".", 1)[-1]
        if arch == "llama" and stem in ("attn_q", "attn_q_rope"):
            heads = config.num_attention_heads
        if arch == "llama" and stem in ("attn_k", "attn_k_rope"):
            heads = config.num_key_value_heads
        if heads:
            array = permute(array.T, heads).T
        values[name] = np.ascontiguousarray(array, dtype=np.float32)

    def after(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda m, args, out: keep(name, out[0] if isinstance(out, tuple) else out))

    def before(module: torch.nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda m, args: keep(name, args[0]))

    after(model.model.embed_tokens, "token_embd")
    after(model.model.norm, "output_norm")
    after(model.lm_head, "logits")
    probs: list[np.ndarray] = []
    for n, layer in enumerate(model.model.layers):
        for module, stem in STEMS.items():
            found = layer
            for part in module.split("."):
                found = getattr(found, part, None)
            if found is not None:
                after(found, f"blk.{n}.{'attn_out' if stem == 'attn_output' else stem}")
        before(layer.self_attn.o_proj, f"blk.{n}.attn_ctx")
        before(layer.post_attention_layernorm, f"blk.{n}.attn_resid")
        before(layer.mlp.down_proj, f"blk.{n}.ffn_act")
        after(layer, f"blk.{n}.output")
        layer.self_attn.register_forward_hook(lambda m, args, out: probs.append(out[1].detach().numpy()[0]))

    # A function of the model's source file returns the rotated q and k; it is called once for each layer.
    source = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
    original = source.apply_rotary_pos_emb
    calls = 0

    def rotate(q, k, *args, **kwargs):
        nonlocal calls
        q_out, k_out = original(q, k, *args, **kwargs)
        keep(f"blk.{calls}.attn_q_rope", q_out.transpose(1, 2))
        keep(f"blk.{calls}.attn_k_rope", k_out.transpose(1, 2))
        calls += 1
        return q_out, k_out

    source.apply_rotary_pos_emb = rotate
    try:
        with torch.no_grad():
            model(torch.tensor([tokens]))
    finally:
        source.apply_rotary_pos_emb = original
    for n, array in enumerate(probs):
        values[f"blk.{n}.attn_probs"] = array.reshape(-1, len(tokens)).astype(np.float32)
    return values


def write_safetensors(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    header, blob = {}, b""
    for name, array in sorted(arrays.items()):
        data = array.tobytes()
        kind = {"float32": "F32", "int32": "I32"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "tests/data/model")
    parser.add_argument("--only", nargs="*", choices=CASES, help="these cases alone")
    parser.add_argument("--hf", type=pathlib.Path, metavar="FOLDER", help="save the Hugging Face models here too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed, (name, (arch, family, changes)) in enumerate(CASES.items()):
        if arguments.only and name not in arguments.only:
            continue
        rng = np.random.default_rng(1000 + seed)
        config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes})
        config._attn_implementation = "eager"
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.float64).eval()
        randomize(model, rng)
        tokens = [1, *(int(t) for t in rng.integers(3, VOCAB, N_TOKENS - 1))]
        write_gguf(arguments.out / f"{name}.gguf", arch, name, config, model)
        values = record(arch, config, model, tokens)
        largest = max(float(p.max()) for n, p in values.items() if n.endswith("attn_probs"))
        if arguments.hf:
            model.to(torch.float32).save_pretrained(arguments.hf / name)
        values["tokens"] = np.array(tokens, dtype=np.int32)
        write_safetensors(arguments.out / f"{name}.safetensors", values)
        sizes = [(arguments.out / f"{name}.{kind}").stat().st_size // 1024 for kind in ("gguf", "safetensors")]
        print(f"{name}: {len(values)} values, {sizes[0]} + {sizes[1]} KiB, largest attention weight {largest:.2f}")


if __name__ == "__main__":
    main()
