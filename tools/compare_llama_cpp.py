#!/usr/bin/env python3
"""Compares the next-token distributions of plumb and llama.cpp on one model and prints a Markdown table.

Both get the ids that llama.cpp's tokenizer makes of each prompt; plumb's tokenizer must make the same ids. The measure
is the Kullback-Leibler divergence KL(llama.cpp || plumb) in nats over the whole vocabulary, computed in float64.

llama.cpp rounds activations to 8 bits before it multiplies quantized weights; its results have that error. With
--yardstick-model, llama.cpp runs the same weights in F32 (`plumb quantize MODEL F32.gguf F32`) and rounds nothing: the
distance is then that between the engines, without the rounding. --activations int8 makes plumb's cpu backend round to 8
bits too. --floor shows the effect of rounding: each engine against plumb's `reference` backend, which rounds nothing, and
llama.cpp against itself with its KV cache in F32 instead of F16.

Needs numpy and llama-cpp-python. Exit code 1 when a limit is missed.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

import numpy
from llama_cpp_yardstick import Yardstick, version

HERE = pathlib.Path(__file__).resolve().parent


def plumb_json(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} … failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - numpy.log(numpy.exp(shifted).sum())


def divergence(p, q):
    """KL(p || q) of two arrays of log probabilities."""
    possible = p > -numpy.inf
    return float(numpy.sum(numpy.exp(p[possible]) * (p[possible] - q[possible])))


def plumb_log_probabilities(arguments, tokens, n_vocab, backend):
    """Log-probabilities of the token after `tokens`."""
    ids = ",".join(map(str, tokens))
    document = plumb_json(
        arguments.plumb, "run", arguments.model, "--tokens", ids, "-n", "1", "--temp", "0", "--logprobs", str(n_vocab),
        "--threads", str(arguments.threads), "--ctx", str(arguments.ctx), "--backend", backend,
        "--activations", arguments.activations, "--json",
    )  # fmt: skip
    values = numpy.full(n_vocab, -numpy.inf)
    for entry in document["tokens"][0]["top"]:
        values[entry["id"]] = entry["logprob"]
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--plumb", default="build/bin/plumb", help="the program (%(default)s)")
    parser.add_argument("--prompts", default=HERE / "compare_prompts.txt", help="one a line, \\n for a line break")
    parser.add_argument("--yardstick-model", help="the file that llama.cpp runs (default: the same)")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--activations", default="int16", help="what plumb's cpu backend rounds to (%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--min-top1", type=float, default=0.98, help="least top-1 agreement (%(default)s)")
    parser.add_argument("--max-kl", type=float, default=2e-3, help="largest mean divergence (%(default)s)")
    parser.add_argument("--floor", action="store_true", help="also show what rounding alone does (slow)")
    parser.add_argument("--each", action="store_true", help="a row for each prompt too")
    arguments = parser.parse_args()

    lines = pathlib.Path(arguments.prompts).read_text(encoding="utf-8").splitlines()
    prompts = [line.replace("\\n", "\n") for line in lines if line]
    yardstick_model = arguments.yardstick_model or arguments.model
    yardstick = Yardstick(yardstick_model, arguments.ctx, arguments.threads)
    f32_yardstick = Yardstick(yardstick_model, arguments.ctx, arguments.threads, f32_cache=True) if arguments.floor else None
    rows = []
    for number, prompt in enumerate(prompts, 1):
        if sys.stderr.isatty():
            print(f"\r{number}/{len(prompts)}", end="", file=sys.stderr, flush=True)
        tokens = yardstick.tokenize(prompt)
        own = plumb_json(arguments.plumb, "tokenize", arguments.model, "-p", prompt, "--json")["tokens"]
        theirs = log_softmax(yardstick.logits(tokens))
        ours = plumb_log_probabilities(arguments, tokens, yardstick.n_vocab, arguments.backend)
        likely = theirs > numpy.log(1e-4)
        rows.append({
            "prompt": prompt,
            "n_tokens": len(tokens),
            "same_tokens": own == tokens,
            "top1": int(theirs.argmax()) == int(ours.argmax()),
            "margin": float(numpy.subtract(*numpy.sort(theirs)[[-1, -2]])),
            "kl": divergence(theirs, ours),
            "worst": float(numpy.abs(theirs - ours)[likely].max()),
        })  # fmt: skip
        if arguments.floor:
            truth = plumb_log_probabilities(arguments, tokens, yardstick.n_vocab, "reference")
            itself = log_softmax(f32_yardstick.logits(tokens))
            floors = {"plumb, from reference": (truth, ours), "llama.cpp, from reference": (truth, theirs),
                      "llama.cpp with F16 KV cache, from itself with F32": (itself, theirs)}  # fmt: skip
            rows[-1]["floors"] = {
                name: (divergence(p, q), int(p.argmax()) == int(q.argmax())) for name, (p, q) in floors.items()
            }
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    yardstick.close()
    if f32_yardstick:
        f32_yardstick.close()

    kl = numpy.array([row["kl"] for row in rows])
    top1 = numpy.mean([row["top1"] for row in rows])
    same_tokens = sum(row["same_tokens"] for row in rows)
    plumb_version = subprocess.run([arguments.plumb, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{pathlib.Path(arguments.model).name}: plumb {plumb_version}, backend {arguments.backend}, activations {arguments.activations},")
    print(f"against llama.cpp (llama-cpp-python {version()}) on {pathlib.Path(yardstick_model).name};")
    print(f"{arguments.threads} threads, {platform.machine()}, {len(rows)} prompts, ", end="")
    print(f"{sum(row['n_tokens'] for row in rows)} tokens.\n")
    print("| measure | value | mark |\n| --- | ---: | ---: |")
    print(f"| prompts with the same token ids | {same_tokens} of {len(rows)} | all |")
    print(f"| first-token top-1 agreement | {top1:.1%} | at least {arguments.min_top1:.0%} |")
    print(f"| KL divergence, mean | {kl.mean():.2e} | at most {arguments.max_kl:.0e} |")
    print(f"| KL divergence, 95th percentile | {numpy.percentile(kl, 95):.2e} | |")
    print(f"| KL divergence, largest | {kl.max():.2e} | |")
    print(f"| largest log-probability difference among tokens above 1e-4 | {max(row['worst'] for row in rows):.3f} | |")
    if arguments.floor:
        print("\n| what rounding does | KL, mean | KL, 95th percentile | top-1 agreement |\n| --- | ---: | ---: | ---: |")
        for name in rows[0]["floors"]:
            distances, agreed = zip(*(row["floors"][name] for row in rows))
            print(f"| {name} | {numpy.mean(distances):.2e} | {numpy.percentile(distances, 95):.2e} | {numpy.mean(agreed):.1%} |")
    shown = rows if arguments.each else [row for row in rows if not (row["same_tokens"] and row["top1"])]
    if shown:
        print("\n| prompt | tokens | same ids | same top-1 | KL | llama.cpp's margin (nats) |")
        print("| --- | ---: | --- | --- | ---: | ---: |")
        for row in shown:
            text = json.dumps(row["prompt"], ensure_ascii=False).replace("|", "\\|")
            marks = ["yes" if row[key] else "**no**" for key in ("same_tokens", "top1")]
            print(f"| {text} | {row['n_tokens']} | {marks[0]} | {marks[1]} | {row['kl']:.2e} | {row['margin']:.3f} |")
    good = same_tokens == len(rows) and top1 >= arguments.min_top1 and kl.mean() <= arguments.max_kl
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
