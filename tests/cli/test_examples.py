"""The examples that write traces, and the reports of plumb diagnose on them. PLUMB names the program; seed_replay is in the
same folder."""

import json
import os
import pathlib
import random
import subprocess
import tempfile
import unittest

PLUMB = pathlib.Path(os.environ["PLUMB"])
SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROMPT = "one line\nupper cat"
PRODUCTS = ["attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"]


def run(*arguments):
    return subprocess.run([*map(str, arguments)], capture_output=True, timeout=300)


class Examples(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.models = {}
        for kind in ("F32", "F16", "Q8_0"):
            cls.models[kind] = cls.folder / f"canary-{kind}.gguf"
            done = run(PLUMB, "quantize", "canary", cls.models[kind], kind)
            assert done.returncode == 0, done.stderr

    def diagnosis(self, model, trace, code):
        done = run(PLUMB, "diagnose", model, "--trace", trace, "--json")
        self.assertEqual(done.returncode, code, done.stdout[-2000:] + done.stderr)
        return json.loads(done.stdout)


class NaiveLlama(Examples):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.program = cls.folder / "naive_llama"
        # Compiles without warnings, and with no include path but the header's.
        done = run("cc", "-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall",
                   "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-I", SOURCE / "include",
                   SOURCE / "examples" / "trace" / "naive_llama.c", "-o", cls.program, "-lm")  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()

    def test_its_trace_follows_in_every_format_it_reads(self):
        ids = json.loads(run(PLUMB, "tokenize", "canary", "--chat", "-p", "upper cat", "--json").stdout)["tokens"]
        for kind, model in self.models.items():
            trace = self.folder / "trace.safetensors"
            done = run(self.program, model, trace, 3, *ids)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = self.diagnosis(model, trace, 0)
            self.assertEqual((report["engine"], report["n_steps"]), ("naive_llama", 3), kind)
            stages = {stage["name"]: stage["outcome"] for stage in report["stages"]}
            self.assertEqual([stages[s] for s in ("parameters", "weights", "ops", "cache", "sampling")], ["pass"] * 5)
            # Its answer is Plumb's answer.
            text = run(PLUMB, "tokenize", "canary", "--decode", *map(int, done.stdout.split()))
            self.assertIn(b"CAT", text.stdout, text.stderr)

    def test_a_damaged_file_is_refused(self):
        whole = self.models["F16"].read_bytes()
        damaged = self.folder / "damaged.gguf"
        chance = random.Random(4)
        for i in range(60):
            data = bytearray(whole[: chance.randrange(20000)] if i % 2 else whole)
            for _ in range(3):
                data[chance.randrange(min(len(data), 16000))] = chance.randrange(256)
            damaged.write_bytes(data)
            done = run(self.program, damaged, self.folder / "out.safetensors", 1, 1, 2)
            self.assertIn(done.returncode, (0, 2), done.stderr[-2000:])

    def test_it_writes_nowhere_but_where_it_may(self):
        done = run(self.program, self.models["F16"], self.folder / "no" / "such", 0, 1)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"cannot create a file", done.stderr)


class SeedReplay(Examples):
    def faults_of(self, mistake, code=1):
        trace = self.folder / "seed.safetensors"
        done = run(PLUMB.parent / "seed_replay", self.models["F32"], mistake, PROMPT, trace)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = self.diagnosis(self.models["F32"], trace, code)
        places = [sorted({p["value"].split(".")[-1] for p in fault["places"]}) for fault in report["faults"]]
        return [fault["cause"]["name"] for fault in report["faults"]], places, report

    def test_the_healthy_engine_follows(self):
        self.assertEqual(self.faults_of("none", 0)[0], [])

    def test_each_mistake_is_named_where_it_is_made(self):
        for mistake, name, values in (
            ("weights-in-out", "weight-transposed", PRODUCTS),
            ("newline-as-space", "tokens-newline-as-space", []),
            ("template", "template-other", []),
            ("lm-head-index", "logits-index", ["logits"]),
            ("residual-clamp", "value-clamped", ["attn_resid", "output"]),
            ("rope-pairing", "rope-pairing", ["attn_q_rope", "attn_k_rope"]),
        ):
            names, places, report = self.faults_of(mistake)
            self.assertEqual((names, places), ([name], [sorted(values)]), mistake)
            self.assertEqual(report["faults"][0]["confidence"], "high", mistake)
            if values:
                self.assertEqual(report["proof"]["outcome"], "reproduced", mistake)

    def test_all_together_are_all_named(self):
        # All but the clamp: with transposed weights the residual stream stays below 10.
        names, _, report = self.faults_of("all")
        self.assertEqual(names, ["template-other", "tokens-newline-as-space", "weight-transposed", "rope-pairing",
                                 "logits-index"])  # fmt: skip
        self.assertEqual(report["proof"]["outcome"], "reproduced")

    def test_the_unit_test_of_the_report_passes_on_the_faulty_engine(self):
        done = run(PLUMB.parent / "seed_replay", "--unit-test")
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"matmul test PASSED", done.stdout)




if __name__ == "__main__":
    unittest.main()
