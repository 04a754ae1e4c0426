#!/usr/bin/env python3
"""Writes a Plumb trace of a run of Hugging Face transformers, with the names and the row order of the GGUF file.

    python tools/trace_transformers.py HF_FOLDER --gguf MODEL.gguf -p "Once upon a time" -o T.safetensors --dtype float16

MODEL.gguf is the file that the trace will be compared with: its name and SHA-256 go into the trace. With --from-gguf
transformers runs the file itself (F32, F16 and the quantizations it can read), and no folder is needed. Values are written
in the type in which they were computed. Families: the decoders that tools/model_goldens has.

Needs torch, transformers (known to work: 5.24.0) and gguf; --from-gguf needs accelerate too. Exit code 2: nothing was
written, and stderr says why.
"""

import argparse
import os
import pathlib
import sys

import plumb_trace
from plumb_trace import TraceError


class Recorder:
    """Hooks on a model that write its values as long as `watching` is true."""

    def __init__(self, torch, model, writer: plumb_trace.Writer, patterns: list[str] | None):
        from model_goldens.watch import Watch

        self.writer, self.patterns, self.torch = writer, patterns, torch
        self.step = 0
        self.watch = Watch(family_of(model), model, self.keep)
        self._kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

    def watching(self):
        return self.watch.watching()

    def keep(self, name: str, values) -> None:
        if not plumb_trace.is_wanted(self.patterns, name):
            return
        kind = self._kinds.get(values.dtype)
        if kind is None:
            values, kind = values.to(self.torch.float32), "F32"  # such as the numbers of experts
        self.writer.add(self.step, name, values.shape, values.view(self.torch.uint8).numpy(), kind)


def family_of(model):
    """How a golden of this class of model names its values."""
    try:
        import model_goldens
    except ImportError as error:
        raise TraceError(f"{error}; install it with pip install gguf") from error
    name = type(model).__name__
    family = model_goldens.family_of(name)
    if family is None or not family.decoder:
        known = ", ".join(sorted({case.model for case in model_goldens.all_cases().values() if case.decoder}))
        raise TraceError(f"the model is of the class {name}; this adapter names the values of {known}")
    return family


def prompt_of(arguments: argparse.Namespace, source: str, more: dict) -> tuple[str, list[int]]:
    if arguments.tokens is not None:
        return "", arguments.tokens
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **more)
    if arguments.raw or not tokenizer.chat_template:
        if not arguments.raw:
            print("no chat template beside the model; the text goes to the model as it is", file=sys.stderr)
        return arguments.prompt, tokenizer(arguments.prompt).input_ids
    messages = [{"role": "user", "content": arguments.prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text, tokenizer(text, add_special_tokens=False).input_ids


def attribute(config, name: str):
    """None where the model has none, or one that differs from layer to layer (transformers raises an error then)."""
    try:
        return getattr(config, name, None)
    except (ValueError, RuntimeError):
        return None


def parameters(config) -> dict[str, float | str | bool]:
    """The hyper-parameters that the engine runs with, by the names of docs/trace.md."""
    rope = attribute(config, "rope_parameters") or {}
    found = {
        "n_layers": config.num_hidden_layers, "d_model": config.hidden_size, "d_ff": attribute(config, "intermediate_size"),
        "n_heads": config.num_attention_heads, "n_kv_heads": attribute(config, "num_key_value_heads"),
        "head_dim": attribute(config, "head_dim"), "vocab_size": config.vocab_size, "rms_eps": attribute(config, "rms_norm_eps"),
        "rope_theta": rope.get("rope_theta", attribute(config, "rope_theta")),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def load(arguments: argparse.Namespace, torch, transformers) -> tuple[object, str, list[int]]:
    """The model, the prompt's text and its tokens."""
    gguf = pathlib.Path(arguments.gguf) if arguments.gguf else None
    source = str(gguf.parent) if arguments.from_gguf else arguments.model
    more = {"gguf_file": gguf.name} if arguments.from_gguf else {}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, arguments.dtype), attn_implementation=arguments.attention, **more
        )
        text, tokens = prompt_of(arguments, source, more)
    except (OSError, ValueError, ImportError) as error:
        raise TraceError(f"transformers cannot load {gguf if arguments.from_gguf else source}: {error}") from error
    family_of(model)
    plumb_trace.check_tokens(tokens, model.config.get_text_config().vocab_size)
    return model.to(arguments.device).eval(), text, list(tokens)


def run(arguments: argparse.Namespace) -> None:
    if bool(arguments.model) == arguments.from_gguf or (arguments.from_gguf and not arguments.gguf):
        raise TraceError("give a model's folder or name, or --gguf FILE --from-gguf")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the progress bars of transformers
    try:
        import torch
        import transformers
    except ImportError as error:
        raise TraceError(f"{error}; install it with pip install torch transformers") from error
    sha256 = plumb_trace.sha256_of(arguments.gguf) if arguments.gguf else ""
    model, text, tokens = load(arguments, torch, transformers)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    info = plumb_trace.Info(
        engine=f"transformers {transformers.__version__} ({arguments.dtype})",
        model=pathlib.Path(arguments.gguf or arguments.model).name, model_sha256=sha256, prompt=text, tokens=list(tokens), parameters=parameters(model.config.get_text_config()),
    )  # fmt: skip
    cache, given = None, tokens
    config = model.config.get_text_config()
    # What modules show, and at most ten more in a layer, which functions and experts show; and the logits.
    max_values = len(family_of(model).taps(config)) + 10 * config.num_hidden_layers + 1
    with plumb_trace.Writer(arguments.output, info, max_values * (1 + arguments.steps)) as writer:
        recorder = Recorder(torch, model, writer, arguments.values)
        with torch.no_grad(), recorder.watching():
            for recorder.step in range(arguments.steps + 1):
                ids = torch.tensor([given], device=arguments.device)
                recorder.watch.n_tokens = len(given)
                output = model(input_ids=ids, past_key_values=cache, use_cache=True)
                recorder.watch.show("logits", output.logits)
                cache = output.past_key_values
                token = int(output.logits[0, -1].argmax())
                if recorder.step == arguments.steps or token in ends:
                    break
                info.tokens.append(token)
                given = [token]
        if writer.n_values == 0:
            raise TraceError("no value of the run matches --values; docs/trace.md has the names, such as blk.0.attn_q")
    print(plumb_trace.summary(writer, len(tokens)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a Hugging Face model's folder or name")
    parser.add_argument("--gguf", help="the .gguf file of the same model")
    parser.add_argument("--from-gguf", action="store_true", help="run the weights of the .gguf file")
    plumb_trace.add_run_arguments(parser)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="(%(default)s)")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="which of transformers' (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch's name of it (%(default)s)")
    return plumb_trace.run_program(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
