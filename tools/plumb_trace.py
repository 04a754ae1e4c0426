"""Plumb traces in Python: writes one value by value, reads one, and has the parts that the adapters' command lines share.

The format is described in docs/trace.md and src/trace/trace.h. Writing needs the standard library alone, reading numpy.
"""

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import pathlib
import struct
import sys
from collections.abc import Callable, Sequence

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class TraceError(Exception):
    """A sentence for the person who gave the command."""


@dataclasses.dataclass
class Info:
    engine: str
    model: str = ""  # file name
    model_sha256: str = ""  # empty: unknown
    prompt: str = ""
    tokens: list[int] = dataclasses.field(default_factory=list)  # those of step 0, then one for each later step
    parameters: dict[str, float | str | bool] = dataclasses.field(default_factory=dict)  # the engine's own; docs/trace.md

    def metadata(self) -> dict[str, str]:
        texts = {"format": "plumb-trace", "version": "1", "engine": self.engine, "model": self.model,
                 "prompt": self.prompt, "tokens": json.dumps(self.tokens)}  # fmt: skip
        if self.parameters:
            texts["parameters"] = json.dumps(self.parameters)
        return texts | ({"model_sha256": self.model_sha256} if self.model_sha256 else {})


class Writer:
    """Writes values to the file one after another, after room for the header, which finish() fills in.

    As a context manager: the file appears under its name when the block ends, and not at all when the block raises. `info`
    may gain tokens until then. max_values: the largest number of values; their names have at most 100 bytes.
    """

    def __init__(self, path: str | os.PathLike, info: Info, max_values: int):
        self.path, self.info = pathlib.Path(path), info
        self._entries: dict[str, dict] = {}
        # A key, its dtype, shape and offsets take less than 300 bytes, and a step's token less than 12.
        least = 8 + len(self._header()) + 320 * (max_values + 1)
        self._room = -(-least // 64) * 64 - 8  # so that the values begin at a multiple of 64 bytes
        self._unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            self._file = open(self._unfinished, "wb")
        except OSError as error:
            raise TraceError(f"{path} cannot be written: {error.strerror}") from error
        self._file.write(bytes(8 + self._room))
        self.n_bytes = 0

    @property
    def n_values(self) -> int:
        return len(self._entries)

    def add(self, step: int, name: str, shape: Sequence[int], data, dtype: str = "F32") -> None:
        """data: row-major bytes, little-endian, or an object with such a buffer (a numpy array)."""
        data = memoryview(memoryview(data).tobytes())  # tobytes() gives row-major order, whatever the order in memory
        key = f"{step}/{name}"
        if len(data) != math.prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"{key} has {len(data)} bytes; {list(shape)} of {dtype} have another size")
        if key in self._entries:
            raise ValueError(f"{key} is there twice")
        self._file.write(data)
        self._entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [self.n_bytes, self.n_bytes + len(data)]}
        self.n_bytes += len(data)

    def finish(self) -> None:
        header = self._header()
        if len(header) > self._room:
            raise ValueError(f"a header of {len(header)} bytes is longer than was promised")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + header.ljust(self._room))  # the format allows blanks at the end
        self._file.close()
        self._unfinished.replace(self.path)

    def discard(self) -> None:
        """Deletes the unfinished file."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()

    def _header(self) -> bytes:
        return json.dumps({"__metadata__": self.info.metadata(), **self._entries}, separators=(",", ":")).encode()


class Trace:
    """A trace in memory. values: (step, name) to a float32 array [rows, width], in the file's order."""

    def __init__(self, path: str | os.PathLike):
        import numpy

        try:
            data = pathlib.Path(path).read_bytes()
            (length,) = struct.unpack_from("<Q", data)
            header = json.loads(data[8 : 8 + length])
            self.metadata = header.pop("__metadata__")
            if self.metadata["format"] != "plumb-trace" or self.metadata["version"] != "1":
                raise ValueError("its format is not plumb-trace, version 1")
            self.tokens: list[int] = json.loads(self.metadata["tokens"])
            self.values = {}
            for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                step, name = key.split("/", 1)
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]]
                array = numpy.frombuffer(data[begin:end], kind)
                if entry["dtype"] == "BF16":
                    array = (array.astype(numpy.uint32) << 16).view(numpy.float32)
                shape = entry["shape"] or [1]
                self.values[int(step), name] = array.astype(numpy.float32).reshape(-1, shape[-1])
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise TraceError(f"{path} is no trace: {error}") from error

    @property
    def n_steps(self) -> int:
        return 1 + max((step for step, _ in self.values), default=-1)

    @property
    def n_prompt_tokens(self) -> int:
        return len(self.tokens) - max(self.n_steps - 1, 0)


def sha256_of(path: str | os.PathLike) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def token_list(text: str) -> list[int]:
    try:
        tokens = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        tokens = []
    if not tokens or min(tokens) < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of token ids such as 1,2,3")
    return tokens


def step_count(text: str) -> int:
    if not text.isdecimal() or int(text) > 4096:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to 4096")
    return int(text)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `plumb trace` has too, under the same names."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("-p", "--prompt", help="the text")
    given.add_argument("--tokens", type=token_list, metavar="1,2,3", help="token ids in place of a text")
    parser.add_argument("--raw", action="store_true", help="no chat template: the text goes to the model as it is")
    parser.add_argument("-o", "--output", required=True, help="the trace, a .safetensors file")
    parser.add_argument("--steps", type=step_count, default=1, help="greedy steps after the prompt, at most (%(default)s)")
    parser.add_argument("--values", action="append", metavar="PATTERN",
                        help="only values that match, such as 'blk.0.*'; may be repeated "
                        "(default: all but *.attn_probs)")  # fmt: skip


def is_wanted(patterns: Sequence[str] | None, name: str) -> bool:
    if not patterns:
        return not name.endswith(".attn_probs")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_tokens(tokens: Sequence[int], n_vocab: int) -> None:
    if not tokens:
        raise TraceError("the prompt has no tokens")
    if max(tokens) >= n_vocab:
        raise TraceError(f"token {max(tokens)} is not among the model's {n_vocab}")


def summary(writer: Writer, n_prompt_tokens: int) -> str:
    n_steps = len(writer.info.tokens) - n_prompt_tokens
    size = f"{writer.n_bytes / 1e6:.1f} MB" if writer.n_bytes >= 1e6 else f"{writer.n_bytes / 1e3:.1f} kB"
    return (f"{writer.path}: {writer.n_values} values, {size} "
            f"of {n_prompt_tokens} prompt tokens and {n_steps} steps after them")  # fmt: skip


def run_program(main: Callable[[], None]) -> int:
    """Runs a program's main function. Returns exit code 0, or 2 with a sentence on stderr."""
    try:
        main()
    except (TraceError, OSError) as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{pathlib.Path(sys.argv[0]).name}: interrupted; nothing was written", file=sys.stderr)
        return 2
    return 0
