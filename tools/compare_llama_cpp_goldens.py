#!/usr/bin/env python3
"""Compares plumb and llama.cpp on the tiny models of tests/data/model, one row for each model that plumb runs.

Both run the tokens of the golden (tools/make_model_goldens.py) and then ten greedy steps along plumb's tokens. The F32
weights are multiplied by F32 activations in both, and caches are F32. A model passes where llama.cpp's most likely token is
plumb's at every step and no KL(llama.cpp || plumb) exceeds 1e-3. Where they differ, the golden decides: transformers
computed its logits. DIFFERENCES names the models in which llama.cpp computes something else, and why. They must differ, and
where llama.cpp can be told to compute the same, it must then come to the golden's logits. All others must pass.

Writes the rows as tab-separated values, from which scripts/models makes the table of docs/models.md.
Needs numpy and llama-cpp-python. Exit code 1 when a model does not do as expected.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy
from compare_llama_cpp import divergence, log_softmax, plumb_json
from llama_cpp_yardstick import Yardstick, version

MODELS = pathlib.Path(__file__).resolve().parent.parent / "tests/data/model"
N_STEPS = 10
MAX_KL = 1e-3



class Difference:
    """betas: with YaRN's two limits of the file given by hand, llama.cpp computes the same. prefix: it computes the same for so
    many tokens. rest: the largest divergence that then stays."""

    def __init__(self, why, betas=None, prefix=None, rest=MAX_KL):
        self.why, self.betas, self.prefix, self.rest = why, betas, prefix, rest

    def settled(self, model, tokens, logits):
        """The divergence of llama.cpp from transformers once the difference is taken away; None: it cannot be."""
        if self.betas is None and self.prefix is None:
            return None
        n = self.prefix or len(tokens)

        def change(parameters):
            if self.betas:
                parameters.yarn_beta_fast, parameters.yarn_beta_slow = self.betas

        yardstick = Yardstick(model, 256, 1, f32_cache=True, change=change)
        kl = divergence(log_softmax(logits[n - 1]), log_softmax(yardstick.logits(tokens[:n])))
        yardstick.close()
        return kl


BETAS = "llama.cpp reads rope.scaling.yarn_beta_fast and yarn_beta_slow only in two other architectures, and takes 32 and 1"
DIFFERENCES = {
    "llama-yarn": Difference(BETAS, betas=(2.0, 0.25)),
    "arcee": Difference(BETAS, betas=(2.0, 0.25)),
    "olmo3": Difference(BETAS, betas=(2.0, 0.25)),
    "gpt-oss": Difference(BETAS + ". It also rounds the limits to whole pairs, which the model's own code does not", betas=(2.0, 0.25), rest=5e-3),
    "mistral": Difference("llama.cpp leaves out the window of files of this architecture", prefix=6),
    "exaone4": Difference("llama.cpp has the window, and layers without rotary, only where there are 64 layers; this model has 2"),
}
# Why llama.cpp does not run a model, from its messages and its source.
REFUSED = {
    "command-r-plus": "it has the norms of q and k only where there are 64 layers or more; this model has 2",
    "dots1": "it needs expert_gating_func, which this file leaves out; Plumb then takes the sigmoid of the model's code",
    "olmoe": "it needs as many heads of keys as of queries in this architecture; this model has fewer",
    **dict.fromkeys(
        ("phi3", "phi3-longrope", "phi3-longrope-short"),
        "its tokenizer of this architecture needs tokens that the tiny vocabulary lacks",
    ),
}


def has_logits(model):
    """Whether the golden has logits: embedders have none."""
    return b'"logits"' in model.with_suffix(".safetensors").read_bytes()


def read_golden(path):
    """The tokens and the logits of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])

    def array(name, dtype):
        begin, end = header[name]["data_offsets"]
        return numpy.frombuffer(data[8 + n + begin : 8 + n + end], dtype).reshape(header[name]["shape"])

    return array("tokens", numpy.int32).ravel().tolist(), array("logits", numpy.float32).astype(numpy.float64)


def compare(arguments, model):
    """Same tokens at every step, the largest divergence from plumb, and the divergence once a known difference is taken away."""
    tokens, logits = read_golden(model.with_suffix(".safetensors"))
    yardstick = Yardstick(model, 256, 1, f32_cache=True)
    try:
        document = plumb_json(
            arguments.plumb, "run", model, "--tokens", ",".join(map(str, tokens)), "-n", str(N_STEPS), "--temp", "0",
            "--logprobs", str(yardstick.n_vocab), "--kv-type", "f32", "--backend", arguments.backend, "--json",
        )  # fmt: skip
        same, from_plumb = True, 0.0
        yardstick.decode(tokens)
        for step in document["tokens"]:
            theirs = log_softmax(yardstick.last_logits())
            ours = numpy.full(yardstick.n_vocab, -numpy.inf)
            for entry in step["top"]:
                ours[entry["id"]] = entry["logprob"]
            same &= int(theirs.argmax()) == step["id"]
            from_plumb = max(from_plumb, divergence(theirs, ours))
            yardstick.decode([step["id"]])
    finally:
        yardstick.close()
    known = DIFFERENCES.get(model.stem)
    return same, from_plumb, known and known.settled(model, tokens, logits)


def loads(model):
    """Whether llama.cpp loads and runs the model; it may end the process where it does not."""
    program = f"from llama_cpp_yardstick import Yardstick; Yardstick({str(model)!r}, 256, 1, f32_cache=True).logits([3, 4])"
    here = pathlib.Path(__file__).resolve().parent
    return subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of goldens (default: all)")
    parser.add_argument("--plumb", default="build/bin/plumb", help="the program (%(default)s)")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--write", type=pathlib.Path, help="the file of tab-separated values")
    arguments = parser.parse_args()
    names = arguments.models or sorted(path.stem for path in MODELS.glob("*.gguf") if has_logits(path))
    rows, good = [], True
    for name in names:
        model = MODELS / f"{name}.gguf"
        if subprocess.run([arguments.plumb, "inspect", "--check", model], capture_output=True).returncode != 0:
            continue
        if not loads(model):
            good &= name in REFUSED
            rows.append((name, "not run", "", REFUSED.get(name, "unexplained")))
            continue
        same, kl, settled = compare(arguments, model)
        passes = same and kl <= MAX_KL
        known = DIFFERENCES.get(name)
        remark = known.why if known else "" if passes else "unexplained"
        if settled is not None:
            how = f"for {known.prefix} tokens" if known.prefix else "with the file's limits given by hand"
            remark += f"; {how} its KL from transformers is {settled:.1e}"
            good &= settled <= known.rest
        good &= passes != bool(known)
        rows.append((name, "yes" if same else "no", f"{kl:.1e}", remark))
    lines = [f"golden\tsame greedy tokens\tKL\tremark (llama-cpp-python {version()}, backend {arguments.backend})"]
    lines += ["\t".join(row) for row in rows]
    text = "\n".join(lines) + "\n"
    if arguments.write:
        arguments.write.write_text(text)
    else:
        print(text, end="")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
