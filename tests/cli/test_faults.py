"""Files that are odd, damaged or no model, and runs that end early: what is said, and what stays behind. The files of
../shared/data/faults are tried where that folder is; their siblings are made here."""

import json
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from command_line import PLUMB, SOURCE, CommandLine, edited, gguf, plumb, spelling

FAULTS = SOURCE.parent / "shared" / "data" / "faults"
CANARY = (SOURCE / "models" / "canary-f16.gguf").read_bytes()


def started(*words, **more):
    return subprocess.Popen([PLUMB, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


class Keys(CommandLine):
    """The canary with other metadata."""

    def canary(self, *changes, tail=b""):
        return self.written("canary.gguf", edited(CANARY, *changes) + tail)

    def answer(self, path, *words):
        done = plumb("run", path, "-p", "upper cat", "--temp", "0", *words)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_numbers_of_any_width(self):
        cases = [
            ("llama.block_count", "u8", 3), ("llama.context_length", "i64", 256), ("llama.rope.freq_base", "u16", 10000),
            ("llama.rope.freq_base", "f64", 10000.0), 
            ("tokenizer.ggml.bos_token_id", "i8", 1), ("tokenizer.ggml.add_bos_token", "u8", 1), ("general.alignment", "u64", 32),
            ("llama.attention.sliding_window", "arr", ("i64", [256] * 3)),
            ("llama.rope.dimension_count", "arr", ("u8", [16] * 3)), ("general.file_type", "i16", 1),
        ]  # fmt: skip
        before = json.loads(plumb("inspect", "canary", "--json").stdout)["metadata"]
        for key, type, value in cases:
            if type == "arr":
                value = (value[0], [before.get(key, value[1][0])] * len(value[1]))
            elif key in before:
                value = float(before[key]) if type[0] == "f" else int(before[key])
            with self.subTest(key=key, type=type):
                self.assertEqual(self.answer(self.canary((key, type, value)))[:2], (0, "CAT\n"))
        types = json.loads(plumb("inspect", "canary", "--json", "--full").stdout)["metadata"]["tokenizer.ggml.token_type"]
        for width in ("u8", "i16", "u32", "i64", "u64"):
            path = self.canary(("tokenizer.ggml.token_type", "arr", (width, types["items"])))
            self.assertEqual(self.answer(path)[:2], (0, "CAT\n"), width)

    def test_arrays_of_unequal_values_are_refused_by_name(self):
        for values, words in (([1, 2, 1], "differs from block to block"), ([2, 2], "has 2 values for 3 blocks")):
            message = self.refused("run", self.canary(("llama.attention.head_count_kv", "arr", ("u32", values))), "-p", "x")
            self.assertIn("llama.attention.head_count_kv", message)
            self.assertIn(words, message)

    def test_ids_that_nothing_uses_are_warned_about(self):
        for value in (10**6, -1):
            code, text, said = self.answer(self.canary(("tokenizer.ggml.padding_token_id", "i32", value)))
            self.assertEqual((code, text), (0, "CAT\n"))
            self.assertEqual(said.count("warning"), 1, said)
            self.assertIn("tokenizer.ggml.padding_token_id", said)

    def test_a_file_type_that_contradicts_the_tensors(self):
        path = self.canary(("general.file_type", "u32", 15))
        code, text, said = self.answer(path)
        self.assertEqual((code, text, said.count("warning")), (0, "CAT\n", 1), said)
        checked = self.json("inspect", path, "--check")
        self.assertEqual((checked["valid"], len(checked["warnings"])), (True, 1))
        self.assertIn("says Q4_K_M, but most weights are F16", checked["warnings"][0])
        self.assertEqual(self.json("inspect", path)["card"]["quantization"], "mostly F16")
        self.assertEqual(self.json("inspect", "canary")["card"]["quantization"], "F16")
        self.assertEqual(self.answer("canary")[2].count("warning"), 0)

    def test_rope_scaling_is_applied_or_refused_by_name(self):
        magnitude = ("llama.rope.scaling.attn_factor", "f32", 1.5)
        linear = [("llama.rope.scaling.type", "str", "linear"), ("llama.rope.scaling.factor", "f32", 2)]
        words = ["--raw", "--logprobs", "1", "-n", "1", "--json", "-p", "upper cat"]
        logprobs = {json.loads(self.ok("run", self.canary(*changes), *words))["tokens"][0]["top"][0]["logprob"]
                    for changes in ([], [magnitude], linear, [*linear, magnitude])}  # fmt: skip
        self.assertEqual(len(logprobs), 4)
        for key in ("yarn_ext_factor", "yarn_beta_fast", "spiral_factor"):
            path = self.canary(*linear, (f"llama.rope.scaling.{key}", "f32", 0.5))
            self.assertIn(f"llama.rope.scaling.{key}", self.refused("run", path, "-p", "x"))

    def test_a_context_beyond_the_models(self):
        code, text, said = self.answer("canary", "-c", "257")
        self.assertEqual((code, text, said.count("warning")), (0, "CAT\n", 1))
        self.assertIn("257 positions is longer than the 256", said)
        self.assertNotIn("warning", self.answer("canary", "-c", "256")[2])

    def test_two_bos(self):
        bos = self.json("tokenize", "canary", "-p", "")["pieces"][0]
        said = plumb("run", "canary", "--raw", "-p", bos + "a", "-n", "1").stderr.decode()
        self.assertEqual(said.count("warning"), 1, said)
        self.assertIn(f"begins with {bos}", said)
        for words in (["--raw", "-p", "a"], ["-p", bos + "a"]):
            self.assertNotIn("warning", plumb("run", "canary", *words, "-n", "1").stderr.decode())

    def test_a_prompt_longer_than_the_context(self):
        ids = ",".join(["5"] * 200)
        for command in (["run"], ["diagnose", "--backend", "cpu"], ["trace", "-o", self.path / "t"]):
            message = self.refused(*command, "canary", "--tokens", ids, "-c", "100")
            self.assertIn("the prompt has 200 tokens, and the context has room for 100", message)
            enough = re.search(r"-c (\d+)", message).group(1)
            done = plumb(*command, "canary", "--tokens", ids, "-c", enough)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_what_runs_is_described(self):
        bench = self.json("bench", "canary", "-t", "3", "-p", "2", "-n", "1", "-r", "1", "--backend", "cpu")
        self.assertEqual(bench["threads"], 3)
        self.assertIn(", 3 threads", bench["description"])
        self.assertIn(", 3 threads:", plumb("run", "canary", "-p", "x", "-t", "3", "--backend", "cpu").stderr.decode())

    def test_the_template_for_tools(self):
        path = self.canary(("tokenizer.chat_template.tool_use", "str", "T{{ messages[0].content }}"))
        messages = self.written("m.json", '[{"role": "user", "content": "x"}]')
        tools = self.written("t.json", "[]")
        self.assertEqual(self.ok("template", path, "--messages", messages, "--tools", tools), b"Tx")
        self.assertNotEqual(self.ok("template", path, "--messages", messages), b"Tx")


class Kinds(CommandLine):
    """Each file gets a message that says what it is."""

    ONE = [("blk.0.attn_q.weight", [2], [1, 2])]

    def test_what_is_no_model(self):
        kinds = {
            "LoRA adapter": gguf([("general.type", "str", "adapter"), ("general.architecture", "str", "llama")], self.ONE),
            "importance matrix": gguf([("general.type", "str", "imatrix")], self.ONE),
            "mmproj": gguf([("general.architecture", "str", "clip")], self.ONE),
            "control vector": gguf([("general.architecture", "str", "controlvector")], self.ONE),
        }
        for kind, content in kinds.items():
            path = self.written("x.gguf", content)
            messages = self.written("m.json", "[]")
            for words in (["run", path, "-p", "x"], ["tokenize", path, "-p", "x"], ["template", path, "--messages", messages],
                          ["quantize", path, self.path / "o", "Q8_0"], ["bench", path], ["chat", path]):  # fmt: skip
                self.assertIn(kind, self.refused(*words))
            self.assertIn(kind, self.ok("inspect", path).decode())
            checked = self.json("inspect", path, "--check")
            self.assertTrue(checked["valid"])
            self.assertIn(kind, checked["warnings"][0])

    def test_a_vocabulary_is_taken_by_tokenize(self):
        vocabulary = [("general.architecture", "str", "llama"), ("tokenizer.ggml.model", "str", "llama"),
                      ("tokenizer.ggml.tokens", "arr", ("str", ["<unk>", "<s>", "</s>", "a"])),
                      ("tokenizer.ggml.scores", "arr", ("f32", [0, 0, 0, -1])),
                      ("tokenizer.ggml.token_type", "arr", ("i32", [2, 3, 3, 1]))]  # fmt: skip
        path = self.written("v.gguf", gguf(vocabulary))
        self.assertIn("'plumb tokenize' takes it", self.refused("run", path, "-p", "a"))
        self.ok("tokenize", path, "-p", "a")

    def test_a_trace_is_taken_by_diagnose(self):
        trace = self.path / "t.safetensors"
        self.ok("trace", "canary", "-p", "x", "-o", trace)
        self.assertIn("plumb diagnose MODEL --trace", self.refused("run", trace, "-p", "x"))
        self.ok("diagnose", "canary", "--trace", trace)
        model = self.written("m.gguf", CANARY)
        self.assertIn("no trace", self.refused("diagnose", "canary", "--trace", model))

    def test_a_later_part_of_a_set(self):
        second = gguf([("split.no", "u16", 1), ("split.count", "u16", 2), ("split.tensors.count", "i32", 1)], self.ONE)
        path = self.written("m-00002-of-00002.gguf", second)
        self.assertIn("fetch the whole set", self.refused("run", path, "-p", "x"))
        self.written("m-00001-of-00002.gguf", second)
        self.assertIn("open the first", self.refused("run", path, "-p", "x"))

    def test_names_of_files_cannot_deceive(self):
        evil = "a\x1b[31m\u202eb\nc"
        path = self.written("x.gguf", gguf([("general.name", "str", evil), (evil, "str", evil)], [(evil, [2], [1, 2])]))
        for words in (["inspect", path], ["inspect", path, "--check"], ["inspect", path, "--tensor", evil], ["run", path, "-p", "x"]):
            done = plumb(*words)
            for byte in (b"\x1b", "\u202e".encode()):
                self.assertNotIn(byte, done.stdout + done.stderr, words)
        self.assertIn("a\\x1b[31m\\u202eb\\x0ac", self.ok("inspect", path).decode())

    def test_check_reports_everything(self):
        path = self.written("x.gguf", gguf([("general.architecture", "str", "spiral"), ("tokenizer.ggml.model", "str", "none")],
                                           [("a", [2], [1, float("inf")]), ("b", [0], []), ("c", [2, 1], [float("nan"), 1])]))  # fmt: skip
        checked = json.loads(plumb("inspect", path, "--check", "--json").stdout)
        found = " ".join(checked["problems"])
        for words in ("'spiral'", "tokenizer.ggml.model", "tensor 'a' at byte", "the first at row 0, column 1", "tensor 'c'"):
            self.assertIn(words, found)
        self.assertIn("tensor 'b' has a dimension of 0", checked["warnings"][0])
        several = self.written("y.gguf", CANARY.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight").replace(
            b"blk.2.attn_k.weight", b"blk.2.attn_y.weight"))  # fmt: skip
        problems = json.loads(plumb("inspect", several, "--check", "--json").stdout)["problems"]
        self.assertEqual(len(problems), 4, problems)  # two are missing, two have no role


    def test_check_goes_on_past_wrong_keys(self):
        def problems(whole, *changes):
            path = self.written("x.gguf", edited(whole, *changes))
            found = json.loads(plumb("inspect", path, "--check", "--json").stdout)["problems"]
            return [problem.removeprefix(f"{path}: ") for problem in found]

        # What follows from a wrong key is no problem of its own.
        for key in ("vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
                    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"):  # fmt: skip
            for type, value in (("u32", 0), ("str", "x"), ("f32", float("nan"))):
                found = problems(CANARY, (f"llama.{key}", type, value))
                self.assertEqual(len(found), 1, found)
                self.assertIn(f"llama.{key}", found[0])
        # A block that is not there, and one wrong shape for each tensor that has one.
        self.assertEqual(len(problems(CANARY, ("llama.block_count", "u32", 4))), 9)
        self.assertEqual(len(problems(CANARY, ("llama.feed_forward_length", "u32", 1))), 9)
        several = CANARY.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight")
        found = problems(several, ("llama.embedding_length", "str", "x"), ("llama.rope.freq_base", "f32", -1),
                         ("llama.nextn_predict_layers", "u32", 4), ("llama.attention.layer_norm_rms_epsilon", None, None),
                         ("llama.rope.scaling.spiral", "f32", 2), ("llama.attention.causal", "bool", False))  # fmt: skip
        expected = ("llama.nextn_predict_layers", "llama.attention.causal", "llama.embedding_length", "layer_norm_rms_epsilon",
                    "llama.rope.freq_base", "llama.rope.scaling.spiral", "'blk.1.attn_q.weight' is missing; architecture llama needs it",
                    "'blk.1.attn_x.weight' has no role")  # fmt: skip
        self.assertEqual(len(found), len(expected), found)
        for words, problem in zip(expected, found, strict=True):
            self.assertIn(words, problem)
        # Experts whose width is not known.
        found = problems(CANARY, ("llama.embedding_length", "u32", 0), ("llama.feed_forward_length", "u32", 0), ("llama.expert_count", "u32", 4))
        self.assertIn("llama.expert_used_count", str(found))


class Endings(CommandLine):
    """Signals, and files that shrink while they are read."""

    def wait_for(self, found, process, seconds=60):
        end = time.monotonic() + seconds
        while not found():
            self.assertIsNone(process.poll(), "ended too early")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)

    def test_no_temporary_file_stays_behind(self):
        model = self.written("m.gguf", CANARY)
        temporary = self.path / "tmp"
        temporary.mkdir()
        commands = {
            "synth": ["synth", "smollm2-135m", "F32", "-o", self.path / "out"],
            "diagnose": ["diagnose", model, "-p", "x " * 60, "--steps", "120", "--backend", "reference"],
            "trace": ["trace", model, "-p", "x " * 60, "--steps", "120", "--backend", "reference", "-o", self.path / "out"],
        }
        for name, words in commands.items():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                if name != "synth" and number == signal.SIGHUP:
                    continue
                with self.subTest(command=name, signal=number):
                    process = started(*words, env={**os.environ, "TMPDIR": str(temporary)})
                    written = lambda: [*temporary.iterdir(), *self.path.glob("out*")]  # noqa: E731
                    self.wait_for(written, process)
                    process.send_signal(number)
                    _, said = process.communicate(timeout=60)
                    caught = number == signal.SIGINT and name == "trace"  # which says that nothing was written
                    self.assertEqual(process.returncode, 2 if caught else 128 + number, said)
                    self.assertEqual(written(), [])

    def test_ctrl_c_ends_run_with_130(self):
        words = ["run", "canary", "--raw", "-p", "upper cat", "--temp", "5", "-c", "8000", "-l", "2=-inf", "-t", "1"]
        for more in ([], ["--json"]):
            process = started(*words, *more)
            process.stderr.readline() if more else process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            text, said = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130, said)
            if more and text:  # nothing, if it ended before the prompt was read
                self.assertEqual(json.loads(text)["stop_reason"], "interrupted")
            elif not more:
                self.assertTrue(text.endswith(b"\n"))
                self.assertIn(b"interrupted", said)

    def shrunk(self, path, words, ready, then):
        """Truncates `path` once the program waits for its input, and returns what it says then."""
        process = started(*words, stdin=subprocess.PIPE)
        self.wait_for(lambda: ready(process), process)
        os.truncate(path, 0)
        _, said = process.communicate(then, timeout=60)
        self.assertEqual(process.returncode, 2, said)
        return said.decode()

    def maps(self, path):
        return lambda process: str(path) in pathlib.Path(f"/proc/{process.pid}/maps").read_text()

    @unittest.skipUnless(os.path.exists("/proc/self/maps"), "needs /proc")
    def test_a_trace_that_is_truncated_while_it_is_read(self):
        trace = self.path / "t.safetensors"
        self.ok("trace", "canary", "-p", "x", "-o", trace)
        said = self.shrunk(trace, ["diagnose", "canary", "--trace", trace, "-f", "-"], self.maps(trace), b"x")
        self.assertIn(f"plumb: {trace}: cannot be read any more", said)

    @unittest.skipUnless(os.path.exists("/proc/self/maps"), "needs /proc")
    def test_a_model_that_is_truncated_while_it_runs(self):
        model = self.written("m.gguf", CANARY)
        process = started("chat", model, "--temp", "0", stdin=subprocess.PIPE)
        for line in process.stderr:
            if b"Ctrl-D ends" in line:
                break
        os.truncate(model, 0)
        _, said = process.communicate(b"upper cat\n", timeout=60)
        self.assertEqual(process.returncode, 2, said)
        self.assertIn(f"plumb: {model}: cannot be read any more", said.decode())


