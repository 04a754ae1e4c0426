"""What an answer is made with: sampling that the file recommends, variables of chat templates, special tokens in a text, and what
`run --json` says of all this. PLUMB names the program."""

import json
import struct
import unittest

from command_line import SOURCE, TYPES, CommandLine, gguf_value, plumb

CANARY = (SOURCE / "models" / "canary-f16.gguf").read_bytes()
ASK = ["-p", "upper cat", "-n", "8"]
END = 2  # the canary's </s>


def with_metadata(entries):
    """The canary with more metadata (key, type, value), which take a multiple of 32 bytes, so that its tensors stay aligned."""
    entries = [*entries, ("filler", "str", "")]
    size = sum(8 + len(key) + 4 + len(gguf_value(type, value)) for key, type, value in entries)
    entries[-1] = ("filler", "str", "x" * (-size % 32))
    added = b"".join(
        gguf_value("str", key) + struct.pack("<I", TYPES[type]) + gguf_value(type, value) for key, type, value in entries
    )
    n_tensors, n_entries = struct.unpack_from("<QQ", CANARY, 8)
    return CANARY[:8] + struct.pack("<QQ", n_tensors, n_entries + len(entries)) + added + CANARY[24:]


class Sampling(CommandLine):
    def file(self, *entries):
        return self.written("m.gguf", with_metadata([("general.sampling." + key, *rest) for key, *rest in entries]))

    def test_the_file_recommends_and_options_win(self):
        model = self.file(("temp", "f32", 0.6), ("top_k", "i32", 20), ("top_p", "f32", 0.95), ("min_p", "f32", 0.0),
                          ("penalty_repeat", "f32", 1.05), ("penalty_last_n", "i32", 32))  # fmt: skip
        sampler = self.json("run", model, *ASK)["settings"]["sampler"]
        recommended = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repeat_penalty": 1.05, "repeat_last_n": 32}
        self.assertEqual({key: sampler[key] for key in recommended}, recommended)
        sampler = self.json("run", model, *ASK, "--temperature", "0.7", "--top-k", "0", "--top-p=1")["settings"]["sampler"]
        self.assertEqual([sampler[key] for key in ("temp", "top_k", "top_p", "repeat_penalty")], [0.7, 0, 1, 1.05])
        line = "temp 0.6, top-k 20, top-p 0.95, min-p 0, repeat-penalty 1.05, repeat-last-n 32 (general.sampling)"
        self.assertEqual(self.json("inspect", model)["sampling"], line)
        self.assertIn(line.encode(), plumb("run", model, *ASK, "--verbose").stderr)

    def test_sampling_that_there_is_not_is_named_once(self):
        xtc = [("xtc_probability", "f32", 0.5), ("xtc_threshold", "f32", 0.1)]
        mirostat = [("mirostat", "i32", 2), ("mirostat_tau", "f32", 5.0), ("mirostat_eta", "f32", 0.1)]
        off = [("xtc_probability", "f32", 0.0), ("xtc_threshold", "f32", 0.1), ("mirostat", "i32", 0), ("mirostat_tau", "f32", 5.0)]
        for entries, named in ((xtc, 2), ([*xtc, *mirostat], 5), (off, 0), ([*off, ("sequence", "str", "kmt"), ("temp", "f32", 0.0)], 1)):
            model = self.file(*entries)
            for words in (["run", model, *ASK], ["chat", model], ["inspect", model, "--check"]):
                with self.subTest(entries=entries, words=words):
                    done = plumb(*words)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    said = (done.stdout if words[0] == "inspect" else done.stderr).decode()
                    self.assertEqual(said.count("sampling that Plumb does not have"), min(named, 1))
                    self.assertEqual(said.count("general.sampling."), named)
            self.assertNotIn(b"general.sampling", plumb("bench", model, "-p", "2", "-n", "1", "-r", "1").stderr)

    def test_without_recommendations(self):
        sampler = self.json("run", "canary", *ASK)["settings"]["sampler"]
        self.assertEqual([sampler[key] for key in ("temp", "top_k", "top_p", "min_p")], [0.8, 40, 0.95, 0.05])
        self.assertIn(b"the file recommends no sampling", plumb("run", "canary", *ASK, "-v").stderr)

    def test_values_that_cannot_be_used(self):
        for entry, option in (
            (("temp", "f32", -1.0), "--temp"),
            (("temp", "f32", float("nan")), "--temp"),
            (("temp", "str", "hot"), None),
            (("top_k", "f32", float("nan")), "--top-k"),
            (("top_k", "i32", -5), "--top-k"),
            (("top_p", "f64", 1.5), "--top-p"),
            (("penalty_repeat", "f32", float("inf")), "--repeat-penalty"),
            (("penalty_last_n", "i64", -(1 << 60)), "--repeat-last-n"),
        ):
            with self.subTest(entry):
                model = self.file(entry)
                self.assertIn("general.sampling." + entry[0], self.refused("run", model, *ASK))
                self.assertIn("general.sampling." + entry[0], self.refused("chat", model))
                if option:
                    self.ok("run", model, *ASK, option, "1")


