"""Completion scripts and manual pages: they parse, and have every command and option of the help. PLUMB names the program."""

import pathlib
import re
import shutil
import subprocess
import unittest

from command_line import PLUMB, CommandLine

PATH = f"{pathlib.Path(PLUMB).parent}:/usr/bin:/bin"


class Completion(CommandLine):
    @classmethod
    def setUpClass(cls):
        run = lambda *words: subprocess.run([PLUMB, *words], capture_output=True, check=True).stdout.decode()
        cls.commands = run("--list-commands").split()
        cls.options = {}
        for command in cls.commands:
            text = run(command, "--help").split("Options:", 1)[1]
            lines = re.findall(r"^  (-\S+)", text, re.M)
            cls.options[command] = [name for line in lines for name in line.split(",") if name.startswith("-")]
            assert "--help" in cls.options[command]

    def script(self, shell):
        return self.written(shell, self.ok("completion", shell))

    def completed(self, *words):
        """What bash offers for the last of these words."""
        line = "COMP_WORDS=(plumb {}); COMP_CWORD={}".format(" ".join(f"'{word}'" for word in words), len(words))
        done = subprocess.run(
            ["bash", "-c", f'source {self.script("bash")}; {line}; _plumb; printf "%s\\n" "${{COMPREPLY[@]}}"'],
            capture_output=True, cwd=self.path, env={"PATH": PATH, "PLUMB_CACHE": str(self.path / "cache")},
        )  # fmt: skip
        self.assertEqual(done.stderr, b"")
        return done.stdout.decode().split()

    def test_bash_parses_it_and_offers_every_command_and_option(self):
        subprocess.run(["bash", "-n", self.script("bash")], check=True)
        self.assertLessEqual({"help", "ls", *self.commands}, set(self.completed("")))
        self.assertEqual(self.completed("diag"), ["diagnose"])
        for command in ("run", "bench", "completion"):
            self.assertEqual(set(self.completed(command, "-")), set(self.options[command]))
        text = self.script("bash").read_text()
        for command in self.commands:
            section = re.search(rf"^    {command}( \| \w+)*\)\n(.*?)\n      case ", text, re.S | re.M)[2]
            options = re.search("options='(.*)'", section)[1].split()
            self.assertEqual(set(options), set(self.options[command]), command)

    def test_bash_knows_values_models_and_files(self):
        self.written("notes.txt", "")
        (self.path / "cache" / "models").mkdir(parents=True)
        self.written("cache/models/own.gguf", "")
        self.assertEqual(self.completed("run", "canary", "--kv-type", ""), ["f16", "f32"])
        self.assertEqual(self.completed("run", "canary", "--backend", "c"), ["cuda", "cpu", "checker"])
        self.assertEqual(self.completed("run", "canary", "--temp", ""), [])
        self.assertEqual(self.completed("run", "canary", "-f", "no"), ["notes.txt"])
        self.assertEqual(self.completed("run", "o"), ["own"])
        self.assertEqual(self.completed("help", "qu"), ["quantize"])
        self.assertEqual(self.completed("completion", ""), ["bash", "zsh", "fish"])
        self.assertEqual(self.completed("man", "qu"), ["quantize"])

    @unittest.skipUnless(shutil.which("zsh"), "there is no zsh here")
    def test_zsh_parses_it(self):
        subprocess.run(["zsh", "-n", self.script("zsh")], check=True)

    def test_the_script_for_zsh_has_every_command_and_option(self):
        text = self.script("zsh").read_text()
        for command in self.commands:
            self.assertRegex(text, rf"(?m)^    '{command}:")
            section = re.search(rf"^    {command}(\|\w+)*\)\n(.*?)\n      ;;", text, re.S | re.M)[2]
            self.assertEqual(set(re.findall(r"^        '\*(-[^\[]+)\[", section, re.M)), set(self.options[command]))

    @unittest.skipUnless(shutil.which("fish"), "there is no fish here")
    def test_fish_offers_every_command_and_option(self):
        script = self.script("fish")
        subprocess.run(["fish", "--no-execute", script], check=True)
        environment = {"PATH": PATH, "HOME": str(self.path), "PLUMB_CACHE": str(self.path)}
        ask = lambda line: subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"],
            capture_output=True, check=True, env=environment, cwd=self.path,
        ).stdout.decode()  # fmt: skip
        offered = lambda line: {text.split("\t")[0] for text in ask(line).splitlines()}
        self.assertLessEqual({"help", "ls", "canary", *self.commands}, offered("plumb "))
        for command in ("run", "quantize"):
            long = {name for name in self.options[command] if name.startswith("--")}
            self.assertEqual(offered(f"plumb {command} --"), long)
        self.assertEqual(offered("plumb run --kv-type "), {"f16", "f32"})

    def test_the_script_for_fish_has_every_command_and_option(self):
        text = self.script("fish").read_text()
        for command in self.commands:
            self.assertRegex(text, rf"(?m)^complete -c plumb -n __fish_use_subcommand -a {command} ")
            lines = re.findall(rf"^complete -c plumb -n '__fish_seen_subcommand_from {command}( \w+)*'(.*)", text, re.M)
            names = {"-" + ("-" if kind == "l" else "") + name for _, line in lines for kind, name in re.findall(r" -([ls]) (\S+)", line.split(" -d ")[0])}
            self.assertEqual(names, set(self.options[command]), command)

    def test_manual_pages_have_every_command_and_option(self):
        groff = shutil.which("groff")
        for command in ["", *self.commands]:
            page = self.ok("man", *[command][: len(command)])
            plain = page.decode().replace("\\-", "-")
            names = self.options[command] if command else ["--version", "--help"]
            for name in names:
                self.assertIn(f"\\fB{name}\\fR", plain)
            if not command:
                for other in self.commands:
                    self.assertIn(f"\\fBplumb-{other}\\fR(1)", plain)
            if groff:
                done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True)
                self.assertEqual((done.returncode, done.stderr), (0, b""), command)
        self.assertIn("no command 'nothing'", self.refused("man", "nothing"))


if __name__ == "__main__":
    unittest.main()
