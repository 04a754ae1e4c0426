"""plumb diagnose as an engineer uses it: traces of healthy and faulty runs and of other engines, and files that are no traces.
PLUMB names the program."""

import array
import html.parser
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

import jsonschema

PLUMB = os.environ["PLUMB"]
SCHEMA = json.loads((pathlib.Path(__file__).resolve().parents[2] / "docs" / "report-schema.json").read_text())
GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "data" / "model"


def plumb(*arguments):
    return subprocess.run([PLUMB, *map(str, arguments)], capture_output=True, timeout=300)


class Trace:
    """A trace of F32 values in memory. Tests change it and write it again."""

    def __init__(self, path):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        self.metadata = header.pop("__metadata__")
        self.values = {}
        for key, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            self.values[key] = (entry["shape"], array.array("f", data[begin:end]))

    def write(self, path, dtype="F32"):
        header, data = {"__metadata__": self.metadata}, b""
        for key, (shape, values) in self.values.items():
            raw = values.tobytes() if dtype == "F32" else struct.pack(f"<{len(values)}e", *values)
            header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path


class Page(html.parser.HTMLParser):
    """The parts of an HTML page that tests look at: its elements, the addresses it would load, and the report inside it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.data, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href") and not value.startswith(("#", "data:"))]
        self.inside = ("type", "application/json") in attributes

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.data += data if self.inside else ""


class Diagnose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.healthy = pathlib.Path(cls.shared.name) / "healthy.safetensors"
        done = plumb("trace", "canary", "-p", "upper cat", "--backend", "reference", "--steps", 2, "-o", cls.healthy)
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        cls.shared.cleanup()

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name) / "t.safetensors"

    def verdict(self, path, code, *arguments, model="canary"):
        done = plumb("diagnose", model, "--trace", path, "--json", *arguments)
        self.assertEqual(done.returncode, code, done.stdout[-2000:] + done.stderr)
        report = json.loads(done.stdout)
        jsonschema.validate(report, SCHEMA)
        return report

    def changed(self, change, **more):
        trace = Trace(self.healthy)
        change(trace)
        return trace.write(self.path, **more)

    def refused(self, path, says, *, model="canary", arguments=()):
        done = plumb("diagnose", model, "--trace", path, *arguments)
        message = done.stderr.decode(errors="replace")
        self.assertEqual((done.returncode, done.stdout), (2, b""), message)
        self.assertIn(says, message)
        self.assertEqual(message.count("\n"), 1, message)

    def test_a_healthy_trace_follows(self):
        report = self.verdict(self.healthy, 0)
        self.assertTrue(report["follows"])
        self.assertEqual(report["faults"], [])
        stages = {stage["name"]: stage["outcome"] for stage in report["stages"]}
        for stage in ("file", "tokens", "template", "parameters", "weights", "ops", "cache", "sampling"):
            self.assertEqual(stages[stage], "pass", stage)
        done = plumb("diagnose", "canary", "--trace", self.healthy)
        self.assertTrue(done.stdout.startswith(b"follows"), done.stdout[:200])

    def test_it_follows_in_f16_and_with_values_missing(self):
        self.verdict(self.changed(lambda trace: None, dtype="F16"), 0)

        for seed in range(6):

            def thin_out(trace, seed=seed):
                chance = random.Random(seed)
                kept = (0.2, 0.5, 0.8)[seed % 3]
                trace.values = {key: value for key, value in trace.values.items() if chance.random() < kept}

            self.verdict(self.changed(thin_out), 0)

        def only_logits(trace):
            trace.values = {key: value for key, value in trace.values.items() if key.endswith("/logits")}

        self.verdict(self.changed(only_logits), 0)

    def test_every_backend_follows(self):
        for backend in ("cpu", "reference"):
            done = plumb("diagnose", "canary", "-p", "1", "--backend", backend, "--steps", 2, "--json")
            self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr)
            report = json.loads(done.stdout)
            self.assertTrue(all(s["outcome"] != "fail" for s in report["stages"]), report["stages"])

    def first_fault(self, report):
        self.assertFalse(report["follows"])
        self.assertGreaterEqual(len(report["faults"]), 1)
        return report["faults"][0]

    def test_an_op_that_does_not_follow_is_found_and_named(self):
        def clamp(trace):
            shape, values = trace.values["0/blk.1.ffn_down"]
            limit = 0.3 * max(map(abs, values))
            clamped = array.array("f", (max(-limit, min(limit, v)) for v in values))
            trace.values["0/blk.1.ffn_down"] = (shape, clamped)
            # The values after it change with it, as they would in the engine.
            residual, stream = trace.values["0/blk.1.attn_resid"][1], trace.values["0/blk.1.output"]
            trace.values["0/blk.1.output"] = (stream[0], array.array("f", (a + b for a, b in zip(clamped, residual))))
            for key in [k for k in trace.values if not k.startswith("0/")]:
                del trace.values[key]
            layers = 1 + max(int(k.split(".")[1]) for k in trace.values if "/blk." in k)
            for key in [k for k in trace.values if any(f"/blk.{n}." in k for n in range(2, layers))]:
                del trace.values[key]
            del trace.values["0/output_norm"], trace.values["0/logits"]

        fault = self.first_fault(self.verdict(self.changed(clamp), 1))
        self.assertEqual(fault["cause"]["name"], "value-clamped")
        self.assertEqual([place["value"] for place in fault["places"]], ["blk.1.ffn_down"])

    def test_a_value_that_is_not_a_number_is_a_finding(self):
        for bad in (math.nan, math.inf):

            def poison(trace, bad=bad):
                trace.values["0/blk.0.attn_q"][1][3] = bad

            fault = self.first_fault(self.verdict(self.changed(poison), 1))
            self.assertEqual(fault["places"][0]["value"], "blk.0.attn_q")
            self.assertIn("not finite", fault["evidence"])

    def test_other_tokens_than_the_prompts_are_a_finding(self):
        def drop_bos(trace):
            tokens = json.loads(trace.metadata["tokens"])
            trace.metadata["tokens"] = json.dumps([tokens[1], *tokens[1:]])

        report = self.verdict(self.changed(drop_bos), 1)
        self.assertIn("token", self.first_fault(report)["stage"])

    def test_tokens_are_held_against_those_given(self):
        tokens = json.loads(Trace(self.healthy).metadata["tokens"])[:-2]
        stages = {s["name"]: s["outcome"] for s in self.verdict(self.healthy, 0, "--tokens", ",".join(map(str, tokens)))["stages"]}
        self.assertEqual(stages["tokens"], "pass")
        fault = self.first_fault(self.verdict(self.healthy, 1, "--tokens", ",".join(map(str, [tokens[0], 9, *tokens[2:]]))))
        self.assertEqual((fault["stage"], fault["cause"]), ("tokens", None))
        self.assertIn("index 1", fault["evidence"])

    def test_logits_of_a_padded_vocabulary_follow(self):
        def pad(trace):
            for key, ((rows, width), values) in trace.values.items():
                if key.endswith("/logits"):
                    padded = array.array("f")
                    for row in range(rows):
                        padded += values[row * width : (row + 1) * width] + array.array("f", [0] * 13)
                    trace.values[key] = ([rows, width + 13], padded)

        self.verdict(self.changed(pad), 0)

    def test_leading_dimensions_are_taken_together(self):
        def wrap(trace):
            trace.values = {key: ([1, *shape], values) for key, (shape, values) in trace.values.items()}

        self.verdict(self.changed(wrap), 0)

    def test_what_a_trace_is_too_thin_for_is_no_pass(self):
        # Where results are bfloat16, the logits alone show nothing: rounding on the way may be as large as they are.
        def thin(trace):
            trace.values = {key: value for key, value in trace.values.items() if key.endswith("/logits")}
            for shape, values in trace.values.values():
                for i in range(len(values)):
                    values[i] = values[i] * 1.3 + 0.1 * math.sin(i)

        path = self.changed(thin)
        done = plumb("diagnose", "canary", "--trace", path, "--json")
        report = json.loads(done.stdout)
        if done.returncode == 0:
            stages = {s["name"]: s["outcome"] for s in report["stages"]}
            self.assertEqual((stages["ops"], stages["parameters"]), ("unknown", "unknown"))
            self.assertFalse(any(op["tells"] for op in report["ops"]))
            self.assertIn(b"as far as the trace tells", plumb("diagnose", "canary", "--trace", path).stdout)

    def test_parameters_that_differ_are_a_finding(self):
        def declare(trace):
            trace.metadata["parameters"] = json.dumps({"rms_eps": 0.25, "nonsense": 1})

        fault = self.first_fault(self.verdict(self.changed(declare), 1))
        self.assertEqual(fault["cause"]["name"], "parameter-differs")
        self.assertIn("rms_eps is 0.25", fault["cause"]["detail"])

    def test_strict_and_allow(self):
        def nudge(trace):
            shape, values = trace.values["0/blk.0.ffn_gate"]
            largest = max(map(abs, values))
            noise = random.Random(2)
            trace.values["0/blk.0.ffn_gate"] = (shape, array.array("f", (v + noise.gauss(0, 1e-3) * largest for v in values)))

        path = self.changed(nudge)
        self.verdict(path, 1)
        self.verdict(path, 0, "--allow", "1e9")
        self.refused(path, "--allow", arguments=("--allow", "-1"))
        # The engine's cache is F16, and --strict allows float32 only.
        report = self.verdict(self.healthy, 1, "--strict")
        self.assertTrue(all(p["op"] == "attention" for fault in report["faults"] for p in fault["places"]))
        self.assertIn("float16 cache", self.first_fault(report)["known"][0])

    def test_the_page_holds_the_report_and_loads_nothing(self):
        hostile = "</script><img src=x onerror=alert(1)>\u2028&amp;<!--"

        def faulty(trace):
            trace.metadata["engine"] = hostile
            trace.values["0/blk.0.attn_q"][1][3] += 1

        for path, code in ((self.healthy, 0), (self.changed(faulty), 1)):
            page = pathlib.Path(self.folder.name) / "page.html"
            page.write_text("what was there before")
            report = self.verdict(path, code, "--html", page)
            text = page.read_text()
            parsed = Page(text)
            inside = json.loads(parsed.data)
            self.assertEqual({**inside, "seconds": 0}, {**report, "seconds": 0})
            self.assertEqual(parsed.loads, [])
            self.assertNotIn("img", parsed.tags)
            self.assertEqual([n for n in ("http://", "https://", "@import", "innerHTML") if n in text.replace(
                "http://www.w3.org/2000/svg", "")], [])
        self.assertEqual(list(page.parent.glob("page.html.*")), [])
        self.refused(self.healthy, "nowhere", arguments=("--html", "/nowhere/page.html"))
        self.refused(self.healthy, "is a file to read", arguments=("--html", self.healthy))

    def test_names_of_no_value_are_reported(self):
        def extra(trace):
            trace.values["0/blk.0.colour"] = ([1, 2], array.array("f", (1, 2)))

        report = self.verdict(self.changed(extra), 0)
        self.assertEqual(report["unknown_names"], ["blk.0.colour"])

    def test_what_is_no_trace_of_the_model_is_refused(self):
        whole = self.healthy.read_bytes()
        for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
            self.path.write_bytes(whole[:size])
            self.refused(self.path, self.path.name)
        self.refused(pathlib.Path(self.folder.name) / "absent", "absent")

        def other_width(trace):
            shape, values = trace.values["0/blk.0.attn_q"]
            trace.values["0/blk.0.attn_q"] = ([shape[0], shape[1] // 2], values[: len(values) // 2])

        self.refused(self.changed(other_width), "blk.0.attn_q")

        def other_rows(trace):
            shape, values = trace.values["0/blk.0.attn_q"]
            trace.values["0/blk.0.attn_q"] = ([shape[0] - 1, shape[1]], values[: -shape[1]])

        self.refused(self.changed(other_rows), "blk.0.attn_q")

        def no_names(trace):
            trace.values = {f"0/x{i}": value for i, value in enumerate(trace.values.values())}

        self.refused(self.changed(no_names), "none of")

        def no_values(trace):
            trace.values = {}

        self.refused(self.changed(no_values), "value")

        def large_token(trace):
            trace.metadata["tokens"] = trace.metadata["tokens"].replace("[", "[2000000000, ").rsplit(",", 1)[0] + "]"

        self.refused(self.changed(large_token), "2000000000")

        def tokens(trace):
            trace.metadata["tokens"] = "[]"

        self.refused(self.changed(tokens), "token")

    def test_more_tokens_than_the_context_are_refused_before_they_are_computed(self):
        def many(trace):
            (_, width), logits = trace.values["0/logits"]
            trace.values = {"0/token_embd": trace.values["0/token_embd"], "999999/logits": ([1, width], logits[-width:])}
            trace.metadata["tokens"] = json.dumps([1] * 1_000_100)

        self.refused(self.changed(many), "context")

    def test_a_prompt_of_several_passes(self):
        tokens = ",".join(str(3 + i % 200) for i in range(520))
        arguments = ("canary", "--tokens", tokens, "--backend", "cpu", "--ctx", 600, "--steps", 1)
        done = plumb("trace", *arguments, "-o", self.path, "--values", "*attn_q*", "--values", "blk.0.*", "--values", "logits")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"attention weights", done.stderr)
        done = plumb("trace", *arguments, "-o", self.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        trace = Trace(self.path)
        self.assertEqual([trace.values[f"0/{name}"][0][0] for name in ("blk.0.attn_q", "logits")], [520, 1])
        self.verdict(self.path, 0)
        shape, values = trace.values["0/blk.0.attn_k"]
        values[515 * shape[1]] += 1
        trace.write(self.path)
        self.assertEqual(self.first_fault(self.verdict(self.path, 1))["places"][0]["value"], "blk.0.attn_k")
        self.assertEqual(plumb("diagnose", *arguments).returncode, 0)

    def test_a_prompt_of_one_token_is_not_taken_for_the_last_of_more(self):
        done = plumb("trace", "canary", "--tokens", "11", "--backend", "reference", "--steps", 2, "-o", self.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        trace = Trace(self.path)
        self.assertGreater(len(json.loads(trace.metadata["tokens"])), 1)
        trace.values = {key: value for key, value in trace.values.items() if key.startswith("0/")}
        trace.write(self.path)
        self.verdict(self.path, 0)

    def test_names_of_files_may_not_be_empty(self):
        for option in ("--html", "--trace"):
            done = plumb("diagnose", "canary", "--trace", self.healthy, option, "")
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"name is empty", done.stderr)

    def test_what_others_wrote_gives_the_terminal_no_commands(self):
        def hostile(trace):
            trace.metadata["engine"] = "en\x1b[2Jgine"
            trace.metadata["prompt"] = "\x1b]0;title\x07"
            trace.values["0/\x1b[31mname"] = ([1, 2], array.array("f", (1, 2)))

        done = plumb("diagnose", "canary", "--trace", self.changed(hostile))
        self.assertNotIn(b"\x1b", done.stdout)
        self.assertIn(b"en\\x1b[2Jgine", done.stdout)

        def unreadable(trace):
            trace.values["\x1b[31m"] = ([1, 2], array.array("f", (1, 2)))

        done = plumb("diagnose", "canary", "--trace", self.changed(unreadable))
        self.assertEqual(done.returncode, 2)
        self.assertNotIn(b"\x1b", done.stderr)

    def test_another_models_trace_is_refused(self):
        def other_file(trace):
            trace.metadata["model_sha256"] = "0" * 64

        self.refused(self.changed(other_file), "another file")
        golden = sorted(GOLDENS.glob("*.gguf"))[0]

        def unsaid(trace):
            trace.metadata.pop("model_sha256", None)

        self.refused(self.changed(unsaid), "t.safetensors", model=golden)

    def test_any_bytes_end_in_a_verdict_or_a_sentence(self):
        whole = bytearray(self.healthy.read_bytes())
        (length,) = struct.unpack_from("<Q", whole)
        chance = random.Random(3)
        for _ in range(25):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                broken[chance.randrange(8, 8 + length)] = chance.randrange(32, 127)
            self.path.write_bytes(broken)
            done = plumb("diagnose", "canary", "--trace", self.path)
            self.assertIn(done.returncode, (0, 1, 2), done.stderr)
            self.assertNotIn(b"terminate", done.stderr)


if __name__ == "__main__":
    unittest.main()
