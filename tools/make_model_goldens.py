#!/usr/bin/env python3
"""Makes tests/data/model: tiny random models as GGUF, and what Hugging Face transformers computes with them.

For each case NAME.gguf has float32 weights. NAME.safetensors has the token ids ("tokens"), the logits and the inner
values, under the names of docs/architecture.md. transformers runs in float64 from the same float32 weights, with eager
attention and eager experts. The cases are in tools/model_goldens, one file an architecture. Needs gguf, numpy, torch
and transformers (5.24).

    python tools/make_model_goldens.py [--out tests/data/model] [--only NAME ...] [--hf FOLDER]

A case names the features that its tokens must show (a window, a cap); each is switched off once, and the logits must
change.
--hf also saves the models themselves, in float32, as FOLDER/NAME, for tools/trace_transformers.py to run.
"""

import argparse
import copy
import json
import pathlib
import struct

import gguf
import numpy as np
import torch
import transformers
from model_goldens import Family, all_cases
from model_goldens.base import N_STEPS
from model_goldens.watch import Watch

# A golden's two files together take no more bytes than this.
MAX_BYTES = 300_000
# A feature that is switched off changes the logits by more than this, relative to the largest.
MIN_CHANGE = 1e-3


def build(case: Family, **changes) -> torch.nn.Module:
    family = getattr(transformers, case.model)
    config = family.config_class(**{**copy.deepcopy(case.config), **changes})
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return family(config).to(torch.float64).eval()


def weights_of(case: Family, model: torch.nn.Module):
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name.endswith(case.buffers))


def randomize(case: Family, model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random float32 values, stored in the model's precision."""
    for name, parameter in weights_of(case, model):
        values = case.random(name, tuple(parameter.shape), rng)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.astype(np.float32).astype(np.float64)))


def write_gguf(path: pathlib.Path, case: Family, name: str, model: torch.nn.Module) -> None:
    writer = gguf.GGUFWriter(path, case.arch)
    config = model.config.get_text_config()
    writer.add_name(name)
    case.keys(writer, config)
    case.model_keys(writer, model)
    case.vocabulary(writer, config)
    written = dict(case.first_tensors(config))
    for key, parameter in weights_of(case, model):
        written.update(case.tensors(key, parameter.detach().numpy().astype(np.float32), config))
    written.update(list(case.last_tensors(written, config)))
    for tensor, values in written.items():
        writer.add_tensor(tensor, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record(case: Family, model: torch.nn.Module, tokens: list[int]) -> dict[str, np.ndarray]:
    """Runs the model once and returns its values as [T, features] float32."""
    values: dict[str, np.ndarray] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        assert name not in values, f"{name} is shown twice"
        values[name] = np.ascontiguousarray(tensor.numpy(), dtype=np.float32)

    watch = Watch(case, model, keep, keep_probs=keep)
    watch.n_tokens = len(tokens)
    with torch.no_grad(), watch.watching():
        output = model(torch.tensor([tokens]))
    if case.decoder:
        watch.show("logits", output.logits)
    values["tokens"] = np.array(tokens, dtype=np.int32)
    case.more_values(values, model)
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


def check_breaks(case: Family, model: torch.nn.Module, tokens: list[int], logits: np.ndarray) -> dict[str, float]:
    """How much the logits (or an encoder's last values) change without each feature, relative to the largest."""
    found = {}
    for feature, change in case.breaks.items():
        if callable(change):
            broken = copy.deepcopy(model)
            with torch.no_grad():
                change(broken)
        else:
            broken = build(case, **change)
            broken.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            other = broken(torch.tensor([tokens]))[0][0].numpy()  # the logits, or an encoder's last norm
        found[feature] = float(np.abs(other - logits).max() / np.abs(logits).max())
        assert found[feature] > MIN_CHANGE, f"without {feature} the logits change by {found[feature]:.1e} only"
    return found


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


def make(name: str, case: Family, out: pathlib.Path, hf: pathlib.Path | None) -> None:
    rng = np.random.default_rng(case.seed)
    model = build(case)
    randomize(case, model, rng)
    config = model.config.get_text_config()
    tokens = [1, *(int(t) for t in rng.integers(3, config.vocab_size, case.n_tokens - 1))]
    write_gguf(out / f"{name}.gguf", case, name, model)
    values = record(case, model, tokens)
    if case.decoder:
        stepped = step_by_step(model, tokens)
        np.testing.assert_allclose(values["logits"], stepped, rtol=1e-5, atol=2e-6 * float(np.abs(stepped).max()))
        changes = check_breaks(case, model, tokens, stepped)
    else:
        with torch.no_grad():
            changes = check_breaks(case, model, tokens, model(torch.tensor([tokens]))[0][0].numpy())
    largest = max(float(p.max()) for n, p in values.items() if n.endswith("attn_probs"))
    if hf:
        model.to(torch.float32).save_pretrained(hf / name)
    write_safetensors(out / f"{name}.safetensors", values)
    sizes = [(out / f"{name}.{kind}").stat().st_size for kind in ("gguf", "safetensors")]
    assert sum(sizes) <= MAX_BYTES, f"{name} takes {sum(sizes)} bytes"
    shown = "".join(f", without {feature} {change:.2g}" for feature, change in changes.items())
    size = f"{sizes[0] // 1024} + {sizes[1] // 1024} KiB"
    print(f"{name}: {len(values)} values, {size}, largest attention weight {largest:.2f}{shown}")


def main() -> None:
    cases = all_cases()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "tests/data/model")
    parser.add_argument("--only", nargs="*", choices=cases, metavar="NAME", help="these cases alone")
    parser.add_argument("--hf", type=pathlib.Path, metavar="FOLDER", help="save the Hugging Face models here too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, case in cases.items():
        if not arguments.only or name in arguments.only:
            make(name, case, arguments.out, arguments.hf)


if __name__ == "__main__":
    main()
