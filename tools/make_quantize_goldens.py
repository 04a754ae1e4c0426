#!/usr/bin/env python3
"""Makes tests/data/model/file_types.txt: the format that llama.cpp chooses for each tensor, for each file type.

    pip install gguf numpy llama-cpp-python
    python tools/make_quantize_goldens.py

For a range of shapes it writes a GGUF file of random F16 weights, converts it by llama_model_quantize, and notes the
formats. Two rows are enough for each tensor: only names, row lengths and hyper-parameters matter. A case is a line of
hyper-parameters and a line for each file type: `role=FORMAT*COUNT,...` in order of the layers.
"""

import itertools
import pathlib
import tempfile

import gguf
import llama_cpp
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "model" / "file_types.txt"

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "BF16": 32,
}  # fmt: skip

# arch, layers, width (row length of all but ffn_down), ff (row length of ffn_down), heads, kv_heads, experts, tied
CASES = [
    ("llama", 1, 256, 512, 4, 4, 0, 0),
    ("llama", 5, 256, 256, 4, 2, 0, 1),
    ("llama", 8, 256, 512, 4, 1, 0, 0),
    ("llama", 16, 256, 512, 4, 2, 0, 1),
    ("llama", 22, 256, 256, 4, 1, 0, 0),
    ("llama", 32, 256, 512, 4, 4, 0, 0),
    ("llama", 80, 256, 256, 8, 1, 0, 0),
    ("llama", 80, 256, 256, 8, 8, 0, 0),
    ("llama", 30, 576, 1536, 9, 3, 0, 1),
    ("llama", 6, 288, 768, 6, 6, 0, 0),
    ("llama", 6, 256, 320, 4, 4, 0, 0),
    ("llama", 12, 256, 512, 4, 2, 8, 0),
    ("llama", 12, 256, 512, 4, 2, 4, 0),
    ("qwen2", 24, 896, 4864, 14, 2, 0, 1),
    ("qwen2", 80, 256, 256, 8, 1, 0, 0),
    ("qwen2", 80, 256, 256, 8, 8, 0, 0),
    ("qwen3", 80, 256, 256, 8, 1, 0, 0),
    ("qwen3", 28, 256, 512, 4, 2, 0, 1),
]
KEYS = ("arch", "layers", "width", "ff", "heads", "kv_heads", "experts", "tied")


def tensors_of(case: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Names and numpy shapes of the matrices and norms."""
    width, ff, experts = case["width"], case["ff"], case["experts"]
    tensors = [("token_embd.weight", (2, width)), ("output_norm.weight", (width,))]
    if not case["tied"]:
        tensors.append(("output.weight", (2, width)))
    for layer in range(case["layers"]):
        blk = f"blk.{layer}."
        tensors.append((blk + "attn_norm.weight", (width,)))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.append((blk + part + ".weight", (2, width)))
        tensors.append((blk + "ffn_norm.weight", (width,)))
        if experts:
            tensors.append((blk + "ffn_gate_inp.weight", (experts, width)))
            for part, row in (("ffn_gate_exps", width), ("ffn_up_exps", width), ("ffn_down_exps", ff)):
                tensors.append((blk + part + ".weight", (experts, 2, row)))
        else:
            for part, row in (("ffn_gate", width), ("ffn_up", width), ("ffn_down", ff)):
                tensors.append((blk + part + ".weight", (2, row)))
    return tensors


def write_model(case: dict, path: pathlib.Path, rng: np.random.Generator) -> None:
    writer = gguf.GGUFWriter(path, case["arch"])
    writer.add_block_count(case["layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(case["width"])
    writer.add_feed_forward_length(case["ff"])
    writer.add_head_count(case["heads"])
    writer.add_head_count_kv(case["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(2)
    if case["experts"]:
        writer.add_expert_count(case["experts"])
        writer.add_expert_used_count(2)
    for name, shape in tensors_of(case):
        kind = np.float32 if len(shape) == 1 or "ffn_gate_inp" in name else np.float16
        writer.add_tensor(name, rng.standard_normal(shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def table_of(path: pathlib.Path) -> str:
    """`role=FORMAT*COUNT,...` for each role, roles sorted, layers in order."""
    roles: dict[str, list[tuple[int, str]]] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        parts = tensor.name.split(".")
        layer, role = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        roles.setdefault(role, []).append((layer, tensor.tensor_type.name))
    columns = []
    for role in sorted(roles):
        runs = itertools.groupby(kind for _, kind in sorted(roles[role]))
        columns.append(role + "=" + ",".join(f"{kind}*{len(list(run))}" for kind, run in runs))
    return " ".join(columns)


def main() -> None:
    rng = np.random.default_rng(5)
    lines = [f"# llama-cpp-python {llama_cpp.__version__}"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "in.gguf", pathlib.Path(folder) / "out.gguf"
        for values in CASES:
            case = dict(zip(KEYS, values))
            write_model(case, source, rng)
            lines.append("case " + " ".join(f"{key}={value}" for key, value in case.items()))
            for name, number in FILE_TYPES.items():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype, params.nthread = number, 1
                if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
                    raise SystemExit(f"llama.cpp cannot quantize {case} to {name}")
                lines.append(name + " " + table_of(target))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
