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
from transformers_names import ROTATED, Tap, adjacent_pairs, heads_to_reorder, taps

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
GPT2_VOCAB = 271  # 256 bytes, 14 merges, one special token
GPT2_SHAPE = {
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": GPT2_VOCAB,
    "n_positions": CONTEXT,
    "bos_token_id": GPT2_VOCAB - 1,
    "eos_token_id": GPT2_VOCAB - 1,
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
    "gpt2": ("gpt2", "GPT2", {"layer_norm_epsilon": 1e-4}),
}
N_TOKENS = 14
# Tokens that follow a prompt one by one, on the cached keys and values of those before.
N_STEPS = 10


def permute(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Permutes axis 0 (rows or features) of Q or K from halves to adjacent pairs: GGUF's "Meta AI original pth" layout."""
    head_dim = rows.shape[0] // n_heads
    return rows.reshape(n_heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def randomize(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random float32 values, stored in the model's precision. Q and K are large, so that attention is far from uniform."""
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if name.endswith(".bias"):
            values = rng.normal(0, 0.5, shape)
        elif "norm" in name or ".ln_" in name:
            values = rng.uniform(0.5, 1.5, shape)
        elif "embed_tokens" in name or ".wte." in name:
            values = rng.normal(0, 1, shape)
        elif ".wpe." in name:
            values = rng.normal(0.5, 0.5, shape)  # rows whose mean is far from 0: a layer norm that keeps it is noticed
        elif is_transposed(name):
            values = rng.normal(0, 1 / math.sqrt(shape[0]), shape)
            if "c_attn" in name:
                values[:, : 2 * shape[0]] *= 1.6
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
    # GPT-2
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def is_transposed(name: str) -> bool:
    """GPT-2's Conv1D keeps a weight as [in, out]."""
    return ".c_" in name and name.endswith(".weight")


def tensor_name(name: str) -> str:
    for layers in ("model.layers.", "transformer.h."):
        if name.startswith(layers):
            layer, rest = name.removeprefix(layers).split(".", 1)
            module, kind = rest.rsplit(".", 1)
            return f"blk.{layer}.{STEMS[module]}.{kind}"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
        "transformer.wte.weight": "token_embd.weight",
        "transformer.wpe.weight": "position_embd.weight",
        "transformer.ln_f.weight": "output_norm.weight",
        "transformer.ln_f.bias": "output_norm.bias",
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


def write_sentencepiece(writer: gguf.GGUFWriter) -> None:
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


def write_byte_pairs(writer: gguf.GGUFWriter, vocab: int) -> None:
    """GPT-2's bytes as characters (https://github.com/openai/gpt-2, src/encoder.py), some merges, and its one special token."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    pieces = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    merges = ["t h", "th e", "i n", "a n", "\u0120 t", "\u0120 a", "e r", "o n", "\u0120t he", "an d", "o u", "e n", "r e", "\u0120 s"]
    pieces += [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>"]
    assert len(pieces) == vocab
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([1] * (vocab - 1) + [3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab - 1)
    writer.add_eos_token_id(vocab - 1)


def write_gguf(path: pathlib.Path, arch: str, name: str, config, model: torch.nn.Module) -> None:
    writer = gguf.GGUFWriter(path, arch)
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", n_heads)
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.n_inner if arch == "gpt2" else config.intermediate_size)
    writer.add_head_count(n_heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        write_byte_pairs(writer, config.vocab_size)
    else:
        rope = config.rope_parameters
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
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
        write_sentencepiece(writer)
        if rope["rope_type"] == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    for key, parameter in model.named_parameters():
        values = parameter.detach().numpy().astype(np.float32)
        if arch == "llama" and ".q_proj." in key:
            values = permute(values, n_heads)
        if arch == "llama" and ".k_proj." in key:
            values = permute(values, n_kv_heads)
        if is_transposed(key):
            values = values.T
        writer.add_tensor(tensor_name(key), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record(arch: str, config, model: torch.nn.Module, tokens: list[int]) -> dict[str, np.ndarray]:
    """Runs the model and returns its values as [T, features] float32."""
    values: dict[str, np.ndarray] = {}
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", n_heads)

    def keep(name: str, tensor: torch.Tensor, part: int | None = None) -> None:
        array = tensor.detach().numpy().reshape(len(tokens), -1)
        if part is not None:
            array = np.split(array, 3, axis=1)[part]
        heads = heads_to_reorder(arch, name, n_heads, n_kv_heads)
        if heads:
            array = array[:, adjacent_pairs(heads, array.shape[1] // heads)]
        values[name] = np.ascontiguousarray(array, dtype=np.float32)

    def watch(tap: Tap) -> None:
        try:
            module = model.get_submodule(tap.module)
        except AttributeError:
            return
        if tap.side == "input":
            module.register_forward_pre_hook(lambda m, args: keep(tap.value, args[0]))
        else:
            module.register_forward_hook(lambda m, args, out: keep(tap.value, out, tap.part))

    probs: list[np.ndarray] = []
    for tap in taps(arch, config.num_hidden_layers):
        watch(tap)
    for name, module in model.named_modules():
        if name.endswith((".self_attn", ".attn")):
            module.register_forward_hook(lambda m, args, out: probs.append(out[1].detach().numpy()[0]))

    # A function of the model's source file returns the rotated q and k; it is called once for each layer.
    source = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
    original = getattr(source, "apply_rotary_pos_emb", None)
    calls = 0

    def rotate(q, k, *args, **kwargs):
        nonlocal calls
        rotated = original(q, k, *args, **kwargs)
        for name, value in zip(ROTATED, rotated, strict=True):
            keep(f"blk.{calls}.{name}", value.transpose(1, 2))
        calls += 1
        return rotated

    if original:
        source.apply_rotary_pos_emb = rotate
    try:
        with torch.no_grad():
            model(torch.tensor([tokens]))
    finally:
        if original:
            source.apply_rotary_pos_emb = original
    for n, array in enumerate(probs):
        values[f"blk.{n}.attn_probs"] = array.reshape(-1, len(tokens)).astype(np.float32)
    return values


def step_by_step(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """The logits of a prompt, and of N_STEPS tokens one by one on the keys and values kept of those before."""
    logits, cache = [], None
    with torch.no_grad():
        for given in (tokens[:-N_STEPS], *([token] for token in tokens[-N_STEPS:])):
            output = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits[0].numpy())
    return np.concatenate(logits)


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
        config = getattr(transformers, f"{family}Config")(**{**(GPT2_SHAPE if arch == "gpt2" else SHAPE), **changes})
        config._attn_implementation = "eager"
        head = "LMHeadModel" if arch == "gpt2" else "ForCausalLM"
        model = getattr(transformers, f"{family}{head}")(config).to(torch.float64).eval()
        randomize(model, rng)
        tokens = [1, *(int(t) for t in rng.integers(3, config.vocab_size, (N_TOKENS + N_STEPS if arch == "gpt2" else N_TOKENS) - 1))]
        write_gguf(arguments.out / f"{name}.gguf", arch, name, config, model)
        stepped = step_by_step(model, tokens)
        values = record(arch, config, model, tokens)
        np.testing.assert_allclose(values["logits"], stepped, rtol=1e-5, atol=1e-6)
        largest = max(float(p.max()) for n, p in values.items() if n.endswith("attn_probs"))
        if arguments.hf:
            model.to(torch.float32).save_pretrained(arguments.hf / name)
        values["tokens"] = np.array(tokens, dtype=np.int32)
        write_safetensors(arguments.out / f"{name}.safetensors", values)
        sizes = [(arguments.out / f"{name}.{kind}").stat().st_size // 1024 for kind in ("gguf", "safetensors")]
        print(f"{name}: {len(values)} values, {sizes[0]} + {sizes[1]} KiB, largest attention weight {largest:.2f}")


if __name__ == "__main__":
    main()
