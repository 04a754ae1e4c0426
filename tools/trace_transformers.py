#!/usr/bin/env python3
"""Writes a Plumb trace of a run of Hugging Face transformers, with the names and the row order of the GGUF file.

    python tools/trace_transformers.py HF_FOLDER --gguf MODEL.gguf -p "Once upon a time" -o T.safetensors --dtype float16

MODEL.gguf is the file that the trace will be compared with: its name and SHA-256 go into the trace. With --from-gguf
transformers runs the file itself (F32, F16 and the quantizations it can read), and no folder is needed. Values are written
in the type in which they were computed. Families: llama, mistral, qwen2, qwen3, gpt2.

Needs torch and transformers (known to work: 5.23.0); --from-gguf needs gguf and accelerate too. Exit code 2: nothing was
written, and stderr says why.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import sys

import plumb_trace
from plumb_trace import TraceError
from transformers_names import ARCHITECTURES, ROTATED, Tap, adjacent_pairs, heads_to_reorder, taps


class Recorder:
    """Hooks on a model that write its values as long as `watching` is true."""

    def __init__(self, torch, model, writer: plumb_trace.Writer, patterns: list[str] | None):
        config = model.config
        self.torch, self.model, self.writer, self.patterns = torch, model, writer, patterns
        self.architecture = ARCHITECTURES[config.model_type]
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv_heads = getattr(config, "num_key_value_heads", self.n_heads)
        self.step = 0
        self._layer = 0
        self._kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

    @contextlib.contextmanager
    def watching(self):
        handles = [self._tap(tap) for tap in taps(self.architecture, self.n_layers)]
        attentions = [module for name, module in self.model.named_modules() if name.endswith(".self_attn")]
        for n, attention in enumerate(attentions):
            handles.append(attention.register_forward_pre_hook(lambda *_, n=n: setattr(self, "_layer", n)))
        # A function of the model's source file returns rotated Q and K; hooks see only modules, not functions.
        source = importlib.import_module(type(self.model).__module__)
        rotate = getattr(source, "apply_rotary_pos_emb", None)

        def watched(*arguments, **more):
            rotated = rotate(*arguments, **more)
            for name, value in zip(ROTATED, rotated, strict=True):
                self.keep(f"blk.{self._layer}.{name}", value.transpose(1, 2))
            return rotated

        if rotate:
            source.apply_rotary_pos_emb = watched
        try:
            yield
        finally:
            if rotate:
                source.apply_rotary_pos_emb = rotate
            for handle in filter(None, handles):
                handle.remove()

    def _tap(self, tap: Tap):
        try:
            found = self.model.get_submodule(tap.module)
        except AttributeError:  # such as q_norm, which some families lack
            return None
        if tap.side == "input":
            return found.register_forward_pre_hook(lambda _, inputs: self.keep(tap.value, inputs[0]))
        return found.register_forward_hook(lambda _, inputs, output: self.keep(tap.value, output, tap.part))

    def keep(self, name: str, tensor, part: int | None = None) -> None:
        """tensor: [1, T, features] or [1, T, heads, head_dim]"""
        if not plumb_trace.is_wanted(self.patterns, name):
            return
        values = tensor.detach().reshape(tensor.shape[1], -1)
        if part is not None:
            values = values.chunk(3, dim=1)[part]
        heads = heads_to_reorder(self.architecture, name, self.n_heads, self.n_kv_heads)
        if heads:
            values = values[:, adjacent_pairs(heads, values.shape[1] // heads)]
        kind = self._kinds.get(values.dtype)
        if kind is None:
            raise TraceError(f"{name} is of type {values.dtype}; a trace has float32, float16 or bfloat16")
        data = values.contiguous().view(self.torch.uint8).cpu().numpy()
        self.writer.add(self.step, name, values.shape, data, kind)


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


def parameters(config) -> dict[str, float | str | bool]:
    """The hyper-parameters that the engine runs with, by the names of docs/trace.md."""
    rope = getattr(config, "rope_parameters", None) or {}
    found = {
        "n_layers": config.num_hidden_layers, "d_model": config.hidden_size, "d_ff": getattr(config, "intermediate_size", None),
        "n_heads": config.num_attention_heads, "n_kv_heads": getattr(config, "num_key_value_heads", None),
        "head_dim": getattr(config, "head_dim", None), "vocab_size": config.vocab_size, "rms_eps": getattr(config, "rms_norm_eps", None),
        "rope_theta": rope.get("rope_theta", getattr(config, "rope_theta", None)),
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
    if model.config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise TraceError(f"the model is of type '{model.config.model_type}'; this adapter names the values of {known}")
    plumb_trace.check_tokens(tokens, model.config.vocab_size)
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
        model=pathlib.Path(arguments.gguf or arguments.model).name, model_sha256=sha256, prompt=text, tokens=list(tokens), parameters=parameters(model.config),
    )  # fmt: skip
    max_values = len(taps(ARCHITECTURES[model.config.model_type], model.config.num_hidden_layers)) + len(ROTATED) * model.config.num_hidden_layers
    cache, given = None, tokens
    with plumb_trace.Writer(arguments.output, info, max_values * (1 + arguments.steps)) as writer:
        recorder = Recorder(torch, model, writer, arguments.values)
        with torch.no_grad(), recorder.watching():
            for recorder.step in range(arguments.steps + 1):
                ids = torch.tensor([given], device=arguments.device)
                output = model(input_ids=ids, past_key_values=cache, use_cache=True)
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
