"""The program as a user or a script sees it: its output on stdout and stderr, and its exit codes. PLUMB names the program."""

import hashlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from command_line import PLUMB, SOURCE, CommandLine, plumb

CANARY = SOURCE / "models" / "canary-f16.gguf"


class Commands(CommandLine):
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
        for token in ("375", "99999", "-1", "1,375"):
            self.assertIn("outside the vocabulary", self.refused("tokenize", "canary", f"--decode={token}"))
        self.assertEqual(self.ok("tokenize", "canary", "--decode", "374"), b"~\n")
        self.assertEqual(self.ok("tokenize", "canary", "--decode", "0,2,345"), b"<unk></s>a\n")
        self.assertEqual(self.ok("tokenize", "canary", "-p", "a"), "     1  <s>\n   280  \u2581\n   345  a\n".encode())
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
        self.assertIn("room for 64;", self.refused("run", "canary", "-p", "word " * 200, "--ctx", "64"))

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
        self.assertEqual([document[key] for key in ("model", "depth", "streams")], ["canary", 0, 1])
        self.assertEqual([document[phase]["tokens"] for phase in ("prefill", "decode")], [32, 8])
        # Each matrix once, and a row of the table of embeddings.
        sizes = {tensor["name"]: tensor["bytes"] for tensor in self.json("inspect", "canary")["tensors"]}
        table = sizes.pop("token_embd.weight")
        self.assertEqual(document["bytes_per_token"], sum(sizes.values()) + table // 375)
        # Of experts, those that a token chooses: 2 of 4.
        mixture = SOURCE / "tests" / "data" / "model" / "mixtral.gguf"
        sizes = {tensor["name"]: tensor["bytes"] for tensor in self.json("inspect", mixture)["tensors"]}
        chosen = sum(size / 2 if "_exps." in name else size for name, size in sizes.items() if name != "token_embd.weight")
        document = self.json("bench", mixture, "-p", "4", "-n", "2", "-r", "1")
        self.assertEqual(document["bytes_per_token"], chosen + sizes["token_embd.weight"] // 72)
        # The median of two is their mean; a step reads the weights once, however many streams it has.
        for arguments, streams in ((("-r", "2"), 1), (("-r", "2", "-s", "3"), 3), (("-r", "1"), 1), (("-r", "3"), 1)):
            document = self.json("bench", "canary", "-p", "4", "-n", "16", *arguments)
            low, middle, high = (document["decode"]["tps_" + key] for key in ("min", "median", "max"))
            if arguments[1] != "3":
                self.assertAlmostEqual(middle, (low + high) / 2)
            self.assertTrue(low <= middle <= high)
            self.assertEqual(low == high, arguments[1] == "1")
            self.assertAlmostEqual(document["bandwidth_gbs"], document["bytes_per_token"] * middle / streams / 1e9)
        for empty, other, arguments in (("prefill", "decode", ("-p", "0", "-n", "1")), ("decode", "prefill", ("-p", "1", "-n", "0"))):
            document = self.json("bench", "canary", *arguments, "-r", "1")
            self.assertEqual(document[empty], {"tokens": 0, "tps_median": 0, "tps_min": 0, "tps_max": 0})
            self.assertGreater(document[other]["tps_min"], 0)

    def test_bench_needs_room(self):
        for arguments, needed in ((("-p", "20", "-n", "5"), 21), (("-p", "5", "-n", "20"), 21), (("-p", "5", "-n", "20", "-d", "7"), 28)):
            self.assertIn(f"at least {needed}", self.refused("bench", "canary", *arguments, "-r", "1", "--ctx", needed - 1))
            self.ok("bench", "canary", *arguments, "-r", "2", "--ctx", needed)
        self.assertIn("512 tokens", self.refused("bench", "canary", "-p", "0", "-n", "1", "-s", "513"))


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
            self.assertEqual((len(tokens), metadata["model_sha256"]), (13, hashlib.sha256(CANARY.read_bytes()).hexdigest()))
            version = self.ok("--version").decode().strip()
            self.assertEqual((metadata["engine"], metadata["prompt"]), (f"plumb {version} (cpu)", "1"))
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
            model = self.path / "named.gguf"
            self.ok("quantize", "canary", model, "Q8_0")
            self.ok("trace", model, "--tokens", "1,300", "-o", path)
            data = path.read_bytes()
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            self.assertEqual((metadata["model"], metadata.get("prompt", "")), ("named.gguf", ""))
            self.assertEqual(metadata["model_sha256"], hashlib.sha256(model.read_bytes()).hexdigest())
            self.assertEqual(json.loads(metadata["tokens"])[:2], [1, 300])
            self.assertEqual(os.listdir(folder), ["t.safetensors"])

    def test_devices_json(self):
        proc = lambda name: pathlib.Path("/proc", name).read_text().splitlines()  # noqa: E731
        document = json.loads(self.ok("devices", "--quick", "--json"))
        self.assertTrue({"cpu", "reference"} <= {b["name"] for b in document["backends"] if b["present"]})
        self.assertEqual([b["name"] for b in document["backends"]], ["cuda", "metal", "cpu", "reference", "checker"])
        for backend in document["backends"]:
            self.assertTrue(backend["description" if backend["present"] else "reason"])
        self.assertNotIn("read_bandwidth_gbs", document)
        self.assertEqual(document["cores"], len(os.sched_getaffinity(0)))
        self.assertEqual(document["memory_bytes"], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE"))
        (available,) = [line for line in proc("meminfo") if line.startswith("MemAvailable:")]
        ratio = document["available_bytes"] / (int(available.split()[1]) * 1024)
        self.assertTrue(0.5 < ratio < 1.5 and ratio != 1000 / 1024, ratio)
        flags = {}
        for line in proc("cpuinfo"):
            key, _, value = line.partition(":")
            flags.setdefault(key.strip(), value.strip())
        self.assertEqual(document["processor"], flags.get("model name", ""))
        for flag, feature in (("avx2", "AVX2"), ("fma", "FMA"), ("avx512f", "AVX-512F"), ("avx512bw", "AVX-512BW"),
                              ("avx512_vnni", "AVX-512 VNNI"), ("avx512_bf16", "AVX-512 BF16")):  # fmt: skip
            self.assertEqual(feature in document["features"], flag in flags.get("flags", "").split(), feature)
        shown = self.ok("devices", "--quick").decode()
        self.assertNotIn("bandwidth", shown)
        self.assertIn(f"{document['cores']} cores usable\n", shown)

    def test_devices_measures_the_cores_that_it_may_use(self):
        one = lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # noqa: E731
        document = json.loads(self.ok("devices", "--json", preexec_fn=one))
        self.assertEqual(document["cores"], 1)
        self.assertTrue(0.01 < document["read_bandwidth_gbs"] < 10_000, document["read_bandwidth_gbs"])
        self.assertRegex(self.ok("devices", preexec_fn=one), rb"bandwidth  [0-9.]+ GB/s read from memory by 1 threads")

    def test_chat_reads_lines_and_answers_each(self):
        answers = self.ok("chat", "canary", "--temp", "0", stdin=b"1\nupper cat\n/reset\nupper dog\n")
        self.assertEqual(answers.splitlines()[0], b"1")
        self.assertEqual(answers.splitlines()[-1], b"DOG")

    def test_a_text_is_read_byte_for_byte(self):
        raw = b"a\r\n\0\xff\n"
        ids = [280, 345, 16, 13, 3, 258, 13]
        for source in (self.written("text", raw), "-"):
            self.assertEqual(self.json("tokenize", "canary", "--no-bos", "-f", source, stdin=raw)["tokens"], ids)
        self.assertEqual(self.json("tokenize", "canary", "-p", "")["tokens"], [1])
        self.assertIn("cannot be read", self.refused("tokenize", "canary", "-f", self.path))
        self.assertIn("cannot be opened", self.refused("tokenize", "canary", "-f", self.path / "absent"))

    def test_what_excludes_each_other_is_refused(self):
        text, file, tokens = ("-p", "1"), ("-f", self.written("text", "1")), ("--tokens", "1")
        for command in ("run", "diagnose", "trace"):
            more = ("-o", self.path / "t") if command == "trace" else ()
            for pair in ((text, file), (text, tokens), (file, tokens)):
                self.assertIn("excludes", self.refused(command, "canary", *more, *pair[0], *pair[1]))
        for pair in ((text, file), (text, ("--decode", "1")), (file, ("--decode", "1"))):
            self.assertIn("excludes", self.refused("tokenize", "canary", *pair[0], *pair[1]))

    def test_bounds_of_numbers(self):
        model = ("canary", "-p", "1", "--temp", "0")
        for arguments, good, bad in (
            (("run", *model, "--threads"), (0, 1, 1024), (-1, 1025, "x", "1.5", "")),
            (("run", *model, "--ctx"), (13, 300), (-1, 11, (16 << 20) + 1)),
            (("run", *model, "-n"), (-1, 0, 1), (-2, 2**32, "x")),
            (("run", *model, "--logprobs"), (0, 375, 376), (-1,)),
            (("run", *model, "--top-k"), (0, 1), (-1,)),
            (("run", *model, "--top-p"), (0, 1), (-0.01, 1.01)),
            (("run", *model, "--min-p"), (0, 1), (-0.01, 1.01)),
            (("run", *model, "--repeat-penalty"), (0.01, 1e9), (0, -1, "inf")),
            (("run", *model, "--repeat-last-n"), (-1, 0), (-2,)),
            (("run", *model, "--presence-penalty"), (-1, 1), ("inf", "nan")),
            (("run", *model, "--frequency-penalty"), (-1, 1), ("inf", "nan")),
            (("run", *model, "--seed"), (-1, 0, 2**64 - 1), (-2, 2**64)),
            (("run", *model, "--kv-type"), ("f16", "f32"), ("f8", "F16", "")),
            (("run", *model, "--activations"), ("int8", "int16"), ("int4", "")),
            (("trace", *model[:3], "-o", self.path / "t", "--steps"), (0, 1), (-1, 4097)),
            (("diagnose", *model[:3], "--steps"), (0,), (-1, 4097)),
            (("diagnose", *model[:3], "--steps", "0", "--allow"), (0.5,), (0, -1)),
            (("bench", "canary", "-n", "1", "-p"), (0, 1), (-1, (1 << 20) + 1)),
            (("bench", "canary", "-p", "1", "-n"), (0, 1), (-1, (1 << 20) + 1)),
            (("bench", "canary", "-p", "1", "-n", "1", "-r"), (1,), (0, 1001)),
            (("bench", "canary", "-p", "1", "-n", "1", "-d"), (0, 1), (-1, (1 << 20) + 1)),
            (("bench", "canary", "-p", "0", "-n", "1", "-r", "1", "-s"), (1, 512), (0, 513, 4097)),
            (("quantize", "canary", self.path / "q.gguf", "Q8_0", "-t"), (0, 1), (-1, 1025)),
        ):
            *arguments, option = arguments
            given = (lambda value: [f"{option}={value}"]) if option.startswith("--") else (lambda value: [f"{option}{value}"])
            for value in good:
                self.ok(*arguments, *given(value))
            for value in bad:
                with self.subTest(option=option, value=value):
                    self.refused(*arguments, *given(value))

    def test_logit_biases(self):
        say = ("run", "canary", "-p", "upper cat", "--temp", "0")
        for bad in ("13", "=1", "13=", "13=1x", "13x=1", "x13=1", " 13=1", "13 =1", "13= 1", "13==1", "=", "", "13=nan", "13=inf",
                    "13=1e99", "99999999999=1", "1.5=1", "13=1=2", "13,14=1"):  # fmt: skip
            self.assertRegex(self.refused(*say, "--logit-bias", bad), "--logit-bias|logit_bias", bad)
        for outside in ("-1=1", "375=1"):
            self.assertIn("tokens 0 to 374", self.refused(*say, f"--logit-bias={outside}"))
        for good in ("0=0", "374=-inf", "13=1e3", "13=-.5"):
            self.ok(*say, "--logit-bias", good)
        # C and A: every entry counts, whatever its place, and entries of one token add up.
        self.assertNotEqual(self.ok(*say, "--logit-bias", "315=-inf", "-n", "1"), b"C\n")
        for first, second in (("374=500", "373=600"), ("373=600", "374=500")):
            self.assertEqual(self.ok(*say, "-n", "1", "--logit-bias", first, "--logit-bias", second), b"}\n")
        self.assertEqual(self.ok(*say, "-n", "1", *("--logit-bias", "374=400") * 2, "--logit-bias", "373=600"), b"~\n")

    def test_prompts_go_through_the_template_unless_they_are_raw(self):
        def prompt(*arguments):
            return self.json("run", "canary", "--temp", "0", "-n", "1", *arguments)["prompt_tokens"]

        def encoded(text):
            return self.json("tokenize", "canary", "-p", text)["tokens"]

        user = "<|user|>\nhi</s>\n<|assistant|>\n"
        self.assertEqual(prompt("-p", "hi"), encoded(user))
        self.assertEqual(self.json("tokenize", "canary", "-p", "hi", "--chat")["tokens"], encoded(user))
        self.assertEqual(prompt("-p", "hi", "--system", "be"), encoded("<|system|>\nbe</s>\n" + user))
        self.assertEqual(prompt("-p", "hi", "--raw"), encoded("hi"))
        self.assertEqual(prompt("--tokens", "5,6,300"), [5, 6, 300])

    def test_models_by_path_and_by_name(self):
        model = CANARY.read_bytes()
        for name in ("m.gguf", "plain", "folder/plain"):
            (self.path / "folder").mkdir(exist_ok=True)
            self.written(name, model)
            self.assertEqual(self.ok("run", name, "-p", "1", "--temp", "0", cwd=self.path), b"1\n")
        cache = {"PLUMB_CACHE": str(self.path / "cache")}
        (self.path / "cache" / "models").mkdir(parents=True)
        self.written("cache/models/kept.gguf", model)
        self.assertEqual(self.ok("run", "kept", "-p", "1", "--temp", "0", environment=cache), b"1\n")
        for name in ("absent.gguf", "no/absent", "./kept", "kept.gguf"):
            self.assertIn("no such file", self.refused("run", name, "-p", "1", environment=cache, cwd=self.path))
        for name in ("absent", "canar", ".lock"):
            self.assertIn("plumb pull", self.refused("run", name, "-p", "1", environment=cache, cwd=self.path))

    def test_settings_of_the_engine_reach_it(self):
        q8 = self.path / "q.gguf"
        self.ok("quantize", "canary", q8, "Q8_0")

        def logprobs(*options):
            return self.json("run", q8, "-p", "upper cat", "--temp", "0", "--logprobs", "3", *options)["tokens"]

        for one, other in (("--kv-type=f16", "--kv-type=f32"), ("--activations=int16", "--activations=int8")):
            self.assertEqual(logprobs("--backend=cpu"), logprobs("--backend=cpu", one))
            self.assertNotEqual(logprobs("--backend=cpu"), logprobs("--backend=cpu", other))

    def test_run_ends_and_reports(self):
        line = ("run", "canary", "--tokens", "1", "--temp", "0", "--logit-bias", "13=1000")
        self.assertEqual(self.ok(*line, "-n", "1"), b"\n", "the answer's own line end is enough")
        self.assertEqual(self.ok("run", "canary", "-p", "upper cat", "--temp", "0", "-n", "2"), b"CA\n")
        done = plumb("run", "canary", "-p", "upper cat", "--temp", "0")
        self.assertRegex(done.stderr.decode(), r": prompt 20 tokens, [0-9.]+ tokens/s; answer 4 tokens, [0-9.]+ tokens/s; seed [0-9]+; end of generation\n$")
        document = self.json("run", "canary", "-p", "upper cat", "--temp", "0")
        self.assertEqual([(token["piece"], token["text"]) for token in document["tokens"]],
                         [("C", "C"), ("A", "A"), ("T", "T"), ("</s>", "")])  # fmt: skip
        self.assertNotIn("logprob", document["tokens"][0])
        timing = document["timing"]
        self.assertAlmostEqual(timing["prefill_tps"] * timing["prefill_seconds"], 20, 6)
        self.assertAlmostEqual(timing["decode_tps"] * timing["decode_seconds"], 3, 6)
        self.assertEqual((document["model"], document["stop_reason"]), ("canary", "end of generation"))
        top = self.json("run", "canary", "-p", "upper cat", "--temp", "0", "--logprobs", "2")["tokens"][0]["top"]
        self.assertEqual(([len(top), top[0]["piece"]], sorted(top[0])), ([2, "C"], ["id", "logprob", "piece"]))
        self.assertEqual(self.json("run", "canary", "--tokens", "1", "--temp", "0", "--ctx", "3", "--logit-bias", "2=-inf")["stop_reason"],
                         "context full")  # fmt: skip
        for stops in (("T", "A"), ("A", "T")):
            stopped = self.json("run", "canary", "-p", "upper cat", "--temp", "0", "--stop", stops[0], "--stop", stops[1])
            self.assertEqual(stopped["text"], "C")
        self.assertIn("stop text", self.refused("run", "canary", "-p", "1", "--stop", ""))
        # A byte that is no text becomes U+FFFD in JSON.
        self.assertEqual(self.json("run", "canary", "--tokens", "1", "--temp", "0", "-n", "1", "--logit-bias", "258=1000")["text"], "\ufffd")

    def test_a_full_disk_is_an_error(self):
        trace = self.path / "t.safetensors"
        self.ok("trace", "canary", "--tokens", "5", "-o", trace, "--steps", "0")
        messages = self.written("m.json", "[]")
        for arguments in (
            ("run", "canary", "-p", "1"), ("run", "canary", "-p", "1", "--json"), ("chat", "canary"), ("inspect", "canary"),
            ("inspect", "canary", "--json"), ("inspect", "canary", "--check"), ("inspect", "canary", "--check", "--json"),
            ("inspect", "canary", "--tensor", "output.weight"), ("inspect", "canary", "--tensor", "output.weight", "--json"),
            ("tokenize", "canary", "-p", "1"), ("tokenize", "canary", "-p", "1", "--json"), ("tokenize", "canary", "--decode", "300"),
            ("template", "canary", "--messages", messages), ("quantize", "canary", self.path / "q.gguf", "Q8_0"),
            ("quantize", "canary", self.path / "q.gguf", "Q8_0", "--json"), ("bench", "canary", "-p1", "-n1", "-r1"),
            ("bench", "canary", "-p1", "-n1", "-r1", "--json"), ("trace", "canary", "--tokens", "5", "-o", trace),
            ("diagnose", "canary", "--trace", trace), ("diagnose", "canary", "--trace", trace, "--json"), ("devices", "--quick"),
            ("devices", "--quick", "--json"), ("pull", "--list"), ("pull", "--list", "--json"),
            ("selftest", "--backend", "cpu", "--quant", "F16"), ("selftest", "--backend", "cpu", "--quant", "F16", "--json"),
        ):  # fmt: skip
            with open("/dev/full", "wb") as full:
                done = plumb(*arguments, stdin=b"1\n", stdout=full, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(b"standard output cannot be written", done.stderr, arguments)

    def test_messages_give_the_terminal_no_commands(self):
        for arguments in (("run", "\x1b[2J", "-p", "1"), ("run", "canary", "--tem\x1b[2J"), ("template", "\x1b.jinja", "--messages", "x")):
            message = self.refused(*arguments)
            self.assertNotIn("\x1b", message)
            self.assertIn("\\x1b", message)

    def test_usage_and_names(self):
        self.assertRegex(self.ok("--version"), rb"^[0-9]+\.[0-9]+\.[0-9]+\n$")
        names = "run chat selftest inspect tokenize template quantize synth bench trace diagnose pull list rm ps devices completion man".split()
        self.assertEqual(self.ok("--list-commands").decode().split(), names)
        for name in names:
            self.assertIn(b"--help", self.ok(name, "--help"))
            self.assertIn(f"see 'plumb {name} --help'", self.refused(name, "--no-such-option"))
        self.assertIn("see 'plumb --help'", self.refused("frobnicate"))

    def test_template_takes_tools_and_special_tokens(self):
        messages = self.written("m.json", '[{"role": "user", "content": "hi"}]')
        source = self.written("t.jinja", "{{ bos_token }}|{{ eos_token }}|{{ tools[0].name if tools else 'none' }}")
        arguments = ("template", source, "--messages", messages)
        self.assertEqual(self.ok(*arguments), b"||none")
        tools = self.written("tools.json", '[{"name": "look"}]')
        self.assertEqual(self.ok(*arguments, "--tools", tools, "--eos", "END"), b"|END|look")
        model = self.written("m.gguf", CANARY.read_bytes().replace(b"{%- for message in messages -%}", b"{{bos_token}}{%-for m in [] -%}"))
        self.assertTrue(self.ok("template", model, "--messages", messages).startswith(b"<s>"))
        self.assertTrue(self.ok("template", model, "--messages", messages, "--bos", "B").startswith(b"B"))
        self.assertIn(b"hiE\n", self.ok("template", "canary", "--messages", messages, "--eos", "E"))
        for bad, words in (("{}", "must be a list"), ("[1,", "not valid JSON at byte 4"), ("", "not valid JSON")):
            path = self.written("bad.json", bad)
            self.assertIn(words, self.refused("template", source, "--messages", path))
            self.assertIn(words, self.refused(*arguments, "--tools", path))
        self.assertEqual(self.ok("template", source, "--messages", "-", stdin=b"[]"), b"||none")
        for size, words in ((4 << 20, "at most 1048576 are accepted"), ((4 << 20) + 1, "more than 4194304 bytes")):
            large = self.written("t.jinja", "a" * size)
            self.assertIn(words, self.refused("template", large, "--messages", messages))

    def test_quantize_reports(self):
        out, again = self.path / "q.gguf", self.path / "r.gguf"
        report = self.json("quantize", CANARY, out, "Q8_0")
        self.assertEqual([report[key] for key in ("in", "out", "type", "bytes_in", "bytes_out")],
                         [str(CANARY), str(out), "Q8_0", CANARY.stat().st_size, out.stat().st_size])  # fmt: skip
        first = report["tensors"][0]
        self.assertEqual([first[key] for key in ("name", "from", "to", "requantized", "weights")],
                         ["token_embd.weight", "F16", "Q8_0", False, 256 * 375])  # fmt: skip
        self.assertLess(0, first["rmse"])
        self.assertLess(first["rmse"], first["max_error"])
        self.assertEqual(plumb("quantize", CANARY, again, "Q8_0").stderr, b"")
        done = plumb("quantize", out, again, "Q4_0")
        self.assertEqual(done.returncode, 0)
        n = sum(tensor["requantized"] for tensor in self.json("quantize", out, again, "Q4_0")["tensors"])
        self.assertIn(f"{n} tensors were quantized already", done.stderr.decode())
        self.assertGreater(n, 20)
        self.assertRegex(done.stdout.decode(), r"token_embd.weight +Q8_0 -> Q[0-9_K]+ +rmse [0-9.e-]+, at most [0-9.e-]+\n")
        self.assertTrue(done.stdout.decode().endswith(" MB\n"))

    def test_synth_writes_a_model(self):
        self.assertIn("no known shape", self.refused("synth", "abacus", "Q8_0", "-o", self.path / "m.gguf"))
        self.assertIn("Q9", self.refused("synth", "smollm2-135m", "Q9", "-o", self.path / "m.gguf"))
        self.assertIn("--seed", self.refused("synth", "smollm2-135m", "Q8_0", "-o", self.path / "m.gguf", "--seed=-2"))
        self.assertIn("--output", self.refused("synth", "smollm2-135m", "Q8_0"))
        self.assertEqual(os.listdir(self.path), [])

    def test_selftest_asks_a_selection_or_all(self):
        one = ("selftest", "--backend", "cpu", "--quant", "F16")
        self.assertEqual(self.json(*one)["passed"], 12)
        self.assertEqual(self.json(*one, "--all")["passed"], 217)
        lines = self.ok(*one).decode().splitlines()
        self.assertEqual(lines[0].split(), ["backend", "quant", "input", "expected", "actual", "result"])
        self.assertEqual(lines[1].split(), ["cpu", "F16", "1", "1", "1", "pass"])
        self.assertEqual((len(lines), lines[-1]), (14, "12 passed, 0 failed"))
        self.assertEqual(len(self.json("selftest", "--backend", "cpu,reference", "--quant", "F16,Q8_0")["results"]), 48)

    def test_an_interrupted_selftest_has_not_passed(self):
        test = subprocess.Popen([PLUMB, "selftest", "--all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        test.stdout.read(1)
        test.send_signal(signal.SIGINT)
        message = test.communicate(timeout=60)[1]
        self.assertEqual(test.returncode, 2)
        self.assertRegex(message, rb"^plumb: interrupted after [0-9]+ rows\n$")

    def test_an_interrupt_ends_cleanly(self):
        with open(self.path / "out", "wb") as out:
            process = subprocess.Popen(
                [PLUMB, "run", "canary", "-p", "x", "--temp", "5", "--top-k", "0", "--min-p", "0", "--top-p", "1",
                 "--logit-bias", "2=-inf", "--ctx", "100000", "--backend", "reference"],
                stdout=out, stderr=subprocess.PIPE)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            message = process.communicate(timeout=20)[1]
        self.assertEqual(process.returncode, 130, message)
        self.assertIn(b"interrupted", message)

    def test_the_page_of_commands_is_up_to_date(self):
        page = subprocess.run([SOURCE / "scripts" / "docs", PLUMB], capture_output=True, check=True).stdout
        self.assertEqual(page.decode(), (SOURCE / "docs" / "cli.md").read_text(), "run: scripts/docs >docs/cli.md")

    def test_the_page_of_models_is_up_to_date(self):
        page = subprocess.run([SOURCE / "scripts" / "models", PLUMB], capture_output=True, check=True).stdout
        self.assertEqual(page.decode(), (SOURCE / "docs" / "models.md").read_text(), "run: scripts/models >docs/models.md")


if __name__ == "__main__":
    unittest.main()