class Terminal(CommandLine):
    def on_terminal(self, *words, **variables):
        """What the program writes where both stdout and stderr are a terminal."""
        ours, theirs = pty.openpty()
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
        process = subprocess.Popen([PLUMB, *map(str, words)], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                                   env={**environment, **variables})  # fmt: skip
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65536):
                written += chunk
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        process.wait(timeout=60)
        return written

    def test_text_of_files_and_models_cannot_command_the_terminal(self):
        evil, shown = "a\x1b[31m\u202eb\tc\nd", b"a\\x1b[31m\\u202eb\tc\r\nd"
        template = self.written("t.jinja", evil)
        messages = self.written("m.json", "[]")
        model = self.written("m.gguf", spelling(A=evil))
        ids = ",".join(str(token["id"]) for token in self.json("run", model, "-p", "upper cat", "--temp", "0")["tokens"])
        for words, before, after in ((["template", template, "--messages", messages], b"", b""),
                                     (["template", "canary", "--messages", messages, "--template", template], b"", b""),
                                     (["tokenize", model, "--decode", ids], b"C", b"T"),
                                     (["run", model, "-p", "upper cat", "--temp", "0"], b"C", b"T")):  # fmt: skip
            sent = self.on_terminal(*words, TERM="xterm")
            self.assertTrue(sent.startswith(before + shown + after), sent)
            self.assertNotIn(b"\x1b", sent)
            self.assertEqual(self.ok(*words).decode().replace("</s>", "").rstrip("\n"), before.decode() + evil + after.decode())

    def test_a_character_that_comes_in_parts_is_shown_whole(self):
        model = self.written("m.gguf", spelling(C=b"c\xf0\x9f", A=b"\x90", T=b"\x95", D=b"d\xc3", O=b"oo", G=b"\xf0\x9f"))
        for word, shown in (("cat", "c\U0001f415\r\n"), ("dog", "d\\xc3oo\\xf0\\x9f\r\n")):
            sent = self.on_terminal("run", model, "-p", f"upper {word}", "--temp", "0", TERM="xterm")
            self.assertTrue(sent.startswith(shown.encode()), sent)

    def test_styles_only_where_they_are_wanted(self):
        words = ["diagnose", "canary", "-p", "x", "--backend", "cpu"]
        self.assertIn(b"\x1b[1m", self.on_terminal(*words, TERM="xterm"))
        self.assertIn(b"\x1b[1m", self.on_terminal(*words, TERM="xterm", NO_COLOR=""))
        for variables in ({"TERM": "dumb"}, {}, {"TERM": "xterm", "NO_COLOR": "1"}):
            self.assertNotIn(b"\x1b[1m", self.on_terminal(*words, **variables), variables)

    def test_the_bar_is_gone_before_results_come(self):
        words = ["bench", "canary", "-p", "64", "-n", "200", "-r", "4", "--backend", "reference", "-t", "1"]
        drawn = self.on_terminal(*words, TERM="xterm")
        if b"bench [" in drawn:  # a fast machine draws none
            bar, results = drawn.rsplit(b"\r\x1b[K", 1)
            self.assertNotIn(b"prefill", bar)
            self.assertIn(b"prefill", results)
        self.assertNotIn(b"\x1b", self.on_terminal(*words, TERM="dumb"))


