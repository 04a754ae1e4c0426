"""plumb inspect on files made for it: every type of metadata, statistics, what --check finds."""

import json
import math
import unittest

from command_line import CODES, CommandLine, gguf, plumb

VOCABULARY = [
    ("general.architecture", "str", "llama"),
    ("tokenizer.ggml.model", "str", "llama"),
    ("tokenizer.ggml.tokens", "arr", ("str", ["<unk>", "<s>", "</s>", "a"])),
    ("tokenizer.ggml.scores", "arr", ("f32", [0, 0, 0, -1])),
    ("tokenizer.ggml.token_type", "arr", ("i32", [2, 3, 3, 1])),
]


class Inspect(CommandLine):
    def line(self, shown, key):
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [key]]
        return line.split(maxsplit=1)[1]

    def test_metadata_of_every_type(self):
        extremes = {
            "u8": [0, 255], "i8": [-128, 127], "u16": [0, 2**16 - 1], "i16": [-(2**15), 2**15 - 1], "u32": [0, 2**32 - 1],
            "i32": [-(2**31), 2**31 - 1], "u64": [0, 2**64 - 1], "i64": [-(2**63), 2**63 - 1], "f32": [-0.5, 1.25],
            "f64": [-0.1, 1e300], "bool": [False, True], "str": ["", "caf\u00e9"],
        }  # fmt: skip
        self.assertEqual(set(extremes), {*CODES, "str"})
        metadata = []
        for type, (low, high) in extremes.items():
            metadata += [(f"low.{type}", type, low), (f"high.{type}", type, high), (f"array.{type}", "arr", (type, [low, high]))]
        nested = [("u8", [1, 2, 3, 4, 5, 6]), ("u8", [7])]
        metadata += [("nested", "arr", ("arr", nested)), ("empty", "arr", ("u8", []))]
        metadata += [(f"long.{n}", "arr", ("u8", list(range(n)))) for n in (4, 5)]
        path = self.written("m.gguf", gguf(metadata))
        shown = self.json("inspect", path)["metadata"]
        self.assertEqual(list(shown), [key for key, _, _ in metadata])
        for type, values in extremes.items():
            self.assertEqual([shown[f"low.{type}"], shown[f"high.{type}"]], values, type)
            self.assertEqual(shown[f"array.{type}"]["first"], values, type)
            self.assertEqual(shown[f"array.{type}"]["count"], 2)
        self.assertEqual(shown["long.5"], {"type": "u8", "count": 5, "first": [0, 1, 2, 3]})
        self.assertEqual(shown["nested"]["first"], [[1, 2], [7]])
        text = self.ok("inspect", path).decode()
        self.assertEqual(self.line(text, "long.4"), "4 u8 [0,1,2,3]")
        self.assertEqual(self.line(text, "long.5"), "5 u8 [0,1,2,3,…]")
        self.assertEqual(self.line(text, "empty"), "0 u8 []")

    def test_long_texts_are_cut_between_characters(self):
        # With its quotes a text of 98 bytes has 100, which are shown.
        cases = {"a" * 98: '"' + "a" * 98 + '"', "a" * 99: '"' + "a" * 99 + "… (101 bytes)"}
        for n in (96, 97, 98, 99):
            cases["a" * n + "\U0001f415"] = '"' + "a" * n + f"… ({n + 6} bytes)"
        cases["a" * 94 + "\U0001f415"] = '"' + "a" * 94 + '\U0001f415"'
        path = self.written("m.gguf", gguf([(f"k{i}", "str", text) for i, text in enumerate(cases)]))
        shown = self.ok("inspect", path).decode()
        for i, line in enumerate(cases.values()):
            self.assertEqual(self.line(shown, f"k{i}"), line)

    def test_statistics_of_a_tensor(self):
        values = [*range(24), math.nan, math.inf, -math.inf, 0]
        path = self.written("m.gguf", gguf([("general.name", "str", "x")], [("first", [8], [1] * 8), ("t", [4, 7], values), ("same", [2], [3, 3]),
                                            ("fine", [48], range(48)),
                                            ("none", [2], [math.nan, math.inf])]))  # fmt: skip
        whole = path.read_bytes()
        t = self.json("inspect", path, "--tensor", "t")
        numbers = [*range(24), 0]
        mean = sum(numbers) / 25
        deviation = math.sqrt(sum((x - mean) ** 2 for x in numbers) / 25)
        self.assertEqual([t[key] for key in ("name", "type", "dims", "bytes", "values", "nan", "inf", "zero", "min", "max")],
                         ["t", "F32", [4, 7], 112, 28, 1, 2, 2, 0, 23])  # fmt: skip
        self.assertAlmostEqual(t["mean"], mean)
        self.assertAlmostEqual(t["deviation"], deviation)
        self.assertEqual(t["histogram"], [2] + [1] * 23)
        self.assertEqual(whole[t["file_offset"] + 4 : t["file_offset"] + 8], b"\x00\x00\x80\x3f")
        text = self.ok("inspect", path, "--tensor", "t").decode().splitlines()
        self.assertEqual(text[0], f"t  F32 [4, 7], 112 B at byte {t['file_offset']}")
        self.assertEqual(text[1], "values     28 (2 zero, 1 NaN, 2 infinite)")
        self.assertEqual(text[2:4], ["range      0 to 23", "mean       11.04"])
        self.assertEqual(text[4], f"deviation  {deviation:.6g}")
        self.assertEqual([line.split() for line in text[5:8]],
                         [["0", "#" * 50, "2"], ["0.95833", "#" * 25, "1"], ["1.9167", "#" * 25, "1"]])  # fmt: skip
        self.assertEqual(len(text), 5 + 24)
        self.assertEqual(self.json("inspect", path, "--tensor", "fine")["histogram"], [2] * 24)
        same = self.json("inspect", path, "--tensor", "same")
        self.assertEqual((same["deviation"], same["histogram"]), (0, [2] + [0] * 23))
        none = self.json("inspect", path, "--tensor", "none")
        self.assertEqual((none["mean"], none["deviation"], none["histogram"]), (0, 0, [0] * 24))
        self.assertEqual(len(self.ok("inspect", path, "--tensor", "none").splitlines()), 5)

    def test_the_summary_has_tensors_and_types(self):
        path = self.written("m.gguf", gguf(VOCABULARY, [("a", [8, 2], [1] * 16), ("b", [4], [1] * 4)]))
        document = self.json("inspect", path)
        self.assertEqual([document[key] for key in ("file", "version", "alignment", "bytes", "shards")],
                         [str(path), 3, 32, path.stat().st_size, 1])  # fmt: skip
        self.assertEqual(document["types"], {"F32": {"tensors": 2, "bytes": 80}})
        self.assertEqual([(t["name"], t["dims"], t["bytes"], t["shard"]) for t in document["tensors"]],
                         [("a", [8, 2], 64, 0), ("b", [4], 16, 0)])  # fmt: skip
        self.assertEqual(document["tensors"][1]["file_offset"] - document["tensors"][0]["file_offset"], 64)
        self.assertIn("4 tokens", document["tokenizer"])
        self.assertIn("none", document["template"])
        self.assertTrue(document["runs"].startswith("no: "), document["runs"])
        text = self.ok("inspect", path).decode()
        self.assertIn("2 tensors\n\nparameters    20, 32.00 bits each\nquantization  mostly F32\ntokenizer", text)
        self.assertLess(text.index("\nruns"), text.index("\nmetadata\n"))
        self.assertRegex(text, r"\n  F32 +2 tensors +80 B\n")
        canary = self.json("inspect", "canary")
        self.assertTrue(canary["runs"].startswith("llama, 3 layers, on "), canary["runs"])
        self.assertRegex(canary["template"], "^[0-9]+ bytes$")
        self.assertEqual(self.json("inspect", self.written("v.gguf", gguf(VOCABULARY)))["runs"],
                         f"no: {self.path / 'v.gguf'}: is a vocabulary without weights; 'plumb tokenize' takes it")  # fmt: skip

    def test_the_card_comes_first(self):
        lines = self.ok("inspect", "canary").decode().splitlines()
        self.assertTrue(lines[0].startswith("canary: GGUF version 3, "), lines[0])
        card = dict(line.split(maxsplit=1) for line in lines[2 : lines.index("metadata") - 1])
        self.assertEqual(card["context"], "256 positions")
        self.assertEqual(card["quantization"], "F16")
        document = self.json("inspect", "canary")
        weights = [(math.prod(tensor["dims"]), tensor["bytes"]) for tensor in document["tensors"]]
        self.assertEqual(document["card"]["parameters"], sum(n for n, _ in weights))
        self.assertAlmostEqual(document["card"]["bits_per_weight"], 8 * sum(b for _, b in weights) / sum(n for n, _ in weights))
        metadata = document["metadata"]
        heads = metadata.get("llama.attention.head_count_kv", metadata["llama.attention.head_count"])
        width = metadata.get("llama.attention.key_length",
                             metadata["llama.embedding_length"] // metadata["llama.attention.head_count"])  # fmt: skip
        self.assertEqual(document["card"]["cache_bytes_per_token"], 2 * 2 * metadata["llama.block_count"] * heads * width)
        self.assertGreater(document["card"]["positions_that_fit"], 0)

    def test_blocks_come_in_natural_order(self):
        names = ["output.weight", "blk.10.a.weight", "blk.1.a.weight", "blk.2.a.weight", "token_embd.weight", "blk.1.b.bias"]
        path = self.written("m.gguf", gguf(VOCABULARY, [(name, [2], [1, 2]) for name in names]))
        order = ["token_embd.weight", "blk.1.a.weight", "blk.1.b.bias", "blk.2.a.weight", "blk.10.a.weight", "output.weight"]
        self.assertEqual([tensor["name"] for tensor in self.json("inspect", path)["tensors"]], order)
        text = self.ok("inspect", path).decode()
        listed = text[text.index("\ntensors\n") :].split()
        self.assertEqual([word for word in listed if word in order], order)
        roles = text[text.index("\ntypes by role\n") : text.index("\ntypes\n")].splitlines()[2:]
        self.assertEqual([line.split() for line in roles if line],
                         [["token_embd.weight", "1", "F32"], ["a.weight", "3", "F32"], ["b.bias", "1", "F32"],
                          ["output.weight", "1", "F32"]])  # fmt: skip

    def test_long_values_on_request(self):
        text, numbers = "x" * 500, list(range(50))
        path = self.written("m.gguf", gguf([("t", "str", text), ("n", "arr", ("u8", numbers))]))
        shown = self.ok("inspect", path, "--full").decode()
        self.assertEqual(self.line(shown, "t"), f'"{text}"')
        self.assertEqual(self.line(shown, "n"), "50 u8 " + json.dumps(numbers, separators=(",", ":")))
        self.assertEqual(self.json("inspect", path, "--full")["metadata"]["n"]["items"], numbers)

    def test_a_split_model_is_one(self):
        count = ("split.count", "u16", 2)
        for i, (metadata, tensor) in enumerate(((VOCABULARY, ("a", [8], [1] * 8)), ([], ("b", [4], [2] * 4)))):
            split = [("split.no", "u16", i), count, ("split.tensors.count", "i32", 2)]
            self.written(f"m-0000{i + 1}-of-00002.gguf", gguf([*metadata, *split], [tensor]))
        first = self.path / "m-00001-of-00002.gguf"
        document = self.json("inspect", first)
        self.assertEqual((document["shards"], [t["shard"] for t in document["tensors"]]), (2, [0, 1]))
        self.assertEqual(document["bytes"], sum(path.stat().st_size for path in self.path.iterdir()))
        self.assertIn(b"2 tensors, 2 files\n", self.ok("inspect", first))

    def test_check_names_every_problem(self):
        # Without a model's tensors only the vocabulary is checked.
        good = self.written("good.gguf", gguf(VOCABULARY))
        self.assertEqual(self.json("inspect", good, "--check"), {"file": str(good), "valid": True, "problems": [], "warnings": []})
        self.assertEqual(self.ok("inspect", good, "--check").decode(),
                         f"{good}: valid; 5 metadata entries, 0 tensors, every value a number\n")  # fmt: skip
        cases = {
            "tokens": (VOCABULARY[1:2], []),
            "template": ([*VOCABULARY, ("tokenizer.chat_template", "str", "{% if %}")], []),
            "chat_template": ([*VOCABULARY, ("tokenizer.chat_template", "u8", 1)], []),
            "1 NaN and 0 infinite values of 3": (VOCABULARY, [("t", [3], [0, math.nan, 1])]),
            "0 NaN and 2 infinite values of 3": (VOCABULARY, [("t", [3], [math.inf, -math.inf, 1])]),
        }
        for words, (metadata, tensors) in cases.items():
            path = self.written("bad.gguf", gguf(metadata, tensors))
            done = plumb("inspect", path, "--check", "--json")
            document = json.loads(done.stdout)
            self.assertEqual((done.returncode, document["valid"]), (2, False), words)
            if not tensors:  # a file with such a tensor lacks all else of a model
                self.assertEqual(len(document["problems"]), 1, document)
            if words != "template":
                self.assertIn(words, document["problems"][-1])
            message = self.refused("inspect", path, "--check")
            self.assertEqual(message, "".join(f"plumb: {problem}\n" for problem in document["problems"]))
        self.refused("inspect", good, "--check", "--tensor", "t")


if __name__ == "__main__":
    unittest.main()
