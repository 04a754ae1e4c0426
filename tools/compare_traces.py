#!/usr/bin/env python3
"""Compares two Plumb traces value by value and prints a Markdown table.

    python tools/compare_traces.py A.safetensors B.safetensors

The measure is the relative RMS difference, |A - B| / |B|, over all rows that both have (a trace may have the logits of the
last row only). Steps are compared as long as both runs took the same tokens. The table shows how far two runs are apart,
not why.
Needs numpy.
"""

import argparse
import re
import sys

import numpy
import plumb_trace
from plumb_trace import Trace, TraceError


def difference(ours: numpy.ndarray, theirs: numpy.ndarray) -> float:
    """The relative difference of the last rows, as many as both have."""
    if ours.shape[1] != theirs.shape[1]:
        return float("nan")
    rows = min(len(ours), len(theirs))
    a, b = (array[len(array) - rows :].astype(numpy.float64) for array in (ours, theirs))
    return float(numpy.linalg.norm(a - b) / max(numpy.linalg.norm(b), 1e-300))


def comparable_steps(a: Trace, b: Trace) -> int:
    if a.n_prompt_tokens != b.n_prompt_tokens or a.tokens[: a.n_prompt_tokens] != b.tokens[: b.n_prompt_tokens]:
        raise TraceError("the two have different prompts; compare runs of the same tokens")
    steps = 1
    for ours, theirs in zip(a.tokens[a.n_prompt_tokens :], b.tokens[b.n_prompt_tokens :], strict=False):
        if ours != theirs:
            break
        steps += 1
    return min(steps, a.n_steps, b.n_steps)


def compare(arguments: argparse.Namespace) -> None:
    a, b = Trace(arguments.a), Trace(arguments.b)
    n_steps = comparable_steps(a, b)
    shared = [key for key in b.values if key in a.values and key[0] < n_steps]
    found = {key: difference(a.values[key], b.values[key]) for key in shared}
    print(f"A: {a.metadata['engine']}, {a.metadata['model']}, {len(a.values)} values of {a.n_steps} passes")
    print(f"B: {b.metadata['engine']}, {b.metadata['model']}, {len(b.values)} values of {b.n_steps} passes")
    print(f"{len(found)} values in both, of the prompt ({a.n_prompt_tokens} tokens) and {n_steps - 1} steps of the same tokens\n")
    if arguments.each:
        print("| value | \\|A - B\\| / \\|B\\| |\n| --- | ---: |")
        for (step, name), distance in found.items():
            print(f"| {step}/{name} | {distance:.1e} |")
        return
    kinds: dict[str, dict[bool, dict[str, float]]] = {}
    for (step, name), distance in found.items():
        kind = re.sub(r"^blk\.\d+\.", "", name)
        kinds.setdefault(kind, {False: {}, True: {}})[step > 0][f"{step}/{name}"] = distance
    print("| value | blocks | prompt, median | largest | at | steps, median | largest | at |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |")
    for kind, by_phase in kinds.items():
        cells = [kind, str(len(by_phase[False]))]
        for distances in by_phase.values():
            if distances:
                worst = max(distances, key=distances.get)
                cells += [f"{numpy.median(list(distances.values())):.1e}", f"{distances[worst]:.1e}", worst]
            else:
                cells += ["", "", ""]
        print(f"| {' | '.join(cells)} |")
    for label, one, other in (("A", a, b), ("B", b, a)):
        alone = sorted({re.sub(r"^blk\.\d+\.", "", key[1]) for key in one.values if key[0] < n_steps and key not in other.values})
        if alone:
            print(f"\nOnly in {label}: {', '.join(alone)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--each", action="store_true", help="a row for each value")
    return plumb_trace.run_program(lambda: compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
