"""The program as a user or a script sees it: its output on stdout and stderr, and its exit codes. PLUMB names the program."""

import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

PLUMB = os.environ["PLUMB"]
SOURCE = pathlib.Path(__file__).resolve().parents[2]


def plumb(*arguments, stdin=b"", environment=None):
    return subprocess.run(
        [PLUMB, *arguments], input=stdin, capture_output=True, timeout=120, env={**os.environ, **(environment or {})}
    )


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

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

    def test_the_canary_echoes_one(self):
        self.assertEqual(self.ok("run", "canary", "-p", "1", "--temp", "0"), b"1\n")

    def test_every_backend_and_text_source_gives_the_same_answer(self):
        for backend in ("reference", "cpu", "auto"):
            self.assertEqual(self.ok("run", "canary", "-p", "upper cat", "--temp", "0", "--backend", backend), b"CAT\n")
        (self.path / "prompt").write_bytes(b"upper cat")
        self.assertEqual(self.ok("run", "canary", "-f", str(self.path / "prompt"), "--temp", "0"), b"CAT\n")
        self.assertEqual(self.ok("run", "canary", "-f", "-", "--temp", "0", stdin=b"upper cat"), b"CAT\n")

    def test_both_roundings_of_activations(self):
        for activations in ("int16", "int8"):
            self.assertEqual(self.ok("run", "canary", "-p", "upper cat", "--temp", "0", "--activations", activations), b"CAT\n")
        self.assertIn("--activations", self.refused("run", "canary", "-p", "1", "--activations", "int4"))

    def test_run_json(self):
        document = self.json("run", "canary", "-p", "1", "--temp", "0", "--logprobs", "3")
        self.assertEqual(document["text"], "1")
        first = document["tokens"][0]
        self.assertEqual(len(first["top"]), 3)
        self.assertEqual(first["top"][0]["id"], first["id"])
        self.assertLessEqual(first["logprob"], 0)
        self.assertGreater(first["logprob"], -0.1)
        again = self.json("run", "canary", "--tokens", ",".join(map(str, document["prompt_tokens"])), "--temp", "0")
        self.assertEqual(again["text"], "1")

    def test_a_seed_repeats_and_stop_texts_stop(self):
        runs = {self.ok("run", "canary", "-p", "x", "--temp", "3", "--top-k", "0", "--seed", "7", "-n", "20") for _ in range(3)}
        self.assertEqual(len(runs), 1)
        stopped = self.json("run", "canary", "-p", "upper cat", "--temp", "0", "--stop", "T")
        self.assertEqual(stopped["text"], "CA")
        self.assertEqual(stopped["stop_reason"], "stop text")
        self.assertEqual(self.json("run", "canary", "-p", "upper cat", "--temp", "0", "-n", "1")["stop_reason"], "token limit")

    def test_tokenize_there_and_back(self):
        text = "1 caf\u00e9\n\tx"
        tokens = self.json("tokenize", "canary", "-p", text)
        self.assertEqual(len(tokens["tokens"]), len(tokens["pieces"]))
        bare = self.json("tokenize", "canary", "-p", text, "--no-bos")
        self.assertEqual(tokens["tokens"][1:], bare["tokens"])
        back = self.json("tokenize", "canary", "--decode", ",".join(map(str, bare["tokens"])))
        self.assertEqual(back["text"], text)
        self.assertIn("outside the vocabulary", self.refused("tokenize", "canary", "--decode", "99999"))
        self.assertEqual(self.json("tokenize", "canary", "-p", "</s>", "--no-bos")["pieces"], ["</s>"])

    def test_template_prints_exactly_the_prompt(self):
        (self.path / "m.json").write_text('[{"role": "user", "content": "hi"}]')
        (self.path / "t.jinja").write_text("{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}{{ add_generation_prompt }}")
        arguments = ("template", str(self.path / "t.jinja"), "--messages", str(self.path / "m.json"))
        self.assertEqual(self.ok(*arguments, "--bos", "<s>"), b"<s>[hi]True")
        self.assertEqual(self.ok(*arguments, "--no-generation-prompt"), b"[hi]False")
        canary = self.ok("template", "canary", "--messages", str(self.path / "m.json"))
        self.assertEqual(canary, b"<|user|>\nhi</s>\n<|assistant|>\n")
        (self.path / "t.jinja").write_text("a\nb {{ nothing.at.all }}")
        self.assertIn("line 2", self.refused(*arguments))

    def test_inspect(self):
        document = self.json("inspect", "canary")
        self.assertEqual(document["metadata"]["general.architecture"], "llama")
        self.assertIn("token_embd.weight", [tensor["name"] for tensor in document["tensors"]])
        shown = self.ok("inspect", "canary").decode()
        for line in ('general.architecture +"llama"', r"blk\.0\.attn_q\.weight +F16 +\[256, 256\] +131\.1 kB"):
            self.assertRegex(shown, line)
        self.assertRegex(self.ok("inspect", "canary", "--tensor", "output_norm.weight").decode(), "values +256 ")
        self.assertIn(b"valid", self.ok("inspect", "canary", "--check"))
        tensor = self.json("inspect", "canary", "--tensor", "blk.0.attn_q.weight")
        self.assertEqual(sum(tensor["histogram"]), tensor["values"])
        self.assertIn("no tensor named", self.refused("inspect", "canary", "--tensor", "nonsense"))

    def test_quantize_then_run(self):
        out = self.path / "q.gguf"
        canary = SOURCE / "models" / "canary-f16.gguf"
        report = self.json("quantize", str(canary), str(out), "Q4_K_M")
        self.assertTrue(report["tensors"])
        self.assertEqual(self.ok("run", str(out), "-p", "1", "--temp", "0"), b"1\n")
        self.assertEqual(os.listdir(self.path), ["q.gguf"])
        self.assertIn("Q9_X", self.refused("quantize", str(canary), str(out), "Q9_X"))
        self.assertIn("cannot", self.refused("quantize", str(canary), str(self.path / "no" / "where.gguf"), "Q8_0"))
        before = out.read_bytes()
        self.assertIn("to read", self.refused("quantize", str(out), str(self.path / "." / "q.gguf"), "Q8_0"))
        self.assertEqual(out.read_bytes(), before)

    def test_bad_files_get_a_message(self):
        bad = self.path / "bad.gguf"
        bad.write_bytes(b"not a model at all, whatever its name says")
        self.assertIn(str(bad), self.refused("run", str(bad), "-p", "1"))
        canary = (SOURCE / "models" / "canary-f16.gguf").read_bytes()
        bad.write_bytes(canary[:100_000])
        self.assertIn(str(bad), self.refused("inspect", str(bad), "--check"))
        bad.write_bytes(canary[:8] + struct.pack("<Q", 2**60) + canary[16:])
        self.assertIn("tensor", self.refused("run", str(bad), "-p", "1"))
        self.assertIn("no such file", self.refused("run", str(self.path / "absent.gguf"), "-p", "1"))
        self.assertIn("plumb pull", self.refused("run", "absent", "-p", "1", environment={"PLUMB_CACHE": str(self.path)}))

    def test_a_template_that_is_bad_or_missing_leaves_raw_text(self):
        canary = (SOURCE / "models" / "canary-f16.gguf").read_bytes()
        model = self.path / "m.gguf"
        raw = ("run", str(model), "-p", "<|user|>\n1</s>\n<|assistant|>\n", "--temp", "0")
        model.write_bytes(canary.replace(b"{%- for message", b"{%- fir message"))
        message = self.refused("run", str(model), "-p", "1")
        self.assertIn("line 1", message)
        self.assertIn("--raw", message)
        self.assertEqual(self.ok(*raw, "--raw"), b"1\n")
        self.assertIn("line 1", self.refused("inspect", str(model), "--check"))
        model.write_bytes(canary.replace(b"tokenizer.chat_template", b"tokenizer.chat_tem_late"))
        self.assertEqual(self.ok(*raw), b"1\n")
        self.assertIn(b"no chat template", plumb(*raw).stderr)
        self.assertIn("--system", self.refused(*raw, "--system", "x"))
        self.assertIn("no chat template", self.refused("chat", str(model)))

    def test_bad_usage_gets_a_message(self):
        self.refused()
        self.refused("frobnicate")
        self.refused("run", "canary", "-p", "1", "--no-such-option")
        self.assertIn("no text", self.refused("run", "canary"))
        self.assertIn("temperature", self.refused("run", "canary", "-p", "1", "--temp", "-1"))
        self.assertIn("no backend", self.refused("run", "canary", "-p", "1", "--backend", "abacus"))
        present = {b["name"] for b in json.loads(self.ok("devices", "--quick", "--json"))["backends"] if b["present"]}
        if "cuda" not in present:
            self.assertIn("cuda", self.refused("run", "canary", "-p", "1", "--backend", "cuda"))
        self.assertIn("outside the vocabulary", self.refused("run", "canary", "--tokens", "1,99999"))
        self.assertIn("missing", self.refused("run", "canary", "--tokens", ""))
        self.assertIn("Q9", self.refused("selftest", "--quant", "Q9"))
        self.assertIn("--logit-bias", self.refused("run", "canary", "-p", "1", "--logit-bias", "x"))

    def test_a_prompt_longer_than_the_context_is_refused(self):
        self.assertIn("KV cache", self.refused("run", "canary", "-p", "word " * 200, "--ctx", "64"))

    def test_selftest_json(self):
        document = self.json("selftest", "--quant", "Q8_0,Q4_K_M")
        self.assertEqual(document["failed"], 0)
        self.assertEqual(document["passed"], len(document["results"]))
        self.assertLessEqual({"reference", "cpu", "checker"}, {row["backend"] for row in document["results"]})
        row = document["results"][0]
        self.assertEqual((row["input"], row["expected"], row["actual"], row["pass"]), ("1", "1", "1", True))

    def test_the_gpu_kernels_answer_in_every_quantization_on_the_checker(self):
        document = self.json("selftest", "--backend", "checker")
        self.assertEqual(document["failed"], 0)
        self.assertGreaterEqual(len({row["quant"] for row in document["results"]}), 13)

    def test_bench_json(self):
        document = self.json("bench", "canary", "-p", "32", "-n", "8", "-r", "2")
        for phase in ("prefill", "decode"):
            self.assertGreater(document[phase]["tps_median"], 0)
            self.assertLessEqual(document[phase]["tps_min"], document[phase]["tps_max"])
        self.assertGreater(document["bytes_per_token"], 1_000_000)

    def test_bench_of_several_streams(self):
        document = self.json("bench", "canary", "-p", "0", "-n", "8", "-r", "2", "--streams", "5", "--depth", "3")
        self.assertEqual((document["streams"], document["depth"]), (5, 3))
        self.assertGreater(document["decode"]["tps_median"], 0)
        self.assertIn(b"streams  5", self.ok("bench", "canary", "-p", "0", "-n", "2", "-r", "1", "-s", "5"))

    def test_a_trace_has_the_values_of_a_run(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "t.safetensors"
            out = self.ok("trace", "canary", "-p", "1", "--backend", "cpu", "-o", path, "--steps", "1")
            self.assertIn(b"12 prompt tokens and 1 steps", out)
            data = path.read_bytes()
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            metadata = header.pop("__metadata__")
            tokens = json.loads(metadata["tokens"])
            self.assertEqual((metadata["format"], metadata["version"], metadata["model"]), ("plumb-trace", "1", "canary"))
            self.assertEqual((len(tokens), len(metadata["model_sha256"])), (13, 64))
            self.assertEqual(header["0/blk.0.attn_q"]["shape"][0], 12)
            self.assertEqual(header["1/blk.0.attn_q"]["shape"][0], 1)
            self.assertNotIn("0/blk.0.attn_probs", header)
            begin, end = header["0/logits"]["data_offsets"]
            logits = struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin : 8 + length + end])
            self.assertEqual(logits.index(max(logits)), tokens[12])
            self.ok("trace", "canary", "-p", "1", "-o", path, "--values", "blk.1.*", "--values", "logits", "--steps", "0")
            data = path.read_bytes()
            names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            self.assertTrue(all(n.startswith(("0/blk.1.", "0/logits", "__")) for n in names), names)
            self.assertIn("0/blk.1.attn_probs", names)
            self.refused("trace", "canary", "-p", "1", "-o", path, "--values", "nothing")
            self.refused("trace", "canary", "-p", "1", "-o", folder)
            self.assertEqual(os.listdir(folder), ["t.safetensors"])

    def test_devices_json(self):
        document = json.loads(self.ok("devices", "--quick", "--json"))
        self.assertTrue({"cpu", "reference"} <= {b["name"] for b in document["backends"] if b["present"]})

    def test_chat_reads_lines_and_answers_each(self):
        answers = self.ok("chat", "canary", "--temp", "0", stdin=b"1\nupper cat\n/reset\nupper dog\n")
        self.assertEqual(answers.splitlines()[0], b"1")
        self.assertEqual(answers.splitlines()[-1], b"DOG")

    def test_an_interrupt_ends_cleanly(self):
        with open(self.path / "out", "wb") as out:
            process = subprocess.Popen(
                [PLUMB, "run", "canary", "-p", "x", "--temp", "5", "--top-k", "0", "--min-p", "0", "--top-p", "1",
                 "--logit-bias", "2=-inf", "--ctx", "100000", "--backend", "reference"],
                stdout=out, stderr=subprocess.PIPE)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            message = process.communicate(timeout=20)[1]
        self.assertEqual(process.returncode, 0, message)
        self.assertIn(b"interrupted", message)

    def test_the_page_of_commands_is_up_to_date(self):
        page = subprocess.run([SOURCE / "scripts" / "docs", PLUMB], capture_output=True, check=True).stdout
        self.assertEqual(page.decode(), (SOURCE / "docs" / "cli.md").read_text(), "run: scripts/docs >docs/cli.md")


if __name__ == "__main__":
    unittest.main()
