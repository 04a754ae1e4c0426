#!/usr/bin/env python3
"""Compares Plumb's tokenizer with llama.cpp's, id for id, on random Unicode texts.

    pip install llama-cpp-python gguf
    tools/compare_tokenizers.py --lines ./tokenize_lines [--every-pre] [--texts 1000] [--seed 1] VOCABULARY.gguf …

tokenize_lines is built from tools/tokenize_lines.cpp. Without --lines, `--plumb build/bin/plumb` runs `plumb tokenize` once
for each text, which is slow. --every-pre also tries a byte-level BPE vocabulary with every other pre-tokenizer's name.
--wordpiece adds a made-up BERT vocabulary. Exits with 1 if any text differs.
"""
import argparse
import ctypes
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata

import llama_cpp

SNIPPETS = (
    "'s 'S 're 'RE 'Ve 'll 'LL 'd 'D 'm I'm don't DON'T 'ſ ’s 1 12 123 1234 12345 1234567 1,234.5 3.14 ٣٤٥ १२३४ ² ½ Ⅷ hello "
    "HELLO camelCase XMLHttp snake_case ~ ~~ ~a ~é !a !é !! ... // http://a.b/c?d=e 👩‍👩‍👧‍👦 🏳️‍🌈 é é ñ की ಠ_ಠ ß İ ǅ 漢字 かな "
    "カナ 한국어 。 ， ！ <|endoftext|> <|im_end|> <s> </s> <0x0A> ▁ ` ^ $ + = < | _ - ( ) ø À <｜end▁of▁sentence｜> [MASK] <unk>"
).split(" ") + ["\r\n", "\n", "\r", "\n\n", "\t", " ", "  ", "   ", " " * 17, "\n ", " \n", "\u00a0", "\u3000", "\u2028", "\x85",
                "\x0b", "\x0c", "\x1c", "\u180e", "\u200b", "\ufeff", "\x00", "\x01", "\x7f", " world", "a b c", " (", "{\n    "]
BLOCKS = [(0x20, 0x7F)] * 8 + [
    (0x80, 0x250), (0x370, 0x500), (0x590, 0x700), (0x900, 0xA00), (0xCF0, 0xCF5), (0xE00, 0xF00), (0x1000, 0x1200),
    (0x1780, 0x1810), (0x1E00, 0x2200), (0x2F00, 0x3200), (0x3400, 0x3500), (0x4E00, 0x5000), (0x9F00, 0xA000),
    (0xA9E0, 0xAA80), (0xAC00, 0xAD00), (0xD700, 0xD800), (0xF900, 0xFB20), (0xFE00, 0xFE50), (0xFF00, 0x10000),
    (0x10400, 0x10450), (0x118A0, 0x11F60), (0x1E900, 0x1E950), (0x1F300, 0x1F650), (0x20000, 0x20100), (0x31350, 0x313B0),
]


def random_text(rng):
    """A few runs of characters, each of one kind. Always valid UTF-8: llama.cpp replaces bytes that are not."""
    parts = []
    for _ in range(rng.randint(1, 14)):
        kind = rng.random()
        if kind < 0.45:
            parts.append(rng.choice(SNIPPETS))
        elif kind < 0.9:
            first, last = rng.choice(BLOCKS)
            parts.append("".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 6))))
        elif kind < 0.95:
            parts.append("".join(chr(rng.randrange(0x110000)) for _ in range(2)))
        else:
            parts.append(rng.choice("aA1 !é漢\u0301") * rng.randint(1, 80))
    return "".join(c for c in "".join(parts) if not 0xD800 <= ord(c) <= 0xDFFF).encode()


class LlamaCpp:
    def __init__(self, path):
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text, add_special, parse_special):
        room = len(text) * 4 + 16
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocabulary, text, len(text), ids, room, add_special, parse_special)
        return list(ids[:count])

    def close(self):
        llama_cpp.llama_model_free(self.model)


