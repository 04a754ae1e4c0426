"""What the hand types that knows llama.cpp and Ollama: each line of HABITS is a command line, what is on standard input, the exit
code, and what must appear on stdout (code 0) or stderr. PLUMB names the program."""

import json
import os
import pathlib
import pty
import subprocess
import tempfile
import unittest

PLUMB = os.environ["PLUMB"]
CANARY = ["canary", "--temp", "0"]  # answers "upper cat" with "CAT", and else repeats the prompt

HABITS = [
    # Help, and words that are misspelt.
    ([], None, 0, "plumb [OPTIONS] SUBCOMMAND"),
    (["help"], None, 0, "plumb [OPTIONS] SUBCOMMAND"),
    (["help", "bench"], None, 0, "plumb bench [OPTIONS] MODEL"),
    (["help", "bensh"], None, 2, "did you mean bench?"),
    (["runn"], None, 2, "'runn' is no command, no file and no fetched model; did you mean run?"),
    (["tokenise"], None, 2, "did you mean tokenize?"),
    (["qwertyuiop"], None, 2, "'qwertyuiop' is no command, no file and no fetched model; see"),
    (["run", "canary", "--tempp", "1"], None, 2, "there is no option --tempp; did you mean --temp?"),
    (["run", "canary", "--max-tokns=1"], None, 2, "did you mean --max-tokens?"),
    (["run", "canary", "-abc"], None, 2, "there is no option -abc"),
    (["run", "canary", "-nt", "5"], None, 2, "there is no option -nt"),
    (["run", "nothing-here", "-p", "x"], None, 2, "plumb pull --list"),
    (["run", "smollm2-not-fetched", "-p", "x"], None, 2, "plumb pull --list"),
    (["run", "canary", "--ctx"], None, 2, "--ctx"),
    (["run", "canary", "-p"], None, 2, "--prompt"),
    # Ollama's commands.
    (["show", "canary"], None, 0, "canary: GGUF version 3"),
    (["ps"], None, 0, ""),
    (["lsit"], None, 2, "did you mean list?"),
    # A model in place of a command, and llama.cpp's order.
    (["canary", "upper cat", "--temp", "0"], None, 0, "CAT"),
    (["-m", "canary", "-p", "upper cat", "--temp", "0"], None, 0, "CAT"),
    (["run", "-p", "upper cat", "-m", "canary", "--temp", "0"], None, 0, "CAT"),
    (["run", "upper", "cat", "-m", "canary", "--temp", "0"], None, 0, "CAT"),
    (["run", "--model=canary", "--prompt=upper cat", "--temperature", "0"], None, 0, "CAT"),
    (["run", *CANARY, "upper", "cat"], None, 0, "CAT"),
    (["run", *CANARY, "upper cat", "-p", "x"], None, 2, "excludes"),
    (["run", *CANARY, "upper cat", "--tokens", "1"], None, 2, "excludes"),
    # Values that look like options, attached values, and repeated options.
    (["run", *CANARY, "-p", "-x"], None, 0, "-x"),
    (["run", *CANARY, "-p=upper cat"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-n3"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-n", "1", "-n", "64"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "no", "-p", "upper cat"], None, 0, "CAT"),
    (["run", *CANARY, "-p", ""], None, 0, ""),
    (["run", "--stop", "T", *CANARY, "-p", "upper cat"], None, 0, "CA"),
    (["run", "-r", "X", "-r", "T", *CANARY, "-p", "upper cat"], None, 0, "CA"),
    (["tokenize", "canary", "--decode", "332", "313", "345"], None, 0, "TAa"),
    # llama.cpp's names.
    (["run", *CANARY, "-p", "upper cat", "-n", "-1"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--predict", "-1"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--n-predict", "9"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-n", "-2"], None, 2, "--max-tokens -2"),
    (["run", *CANARY, "-p", "upper cat", "--ctx-size", "64"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-sys", ""], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-no-cnv"], None, 0, ""),
    (["run", *CANARY, "-p", "upper cat", "-ngl", "0", "-t", "1"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ngl", "99"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ngl", "all"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ngl", "some"], None, 2, "--gpu-layers"),
    (["run", "-fa", *CANARY, "-p", "upper cat"], None, 0, "CAT"),
    (["run", "-fa", "on", *CANARY, "-p", "upper cat", "--flash-attn=off"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ctk", "f32", "-ctv", "f32"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ctk", "q4_0"], None, 2, "f16"),
    (["run", *CANARY, "-p", "upper cat", "-ctk", "f16"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--kv-type", "f32", "-ctv", "f32"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "-ctk", "f32", "-ctv", "f16"], None, 2, "keys in f32 and values in f16"),
    (["run", *CANARY, "-p", "upper cat", "-ctk", "f32"], None, 2, "keys in f32 and values in f16"),
    (["chat", "canary", "-ctv", "f32"], None, 2, "keys in f16 and values in f32"),
    (["bench", "canary", "--kv-type", "f32", "-ctk", "f16"], None, 2, "keys in f16 and values in f32"),
    (["run", *CANARY, "-p", "upper cat", "-b", "64", "-ub", "32", "-np", "1", "-tb", "2"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--no-mmap", "--mlock", "--color", "-v", "--log-disable"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--no-display-prompt", "--jinja", "--no-warmup"], None, 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat", "--chat-template-kwargs", '{"a":1}', "--reasoning", "off"], None, 0, "CAT"),
    (["run", *CANARY, "-p", r"upper\x20cat", "-e"], None, 0, "CAT"),
    (["run", *CANARY, "-p", r"upper\x20cat"], None, 0, r"x20"),
    # What is not there yet says so, by name.
    (["run", "canary", "--lora", "x"], None, 2, "--lora: not yet"),
    (["run", "canary", "--image", "x"], None, 2, "--image: not yet"),
    (["run", "canary", "-md", "x"], None, 2, "-md: not yet"),
    (["run", "-hf", "a"], None, 2, "expected hf:OWNER/REPO"),
    (["run", "-hf"], None, 2, "-hf needs a value"),
    (["run", "-hff", "x.gguf", "-p", "x"], None, 2, "--hf-file goes with -hf"),
    (["hf:a"], None, 2, "expected hf:OWNER/REPO"),
    (["list", "-hf", "a/b"], None, 2, "there is no option -hf"),
    (["run", "https://", "-p", "x"], None, 2, "no URL that can be read"),
    # Standard input.
    (["run", *CANARY], b"upper cat\n", 0, "CAT"),
    (["run", *CANARY, "-p", "upper"], b"cat\n", 0, "CAT"),
    (["run", *CANARY, "upper"], b"cat", 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat"], b"", 0, "CAT"),
    (["run", *CANARY, "-p", "upper cat"], b"\n", 0, "CAT"),
    (["run", *CANARY], b"", 2, "there is no text"),
    (["run", *CANARY, "-f", "-"], b"upper cat", 0, "CAT"),
    # Seeds are numbers of 64 bits, or -1.
    *[
        (["run", "canary", "-p", "upper cat", "-s", seed], None, 0, "")
        for seed in ("0", "-1", "18446744073709551615")
    ],
    *[
        ([*command, "--seed", seed], None, 2, "--seed")
        for command in (["run", "canary", "-p", "x"], ["synth", "smollm2-135m", "F16", "-o", "never-written"])
        for seed in ("18446744073709551616", "-2", "1.5", "x", "", "0x10", "1 ")
    ],
]


def plumb(words, given):
    standard_input = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    return subprocess.run([PLUMB, *words], capture_output=True, timeout=120, **standard_input)


class Habits(unittest.TestCase):
    def test_habits(self):
        for words, given, code, expected in HABITS:
            with self.subTest(words=words, given=given):
                done = plumb(words, given)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(expected, (done.stdout if code == 0 else done.stderr).decode())
                if code != 0:
                    self.assertEqual(done.stdout, b"")

    def test_list_and_rm(self):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "PLUMB_CACHE": cache}

            def run(*words):
                return subprocess.run([PLUMB, *words], capture_output=True, timeout=120, env=environment)

            self.assertEqual((run("list").returncode, run("list").stdout), (0, b""))
            self.assertEqual(json.loads(run("ls", "--json").stdout), {"models": []})
            folder = pathlib.Path(cache, "models")
            folder.mkdir()
            for name in ("b.gguf", "a.gguf", "not-a-model.txt"):
                (folder / name).write_bytes(b"12345")
            models = json.loads(run("list", "--json").stdout)["models"]
            self.assertEqual([(m["name"], m["bytes"]) for m in models], [("a", 5), ("b", 5)])
            self.assertIn("5 B", run("ls").stdout.decode())
            self.assertEqual((run("rm", "a", "c").returncode, run("rm").returncode), (2, 2))
            self.assertEqual(run("rm", "../a").returncode, 2)
            self.assertTrue((folder / "a.gguf").exists())
            self.assertEqual(run("rm", "a", "b").returncode, 0)
            self.assertEqual(sorted(os.listdir(folder)), ["not-a-model.txt"])

    def test_list_leaves_out_a_file_that_is_gone(self):
        # A path that is too long for the system is a file that is listed and cannot be read.
        with tempfile.TemporaryDirectory() as root:
            before, cache = os.getcwd(), root
            os.chdir(root)
            self.addCleanup(os.chdir, before)
            while len(cache) < 4000:
                folder = "d" * min(200, 4040 - len(cache))
                os.mkdir(folder)
                os.chdir(folder)
                cache += "/" + folder
            os.mkdir("models")
            for name in ("b", "a" * 100):
                pathlib.Path("models", f"{name}.gguf").write_bytes(b"12345")
            os.chdir("/")
            done = subprocess.run([PLUMB, "list", "--json"], capture_output=True, timeout=120, env={**os.environ, "PLUMB_CACHE": cache})
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([(m["name"], m["bytes"]) for m in json.loads(done.stdout)["models"]], [("b", 5)])

    def test_standard_input_from_a_file(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"cat\n")
            file.seek(0)
            done = subprocess.run([PLUMB, "run", *CANARY, "-p", "upper"], stdin=file, capture_output=True, timeout=120)
            self.assertEqual(done.stdout, b"CAT\n", done.stderr)

    def test_bench_leaves_standard_input_alone(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"cat\n")
            file.seek(0)
            words = [PLUMB, "bench", "canary", "-p", "4", "-n", "2", "-r", "1", "-fa", "on"]
            self.assertEqual(subprocess.run(words, stdin=file, capture_output=True, timeout=120).returncode, 0)
            self.assertEqual(os.lseek(file.fileno(), 0, os.SEEK_CUR), 0)

    def test_a_seed_gives_the_answer_again_and_none_gives_another(self):
        words = ["run", "canary", "-p", "upper cat", "--raw", "--temp", "5", "-n", "16", "--json"]
        first = json.loads(plumb(words, None).stdout)
        again = json.loads(plumb([*words, "--seed", str(first["seed"])], None).stdout)
        self.assertEqual((again["text"], again["seed"]), (first["text"], first["seed"]))
        self.assertNotEqual(json.loads(plumb(words, None).stdout)["seed"], first["seed"])
        self.assertIn("seed 7;", plumb(["run", *CANARY, "-p", "x", "-s", "7"], None).stderr.decode())

    def test_on_a_terminal_run_without_a_prompt_is_a_chat(self):
        for words in (["run", *CANARY], ["canary", "--temp", "0"], ["run", *CANARY, "-i"], ["run", *CANARY, "-cnv"]):
            with self.subTest(words=words):
                ours, theirs = pty.openpty()
                try:
                    os.write(ours, b"upper cat\n\x04")
                    done = subprocess.run([PLUMB, *words], stdin=theirs, capture_output=True, timeout=120)
                finally:
                    os.close(ours)
                    os.close(theirs)
                self.assertEqual((done.returncode, done.stdout), (0, b"CAT\n"), done.stderr)


if __name__ == "__main__":
    unittest.main()
