#!/usr/bin/env python3
"""Damages copies of a GGUF file and checks how plumb handles them.

    tools/mutate_gguf.py build/bin/plumb models/canary-f16.gguf --count 10000

Every copy goes through `plumb inspect --check` and `plumb run -n 1 -p 1`. Allowed are exit code 0, and exit code 2 with a
message on stderr; inspect may also exit with 1 (the file has problems). A crash, any other exit code, a missing message or
a run over the time limit is a failure, and its file is kept. Mutant i depends only on --seed and i: `--only i` makes it
again.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading

SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
EXTREMES = [0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]
MAX_ELEMENTS = 64  # elements of one array that may be damaged, so that a vocabulary does not outweigh the other fields

Field = collections.namedtuple("Field", "kind offset format")


class Layout:
    """Where the fields of a valid GGUF file lie."""

    def __init__(self, data):
        self.data = data
        self.fields = [Field("magic", 0, "I"), Field("version", 4, "I"), Field("count", 8, "Q"), Field("count", 16, "Q")]
        self.position = 24
        n_tensors, n_metadata = struct.unpack_from("<QQ", data, 8)
        for _ in range(n_metadata):
            self._string()
            self._value(self._number("type", "I"))
        for _ in range(n_tensors):
            self._string()
            n_dims = self._number("n_dims", "I")
            for _ in range(n_dims):
                self._number("dim", "Q")
            self._number("format", "I")
            self._number("offset", "Q")
        self.end = self.position  # of the tensor directory
        self.by_kind = collections.defaultdict(list)
        for field in self.fields:
            self.by_kind[field.kind].append(field)

    def _number(self, kind, fmt, keep=True):
        if keep:
            self.fields.append(Field(kind, self.position, fmt))
        (value,) = struct.unpack_from("<" + fmt, self.data, self.position)
        self.position += struct.calcsize("<" + fmt)
        return value

    def _string(self, keep=True):
        length = self._number("length", "Q", keep)
        self.position += length

    def _value(self, kind, keep=True):
        if kind == STRING:
            self._string(keep)
        elif kind == ARRAY:
            element = self._number("type", "I", keep)
            count = self._number("count", "Q", keep)
            if element in SCALAR_FORMATS:
                size = struct.calcsize("<" + SCALAR_FORMATS[element])
                start = self.position
                for _ in range(min(count, MAX_ELEMENTS)):
                    self._number("element", SCALAR_FORMATS[element], keep)
                self.position = start + count * size
            else:
                for i in range(count):
                    self._value(element, keep and i < MAX_ELEMENTS)
        else:
            self._number("value", SCALAR_FORMATS[kind], keep)


def changed_number(rng, layout, field):
    """Another value for a field: a neighbouring or extreme number, or the value of another field of its kind."""
    (old,) = struct.unpack_from("<" + field.format, layout.data, field.offset)
    if field.format in "fd":
        return struct.pack("<" + field.format, rng.choice(FLOATS + [old * 2, old / 2, -old]))
    bits = 8 * struct.calcsize("<" + field.format)
    if field.kind in ("type", "format") and rng.random() < 0.8:
        value = rng.randrange(14 if field.kind == "type" else 42)
    elif field.kind == "n_dims" and rng.random() < 0.8:
        value = rng.randrange(6)
    else:
        other = rng.choice(layout.by_kind[field.kind])
        (same_kind,) = struct.unpack_from("<" + other.format, layout.data, other.offset)
        near = [old + 1, old - 1, old + 32, old - 32, old * 2, old // 2]
        value = rng.choice([rng.choice(near), rng.choice(EXTREMES), int(same_kind) if same_kind == same_kind else 0])
    return (int(value) % 2**bits).to_bytes(bits // 8, "little")


def mutate(rng, layout):
    """The patches [(offset, bytes)] and the size of one mutant, and a description of the damage."""
    size = len(layout.data)
    patches, words = [], []
    kinds = sorted(layout.by_kind)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        way = rng.random()
        if way < 0.3 or way >= 0.95:
            offset = rng.randrange(layout.end) if way < 0.3 else rng.randrange(layout.end, max(size, layout.end + 1))
            if offset < size:
                patches.append((offset, bytes([layout.data[offset] ^ (1 << rng.randrange(8))])))
                words.append(f"bit flip at byte {offset}")
        elif way < 0.88:
            field = rng.choice(layout.by_kind[rng.choice(kinds)])
            new = changed_number(rng, layout, field)
            patches.append((field.offset, new))
            words.append(f"{field.kind} at byte {field.offset} := {new.hex()}")
        else:
            size = rng.randrange(layout.end if rng.random() < 0.7 else size)
            words.append(f"cut to {size} bytes")
    return [(offset, new) for offset, new in patches if offset + len(new) <= size], size, "; ".join(words)


class Worker:
    """One file that becomes one mutant after another: only the patches are written, and undone afterwards."""

    def __init__(self, layout, folder, name):
        self.data = layout.data
        self.path = folder / f"mutant-{name}.gguf"
        self.path.write_bytes(self.data)
        self.file = open(self.path, "r+b", buffering=0)
        self.stderr = open(folder / f"stderr-{name}", "w+b", buffering=0)

    def close(self):
        self.file.close()
        self.stderr.close()

    def apply(self, patches, size):
        self.file.truncate(size)
        for offset, new in patches:
            os.pwrite(self.file.fileno(), new, offset)

    def restore(self, patches, size):
        for offset, new in patches:
            os.pwrite(self.file.fileno(), self.data[offset : offset + len(new)], offset)
        rest, offset = memoryview(self.data)[size:], size
        while rest:
            n = os.pwrite(self.file.fileno(), rest, offset)
            rest, offset = rest[n:], offset + n

    def run(self, command, limit):
        """The exit status (negative: a signal), whether the time ran out, stderr, and peak resident kilobytes."""
        self.stderr.seek(0)
        self.stderr.truncate(0)
        # A sanitizer's report must end the process by a signal, to be distinct from an exit status.
        environment = dict(os.environ, ASAN_OPTIONS="abort_on_error=1", UBSAN_OPTIONS="abort_on_error=1:halt_on_error=1")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.stderr, env=environment
        )
        late = threading.Event()

        def stop():
            late.set()
            os.kill(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # the id stays reserved until the timer is off
        finally:
            timer.cancel()
            timer.join()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.stderr.seek(0)
        return process.returncode, late.is_set(), self.stderr.read().decode(errors="replace"), usage.ru_maxrss


def verdict(command, code, late, message):
    """The column of the table to count in, and the reason for a failure (None: no failure)."""
    if late:
        return "timeout", "ran over the time limit"
    if code < 0:
        return "other", f"crashed with signal {-code}"
    if code == 2:
        return "2", None if message.strip() else "exit 2 without a message"
    if code == 0:
        return "0", None
    return "other", None if code == 1 and command == "inspect" else f"exit {code}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plumb", help="the program")
    parser.add_argument("model", help="a valid GGUF file, best a small one")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="only this mutant, and say what plumb says")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=10, help="seconds for one command")
    parser.add_argument("--keep", default="mutants-failed", help="folder for the files that failed")
    args = parser.parse_args()

    layout = Layout(pathlib.Path(args.model).read_bytes())
    indices = iter(range(args.count) if args.only is None else [args.only])
    lock = threading.Lock()
    counts = {"inspect": collections.Counter(), "run": collections.Counter()}
    peaks = {"inspect": 0, "run": 0}
    state = {"failed": 0, "done": 0, "broken": None}

    def try_one(worker, i):
        patches, size, words = mutate(random.Random(f"{args.seed}/{i}"), layout)
        worker.apply(patches, size)
        file = str(worker.path)
        failure = None
        for name, command in (
            ("inspect", [args.plumb, "inspect", "--check", file]),
            ("run", [args.plumb, "run", file, "-n", "1", "-p", "1"]),
        ):
            code, late, message, peak = worker.run(command, args.limit)
            column, wrong = verdict(name, code, late, message)
            with lock:
                counts[name][column] += 1
                peaks[name] = max(peaks[name], peak)
                if args.only is not None or wrong:
                    print(f"mutant {i} ({words}): {name}: exit {code}: {wrong or 'right'}\n{message[-2000:]}", flush=True)
            failure = failure or wrong
        if failure:
            os.makedirs(args.keep, exist_ok=True)
            shutil.copyfile(worker.path, pathlib.Path(args.keep) / f"seed{args.seed}-{i}.gguf")
        worker.restore(patches, size)
        with lock:
            state["failed"] += failure is not None
            state["done"] += 1
            if sys.stderr.isatty():
                print(f"\r{state['done']} of {args.count}, {state['failed']} failed", end="", file=sys.stderr)

    def work(folder, name):
        worker = Worker(layout, folder, name)
        try:
            while state["broken"] is None:
                with lock:
                    i = next(indices, None)
                if i is None:
                    return
                try_one(worker, i)
        except Exception as error:  # a thread's failure must be reported
            state["broken"] = error
        finally:
            worker.close()

    shared_memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        threads = [threading.Thread(target=work, args=(pathlib.Path(folder), n)) for n in range(args.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if state["broken"] is not None:
        raise state["broken"]
    for name, counter in counts.items():
        columns = ", ".join(f"{column}: {counter[column]}" for column in ("0", "2", "other", "timeout"))
        print(f"{name}: exits {columns}; peak memory {peaks[name] / 1024:.0f} MB")
    print(f"{state['done']} mutants, {state['failed']} failed" + (f"; kept in {args.keep}" if state["failed"] else ""))
    return 1 if state["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
