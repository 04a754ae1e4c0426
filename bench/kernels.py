#!/usr/bin/env python3
"""Two builds of kernels_bench in turns: the best time of each benchmark, and how many times as fast the second is.

bench/kernels.py OLD/kernels_bench NEW/kernels_bench --filter avx512/
"""
import argparse
import json
import subprocess

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("old")
parser.add_argument("new")
parser.add_argument("--filter", default=".")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--seconds", type=float, default=0.05, help="least time of a benchmark in a round")
options = parser.parse_args()

best: dict[str, dict[str, float]] = {}
for _ in range(options.rounds):
    for program in (options.old, options.new):
        command = [program, f"--benchmark_filter={options.filter}", f"--benchmark_min_time={options.seconds}",
                   "--benchmark_format=json"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for run in json.loads(output[output.index("{"):])["benchmarks"]:
            times = best.setdefault(run["name"], {})
            times[program] = min(times.get(program, run["cpu_time"]), run["cpu_time"])
for name, times in best.items():
    if len(times) == 2:
        old, new = times[options.old], times[options.new]
        print(f"{name:36} {old / 1e3:12.1f} us {new / 1e3:12.1f} us   {old / new:5.2f} times as fast")