def plumb_encode(options, path, texts, add_special, parse_special):
    if options.lines:
        lines = "".join(t.hex() + "\n" for t in texts)
        command = [options.lines, str(path), str(int(add_special)), str(int(parse_special))]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return [line if line.startswith("error") else [int(i) for i in line.split()] for line in done.stdout.split("\n")[:-1]]
    results = []
    for text in texts:
        command = [options.plumb, "tokenize", str(path), "--json", "-f", "-"] + ([] if add_special else ["--no-bos"])
        done = subprocess.run(command, input=text, capture_output=True, check=True)
        results.append(json.loads(done.stdout)["tokens"])
    return results


def compare(options, path, label, texts):
    theirs = LlamaCpp(path)
    differing = 0
    modes = [(False, False), (True, False), (True, True)] if options.lines else [(False, False)]
    for add_special, parse_special in modes:
        ours = plumb_encode(options, path, texts, add_special, parse_special)
        for text, got in zip(texts, ours, strict=True):
            want = theirs.encode(text, add_special, parse_special)
            if got == want:
                continue
            differing += 1
            if differing <= 3:
                print(f"{label} (special: add {add_special}, parse {parse_special}): {text!r}\n  plumb     {got}\n  llama.cpp {want}")
    theirs.close()
    print(f"{label}: {differing} of {len(texts) * len(modes)} differ", flush=True)
    return differing


def with_pre(path, name, folder):
    """A copy of a vocabulary-only file that names another pre-tokenizer."""
    data = path.read_bytes()
    key = b"tokenizer.ggml.pre" + struct.pack("<I", 8)
    at = data.index(key) + len(key)
    (length,) = struct.unpack_from("<Q", data, at)
    copy = folder / f"{name}.gguf"
    copy.write_bytes(data[:at] + struct.pack("<Q", len(name)) + name.encode() + data[at + 8 + length:])
    return copy


def wordpiece(folder):
    """A made-up BERT vocabulary: characters of many scripts, and runs of ASCII letters."""
    import gguf

    rng = random.Random(7)
    pieces = ["[PAD]"] + [f"[unused{i}]" for i in range(99)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    single = [chr(c) for first, last in set(BLOCKS) for c in range(first, min(last, first + 300))]
    single = [c for c in single if not 0xD800 <= ord(c) <= 0xDFFF and not c.isspace() and rng.random() < 0.7]
    words = ["".join(rng.choices("etaoinshrdl", k=rng.randint(2, 5))) for _ in range(4000)]
    pieces += list(dict.fromkeys(["▁" + p for p in single + words] + [p for p in single + words[::2]] + ["▁hello", "▁world"]))
    path = folder / "wordpiece.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if p.startswith("[") and p.endswith("]") else 1 for p in pieces])
    for add, value in ((writer.add_context_length, 512), (writer.add_embedding_length, 32), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 32), (writer.add_head_count, 1), (writer.add_layer_norm_eps, 1e-6),
                       (writer.add_causal_attention, False), (writer.add_vocab_size, len(pieces))):
        add(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("vocabularies", nargs="*", type=pathlib.Path)
    arguments.add_argument("--lines")
    arguments.add_argument("--plumb", default="build/bin/plumb")
    arguments.add_argument("--texts", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--every-pre", action="store_true")
    arguments.add_argument("--wordpiece", action="store_true")
    options = arguments.parse_args()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))

    rng = random.Random(options.seed)
    texts = [random_text(rng) for _ in range(options.texts)]
    print("Python's Unicode", unicodedata.unidata_version, "· llama-cpp-python", llama_cpp.__version__)
    differing = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for path in options.vocabularies:
            differing += compare(options, path, path.stem, texts)
            if not options.every_pre:
                continue
            source = pathlib.Path(__file__).parent.parent / "src" / "text" / "pre_tokenizer.cpp"
            for name in re.findall(r'^    \{"([^"]+)", \w+, \w+\},$', source.read_text(), re.MULTILINE):
                if name == "whitespace":
                    continue  # llama.cpp aborts on this one with a byte-level vocabulary
                copy = with_pre(path, name, folder)
                differing += compare(options, copy, f"{path.stem} as {name}", texts)
                copy.unlink()
        if options.wordpiece:
            differing += compare(options, wordpiece(folder), "wordpiece", texts)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
