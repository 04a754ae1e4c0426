"""What the tests of the program share. PLUMB names the program."""

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

PLUMB = os.path.abspath(os.environ["PLUMB"])
SOURCE = pathlib.Path(__file__).resolve().parents[2]


def plumb(*arguments, stdin=b"", environment=None, **more):
    return subprocess.run(
        [PLUMB, *map(str, arguments)],
        input=stdin,
        capture_output="stdout" not in more,
        timeout=300,
        env={**os.environ, **(environment or {})},
        **more,
    )


class CommandLine(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)

    def ok(self, *arguments, **more):
        done = plumb(*arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout

    def refused(self, *arguments, **more):
        """Expects exit code 2, nothing on stdout and a message on stderr. Returns the message."""
        done = plumb(*arguments, **more)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stdout, b"")
        message = done.stderr.decode(errors="replace")
        self.assertTrue(message.startswith("plumb"), message)
        return message

    def json(self, *arguments, **more):
        return json.loads(self.ok(*arguments, "--json", **more))

    def written(self, name, content):
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


# The types of GGUF's metadata, with the numbers that the file has for them.
TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9, "u64": 10,
         "i64": 11, "f64": 12}  # fmt: skip
CODES = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q",
         "i64": "q", "f64": "d"}  # fmt: skip


def gguf_value(type, value):
    if type == "str":
        raw = value if isinstance(value, bytes) else value.encode()
        return struct.pack("<Q", len(raw)) + raw
    if type == "arr":
        element, items = value
        return struct.pack("<IQ", TYPES[element], len(items)) + b"".join(gguf_value(element, item) for item in items)
    return struct.pack("<" + CODES[type], value)


def edited(whole, *changes):
    """A GGUF file with other metadata: (key, type, value) replaces the key's value or comes last, (key, None, None) goes."""
    number = lambda at, code: struct.unpack_from("<" + code, whole, at)[0]  # noqa: E731

    def after(at, type):
        if type == TYPES["str"]:
            return at + 8 + number(at, "Q")
        if type == TYPES["arr"]:
            element, count, at = number(at, "I"), number(at + 4, "Q"), at + 12
            for _ in range(count):
                at = after(at, element)
            return at
        return at + struct.calcsize("<" + next(CODES[name] for name, id in TYPES.items() if id == type))

    entries, at = {}, 24
    for _ in range(number(16, "Q")):
        name = after(at, TYPES["str"])
        end = after(name + 4, number(name, "I"))
        entries[whole[at + 8 : name].decode()] = whole[at:end]
        at = end
    for key, type, value in changes:
        entries.pop(key, None) if type is None else entries.update(
            {key: gguf_value("str", key) + struct.pack("<I", TYPES[type]) + gguf_value(type, value)}
        )
    directory = at
    for _ in range(number(8, "Q")):
        at = after(at, TYPES["str"])
        at += 4 + 8 * number(at, "I") + 4 + 8
    head = whole[:16] + struct.pack("<Q", len(entries)) + b"".join(entries.values()) + whole[directory:at]
    return head + bytes(-len(head) % 32) + whole[at + -at % 32 :]


def spelling(**pieces):
    """The canary with other pieces in place of capital letters. It answers "upper cat" with those of C, A and T."""
    whole = (SOURCE / "models" / "canary-f16.gguf").read_bytes()
    items = json.loads(plumb("inspect", "canary", "--json", "--full").stdout)["metadata"]["tokenizer.ggml.tokens"]["items"]
    return edited(whole, ("tokenizer.ggml.tokens", "arr", ("str", [pieces.get(item, item) for item in items])))


def gguf(metadata, tensors=()):
    """A file with metadata (key, type, value) and F32 tensors (name, dims, values)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, type, value in metadata:
        head += gguf_value("str", key) + struct.pack("<I", TYPES[type]) + gguf_value(type, value)
    data = b""
    for name, dims, values in tensors:
        head += gguf_value("str", name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data
