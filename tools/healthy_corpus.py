#!/usr/bin/env python3
"""Diagnoses healthy runs, none of which may be accused. The runs: backends and their variants, on the canary and the models of
tests/model/golden.h in every quantization, and on the models given, with ten prompts each. Prints a line for each model and
variant, and every accusation. Exit code 1 if there was one, or if nothing ran."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[1]
VARIANTS = {
    "reference": [[]],
    "cpu": [[], ["--activations", "int8"], ["--kv-type", "f32"], ["--activations", "int8", "--kv-type", "f32"]],
    "checker": [[]],
    "cuda": [[], ["--shared-kernels"], ["--kv-type", "f32"]],
    "metal": [[]],
}
TEXTS = [
    "1",
    "upper hello",
    "What is the capital of France?",
    "Write three short sentences about a lighthouse keeper.",
    "def f(x):\n    return x + 1\n",
    "Der Hund läuft durch den Wald 🐕",
    "a",
    "12 + 30 = 42, 42 - 30 = 12, 6 * 7 = 42; and so on, and so on, and so on.",
    "one line\n\nanother line\n\n\n",
    "repeat repeat repeat repeat repeat repeat repeat repeat",
]


def tokens(n_vocab, prompt):
    """1 to 40 ids for a model without a tokenizer's text. Every tenth prompt repeats one id."""
    chance = random.Random(prompt)
    n = (1, 2, 3, 5, 8, 13, 21, 30, 34, 40)[prompt % 10]
    ids = [chance.randrange(n_vocab) for _ in range(n)]
    return ",".join(map(str, ids[:1] * n if prompt % 10 == 9 else ids))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plumb", default=SOURCE / "build" / "bin" / "plumb")
    parser.add_argument("--backends", default="reference,cpu,checker", help="comma between them")
    parser.add_argument("--variants", type=int, default=9, help="of each backend, the first so many")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="store_true", help="the models named and no others")
    parser.add_argument("models", nargs="*", help="more models, with a chat template")
    options = parser.parse_args()

    def plumb(*arguments):
        return subprocess.run([str(options.plumb), *map(str, arguments)], capture_output=True, text=True)

    with tempfile.TemporaryDirectory() as folder:
        subjects = [(pathlib.Path(name).stem, name, None) for name in options.models]
        if not options.only:
            types = re.search(r"One of ([A-Z0-9_ ]+)", plumb("quantize", "--help").stdout).group(1).split()
            listed = (SOURCE / "tests" / "model" / "golden.h").read_text().partition("golden_cases{")[2].partition("}")[0]
            goldens = {name: SOURCE / "tests" / "data" / "model" / f"{name}.gguf" for name in sorted(re.findall(r'"([^"]+)"', listed))}
            for name, source in {"canary": "canary", **goldens}.items():
                n_vocab = None
                if name in goldens:
                    tensors = json.loads(plumb("inspect", source, "--json").stdout)["tensors"]
                    n_vocab = next(t["dims"][1] for t in tensors if t["name"] == "token_embd.weight")
                for kind in types:
                    path = pathlib.Path(folder) / f"{name}-{kind}.gguf"
                    done = plumb("quantize", source, path, kind)
                    if done.returncode != 0:
                        sys.exit(done.stderr)
                    subjects.append((f"{name} {kind}", path, n_vocab))

        def diagnose(path, n_vocab, variant, prompt):
            """The exit code, the largest error / allowance, and a message where the exit code is not 0."""
            text = ["--tokens", tokens(n_vocab, prompt)] if n_vocab else ["-p", TEXTS[prompt % len(TEXTS)]]
            done = plumb("diagnose", path, *text, *variant, "--steps", options.steps, "-t", 1, "--json")
            if done.returncode not in (0, 1):
                return done.returncode, 0.0, done.stderr.strip()
            report = json.loads(done.stdout)
            worst = max((op["misfit"] for op in report["ops"] if op["misfit"] is not None), default=0.0)
            return done.returncode, worst, json.dumps(report["faults"])[:600]

        total = accused = failed = 0
        largest = 0.0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            pending = []
            for label, path, n_vocab in subjects:
                for backend in options.backends.split(","):
                    for extra in VARIANTS[backend][: options.variants]:
                        variant = ["--backend", backend, *extra]
                        runs = [pool.submit(diagnose, path, n_vocab, variant, p) for p in range(options.prompts)]
                        pending.append((label, variant, runs))
            for label, variant, runs in pending:
                worst = 0.0
                for prompt, run in enumerate(runs):
                    code, ratio, said = run.result()
                    what = f"{label}, {' '.join(variant)}, prompt {prompt}: {said}"
                    if code not in (0, 1):
                        failed += 1
                        print(f"FAILED  {what}")
                        continue
                    total += 1
                    if code == 1:
                        accused += 1
                        print(f"ACCUSED {what}")
                    worst = max(worst, ratio)
                largest = max(largest, worst)
                print(f"{label:24} {' '.join(variant[1:]):40} {len(runs):3} runs, largest error / allowance {worst:.2f}", flush=True)
    print(f"{total} healthy runs diagnosed: {accused} accused; {failed} did not run; largest error / allowance {largest:.2f}")
    return 1 if accused or failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
