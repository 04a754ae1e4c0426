#!/usr/bin/env python3
"""Speed of plumb and another engine on the same file, measured in turns (A B A B …), as a Markdown table.

A is `plumb bench`; B is llama_decode of llama-cpp-python, or with --against ik_llama.cpp of ik-llama-cpp-python. Each turn
is a process of its own: it loads the file, does everything once to warm up, then measures prefill (one prompt from an empty context, batches of 512) and decode (token by
token from an empty context). Both get the same number of tokens and threads; neither samples. Prints the median and the
extremes of the rounds, and plumb's load time and peak memory.

Needs numpy and the other engine's package, in this Python or in the one that --python names. On a busy machine, or one
with shared cores, only the ratio is meaningful.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
MIB = 1 << 20


def measure_yardstick(arguments):
    """One turn of the other engine, as JSON on stdout."""
    if arguments.against == "llama.cpp":
        from llama_cpp_yardstick import Yardstick, version
    else:
        from ik_llama_cpp_yardstick import Yardstick, version

    context = max(arguments.prefill, arguments.decode) + 1
    yardstick = Yardstick(arguments.model, context, arguments.threads)
    tokens = [(i * 7919 + 13) % yardstick.n_vocab for i in range(max(arguments.prefill, arguments.decode))]
    rates = {}
    for name, n in (("prefill", arguments.prefill), ("decode", arguments.decode)):
        yardstick.seconds(tokens[:n], name == "decode")
        rates[name] = n / yardstick.seconds(tokens[:n], name == "decode")
    result = {**rates, "load_seconds": yardstick.load_seconds, "version": version()}
    print(json.dumps({**result, "kv_bytes": yardstick.kv_bytes(arguments.prefill + arguments.decode)}))


def run_json(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command[:3]))} … failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def plumb_turn(arguments):
    document = run_json([
        arguments.plumb, "bench", arguments.model, "-p", str(arguments.prefill), "-n", str(arguments.decode), "-r", "1",
        "--threads", str(arguments.threads), "--backend", arguments.backend, "--json",
    ])  # fmt: skip
    return {
        "prefill": document["prefill"]["tps_median"],
        "decode": document["decode"]["tps_median"],
        "load_seconds": document["load_seconds"],
        "bytes_per_token": document["bytes_per_token"],
        "description": document["description"],
    }


def yardstick_turn(arguments):
    return run_json([
        arguments.python, __file__, arguments.model, "--yardstick", "--against", arguments.against,
        "--prefill", str(arguments.prefill), "--decode", str(arguments.decode), "--threads", str(arguments.threads),
    ])  # fmt: skip


def peak_memory(arguments):
    """Peak resident bytes and seconds of `plumb run` with a prompt and an answer of the benchmark's lengths."""
    context = arguments.prefill + arguments.decode
    command = [
        arguments.plumb, "run", arguments.model, "--tokens", ",".join(str(i % 250 + 3) for i in range(arguments.prefill)),
        "-n", str(arguments.decode), "--temp", "0", "--threads", str(arguments.threads), "--ctx", str(context),
        "--backend", arguments.backend, "--json",
    ]  # fmt: skip
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"plumb run ended with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--plumb", default="build/bin/plumb", help="the program (%(default)s)")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the other engine's package (this one)")
    parser.add_argument("--against", choices=("llama.cpp", "ik_llama.cpp"), default="llama.cpp")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="every measured number, in place of the table")
    parser.add_argument("--yardstick", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.yardstick:
        return measure_yardstick(arguments)

    against = arguments.against
    ours, theirs = [], []
    for number in range(1, arguments.rounds + 1):
        for name, turn, results in (("plumb", plumb_turn, ours), (against, yardstick_turn, theirs)):
            if sys.stderr.isatty():
                print(f"\r\x1b[Kround {number}/{arguments.rounds}: {name}", end="", file=sys.stderr, flush=True)
            results.append(turn(arguments))
    peak, run_seconds = peak_memory(arguments)
    devices = run_json([arguments.plumb, "devices", "--json"])
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)

    file_bytes = os.path.getsize(arguments.model)
    kv_bytes = theirs[0]["kv_bytes"]
    allowed = file_bytes + kv_bytes + 200e6 if kv_bytes is not None else None
    if arguments.json:
        summary = {"file_bytes": file_bytes, "peak_bytes": peak, "allowed_bytes": allowed, "run_seconds": run_seconds}
        print(json.dumps({"plumb": ours, against: theirs, "devices": devices, **summary}, indent=1))
        return None

    bytes_per_token = ours[0]["bytes_per_token"]
    print(f"{pathlib.Path(arguments.model).name} ({file_bytes / 1e6:.0f} MB), {arguments.threads} threads, {devices['processor']}:")
    print(f"plumb ({ours[0]['description']}) and {against} (its Python package's version: {theirs[0]['version']}), "
          f"{arguments.rounds} rounds in turns.\n")  # fmt: skip
    print(f"| tokens/s | plumb, median | (min to max) | {against}, median | (min to max) | plumb / {against} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    medians = {}
    for name, n in (("prefill", arguments.prefill), ("decode", arguments.decode)):
        cells = []
        for who, results in (("plumb", ours), (against, theirs)):
            rates = [result[name] for result in results]
            medians[who, name] = statistics.median(rates)
            cells += [f"{medians[who, name]:.1f}", f"{min(rates):.1f} to {max(rates):.1f}"]
        ratio = medians["plumb", name] / medians[against, name]
        print(f"| {name} {n} | {' | '.join(cells)} | {ratio:.2f} |")
    rates = [f"{bytes_per_token * medians[who, 'decode'] / 1e9:.1f}" for who in ("plumb", against)]
    print(f"| decode, GB/s of weights | {rates[0]} | | {rates[1]} | | |\n")
    limit = devices.get("read_bandwidth_gbs")
    if limit:
        print(f"A decoded token reads {bytes_per_token / 1e6:.1f} MB of weights; memory gives {limit:.1f} GB/s "
              f"({devices['cores']} cores), so {limit * 1e9 / bytes_per_token:.0f} tokens/s is the limit "
              "where the weights do not fit the caches.\n")  # fmt: skip
    load = [result["load_seconds"] for result in ours]
    print(f"Warm load: {statistics.median(load):.3f} s ({min(load):.3f} to {max(load):.3f}). Peak memory of `plumb run` with "
          f"{arguments.prefill} + {arguments.decode} tokens: {peak / MIB:.0f} MiB"
          + (f"; file + KV cache + 200 MB is {allowed / MIB:.0f} MiB." if allowed is not None else "."))  # fmt: skip
    return None


if __name__ == "__main__":
    sys.exit(main())