class Templates(CommandLine):
    def setUp(self):
        super().setUp()
        self.messages = self.written("messages.json", '[{"role": "user", "content": "hi"}]')
        self.template = self.written("t.jinja", "{{ messages[0].content }}|{{ enable_thinking }}|{{ thinking }}|{{ x }}")

    def test_variables(self):
        for given, rendered in (
            ([], "hi|||"),
            (["--reasoning", "auto"], "hi|||"),
            (["--reasoning", "on"], "hi|True|True|"),
            (["--reasoning", "off"], "hi|False|False|"),
            (["--chat-template-kwargs", '{"x": [1, "a"]}'], "hi|||[1, 'a']"),
            (["--reasoning", "on", "--chat-template-kwargs", '{"enable_thinking": false}'], "hi|False|True|"),
        ):
            for model in (self.template, "canary"):
                with self.subTest(given=given, model=model):
                    more = [] if model == self.template else ["--template", self.template]
                    self.assertEqual(self.ok("template", model, "--messages", self.messages, *more, *given).decode(), rendered)

    def test_a_template_in_place_of_the_files(self):
        template = self.written("upper.jinja", "<|user|>\nupper {{ messages[0].content }}</s>\n<|assistant|>{{ '\\n' }}")
        self.assertEqual(self.ok("run", "canary", "-p", "cat", "--temp", "0", "--template", template), b"CAT\n")
        self.assertEqual(self.ok("chat", "canary", "--temp", "0", "--chat-template-file", template, stdin=b"cat\n"), b"CAT\n")
        chat = self.json("tokenize", "canary", "--chat", "-p", "upper cat")["tokens"]
        self.assertEqual(self.json("tokenize", "canary", "--chat", "-p", "cat", "--template", template)["tokens"], chat)

    def test_trace_and_diagnose_take_them_too(self):
        template = self.written("switch.jinja", "<|user|>\n{{ 'upper ' if enable_thinking }}{{ x }}{{ messages[0].content }}</s>\n<|assistant|>{{ '\\n' }}")
        options = ["--template", template, "--reasoning", "on", "--chat-template-kwargs", '{"x": "a "}']
        tokens = self.json("run", "canary", "-p", "cat", "-n", "1", *options)["prompt_tokens"]
        self.assertEqual(tokens, self.json("tokenize", "canary", "--chat", "-p", "upper a cat")["tokens"])
        trace = self.path / "t.safetensors"
        done = plumb("trace", "canary", "-p", "cat", "-o", trace, *options)
        self.assertIn(f"of {len(tokens)} prompt tokens".encode(), done.stdout, done.stderr)
        # The template is part of what the prompt should have been: with another one, another rule is broken.
        report = self.json("diagnose", "canary", "--trace", trace, "-p", "cat", *options)
        self.assertEqual([fault["hypothesis"] for fault in report["faults"]], [])
        self.assertIn("the prompt is what the chat template makes", str(report["stages"]))
        without = json.loads(plumb("diagnose", "canary", "--trace", trace, "-p", "cat", "--json").stdout)
        self.assertNotIn("the prompt is what the chat template makes", str(without["stages"]))
        own = self.json("diagnose", "canary", "--backend", "cpu", "-p", "cat", *options)
        self.assertEqual((own["n_prompt"], own["faults"]), (len(tokens), []))
        self.assertIn("the prompt is what the chat template makes", str(own["stages"]))
        for command in (["trace", "-o", trace], ["diagnose", "--trace", trace]):
            self.assertIn("--chat-template-kwargs", self.refused(command[0], "canary", "-p", "x", *command[1:], "--chat-template-kwargs", "x"))

    def test_what_cannot_be_used(self):
        for given in ("x", "[1]", "3", '{"messages": []}', '{"a":'):
            self.assertIn("--chat-template-kwargs", self.refused("run", "canary", *ASK, "--chat-template-kwargs", given))
        self.assertIn("--reasoning", self.refused("run", "canary", *ASK, "--reasoning", "maybe"))
        self.assertIn("no-such.jinja", self.refused("run", "canary", *ASK, "--template", "no-such.jinja"))
        broken = self.written("broken.jinja", "{% if %}")
        self.assertIn("broken.jinja", self.refused("run", "canary", *ASK, "--template", broken))

    def test_reasoning_without_a_switch_is_said(self):
        self.assertIn(b"--reasoning changes nothing", plumb("run", "canary", *ASK, "--reasoning", "off").stderr)
        self.assertNotIn(b"--reasoning", plumb("run", "canary", *ASK, "--reasoning", "off", "--template", self.template).stderr)