@unittest.skipUnless(FAULTS.is_dir(), "needs ../shared/data/faults")
class Faults(CommandLine):
    def file(self, name):
        return FAULTS / f"{name}.gguf"

    def test_those_that_run(self):
        for name in ("token-type-u32", "freq-base-u32", "head-count-kv-array", "padding-id-72-of-72", "zero-dim",
                     "file-type-q4-of-f32", "named-template-tool-use"):  # fmt: skip
            done = plumb("run", self.file(name), "--tokens", "1,5", "-n", "1", "--temp", "0", "--backend", "reference")
            self.assertEqual(done.returncode, 0, (name, done.stderr))
            self.assertEqual(done.stderr.count(b"warning"), int(name in ("padding-id-72-of-72", "file-type-q4-of-f32")), name)

    def test_attn_factor(self):
        whole = self.file("attn-factor-linear").read_bytes()
        without = self.written("m.gguf", edited(whole, ("llama.rope.scaling.attn_factor", None, None)))
        words = ["--raw", "-p", "hello", "-n", "1", "--logprobs", "1", "--backend"]
        for backend in ("reference", "cpu"):
            tops = [self.json("run", path, *words, backend)["tokens"][0]["top"][0]["logprob"]
                    for path in (self.file("attn-factor-linear"), without)]  # fmt: skip
            self.assertGreater(abs(tops[0] - tops[1]), 1e-3, backend)

    def test_keys_that_overflow_the_cache(self):
        words = ["run", self.file("key-70000"), "--tokens", "1,5", "-n", "2", "--temp", "0"]
        self.assertIn("--kv-type f32", self.refused(*words))
        self.ok(*words, "--kv-type", "f32")

    def test_those_that_are_told_apart(self):
        for name, words in {"lora": "LoRA adapter", "imatrix": "importance matrix", "truncated-header": "cut short"}.items():
            self.assertIn(words, self.refused("run", self.file(name), "-p", "x"))
        self.assertIn("says Q4_K_M, but most weights are F32", str(self.json("inspect", self.file("file-type-q4-of-f32"), "--check")))
        self.assertIn("1 infinite", plumb("inspect", self.file("weight-inf"), "--check").stderr.decode())
        self.assertIn("dimension of 0", str(self.json("inspect", self.file("zero-dim"), "--check")["warnings"]))

    def test_the_template_for_tools(self):
        messages, tools = FAULTS / "named-template-messages.json", FAULTS / "named-template-tools.json"
        path = self.file("named-template-tool-use")
        self.assertTrue(self.ok("template", path, "--messages", messages, "--tools", tools).startswith(b"T"))
        self.assertTrue(self.ok("template", path, "--messages", messages).startswith(b"D"))

    def test_a_weight_that_is_too_large(self):
        for type, words in (("F16", "too large for F16"), ("BF16", None), ("Q8_0", None), ("Q5_1", None)):
            done = plumb("quantize", self.file("weight-3e38"), self.path / "o.gguf", type)
            if words:
                self.assertEqual(done.returncode, 2)
                self.assertIn(words, done.stderr.decode())
                self.assertEqual(list(self.path.iterdir()), [])
            else:
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotIn(b"infinite", plumb("inspect", self.path / "o.gguf", "--check").stderr)
                (self.path / "o.gguf").unlink()


if __name__ == "__main__":
    unittest.main()