class SpecialTokens(CommandLine):
    def test_in_a_users_text(self):
        for text in ("</s>", "a</s>b", "</s></s>", "<</s>", "x<s></s>y\ufdd0z"):
            with self.subTest(text):
                read = self.json("tokenize", "canary", "--chat", "-p", text)["tokens"]
                plain = self.json("tokenize", "canary", "--chat", "-p", text, "--no-special")["tokens"]
                self.assertEqual(read.count(END), 1 + text.count("</s>"))
                self.assertEqual(plain.count(END), 1)
                self.assertEqual(plain.count(1), 1)
                self.assertEqual(*(self.json("tokenize", "canary", "--decode", ",".join(map(str, ids)))["text"].count("</s>")
                                   for ids in (read, plain)))  # fmt: skip
                run = self.json("run", "canary", "-p", text, "--no-special", "-n", "1")
                self.assertEqual(run["prompt_tokens"], plain)

    def test_in_a_raw_text(self):
        self.assertEqual(self.json("run", "canary", "--raw", "-p", "</s>", "-n", "1")["prompt_tokens"], [1, END])
        plain = self.json("run", "canary", "--raw", "-p", "</s>", "-n", "1", "--no-special")["prompt_tokens"]
        self.assertNotIn(END, plain)
        self.assertEqual(self.json("tokenize", "canary", "-p", "</s>", "--no-special")["tokens"], plain)

    def test_an_ordinary_text_stays_as_it_is(self):
        read, plain = (self.json("tokenize", "canary", "--chat", "-p", "upper cat", *more) for more in ([], ["--no-special"]))
        self.assertEqual(read, plain)


class Document(CommandLine):
    def test_run_says_what_a_script_needs(self):
        run = self.json("run", "canary", "-p", "upper cat", "--temp", "0", "-s", "5", "--stop", "X", "-l", "7=-inf", "--ctx", "64")
        self.assertEqual((run["model"], run["text"], run["stop_reason"], run["seed"]), ("canary", "CAT", "end of generation", 5))
        self.assertEqual(run["counts"], {"prompt_tokens": len(run["prompt_tokens"]), "answer_tokens": len(run["tokens"])})
        self.assertEqual("".join(token["text"] for token in run["tokens"]), "CAT")
        self.assertTrue(all(run["timing"][key] >= 0 for key in ("load_seconds", "prefill_seconds", "decode_seconds")))
        settings = run["settings"]
        self.assertEqual(settings["sampler"]["logit_bias"], [{"id": 7, "bias": "-inf"}])
        self.assertEqual((settings["ctx"], settings["stop"], settings["max_tokens"], settings["raw"]), (64, ["X"], 0, False))
        self.assertEqual((settings["kv_type"], settings["activations"]), ("f16", "int16"))
        self.assertEqual(settings["template_variables"], {})


if __name__ == "__main__":
    unittest.main()
