"""plumb chat: what the model is given on each turn, and the editing of lines on a terminal."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
import unittest

from command_line import PLUMB, CommandLine, plumb

# Any difference between two prompts soon shows in answers drawn from so many tokens.
DRAWN = ("--backend", "reference", "--temp", "3", "--top-k", "20", "--min-p", "0", "--top-p", "1", "--seed", "7", "-n", "24",
         "--logit-bias", "2=-inf")  # fmt: skip


class Chat(CommandLine):
    def chat(self, lines, *options):
        """The answers to lines, and the messages. Answers have no line ends."""
        done = plumb("chat", "canary", *options, stdin="\n".join(lines).encode())
        self.assertEqual(done.returncode, 0, done.stderr)
        banner, *messages = done.stderr.decode().splitlines()
        self.assertIn("canary on ", banner)
        return done.stdout.decode().splitlines(), messages

    def answer(self, messages, *options):
        """The answer of plumb run to the whole conversation at once."""
        path = self.written("messages.json", json.dumps(messages))
        prompt = self.written("prompt", self.ok("template", "canary", "--messages", path))
        return self.ok("run", "canary", "--raw", "-f", prompt, *options).decode().removesuffix("\n")

    def test_each_turn_is_answered_as_the_whole_conversation_would_be(self):
        # An answer's "A" as a byte token is another token in the next prompt.
        for system, options in (("", DRAWN), ("reverse", DRAWN), ("", (*DRAWN, "--logit-bias", "68=20"))):
            lines = ["hello world", "hello", "upper cat", "hello world, again"]
            answers, _ = self.chat(lines, *options, "--system", system)
            messages = [{"role": "system", "content": system}] if system else []
            for line, answer in zip(lines, answers, strict=True):
                messages.append({"role": "user", "content": line})
                self.assertEqual(answer, self.answer(messages, *options), messages)
                messages.append({"role": "assistant", "content": answer})

    def test_a_reset_leaves_the_system_message_only(self):
        lines = ["hello world", "upper cat", "/reset", "hello world", "upper cat"]
        answers, messages = self.chat(lines, *DRAWN, "--system", "reverse")
        self.assertEqual(answers[:2], answers[2:])
        self.assertEqual(messages, ["The conversation begins anew."])
        self.assertNotEqual(answers[:2], self.chat(lines[:2], *DRAWN)[0])

    def test_lines_that_are_no_message(self):
        for ending in ("/quit", "/exit"):
            self.assertEqual(self.chat(["", "  ", "\t", "upper cat", ending, "upper dog"], "--temp", "0"), (["CAT"], []))
        self.assertEqual(self.chat([]), ([], []))

    def test_what_does_not_fit_is_as_if_it_had_not_been_said(self):
        hello = self.json("tokenize", "canary", "--chat", "-p", "hello")["tokens"]
        for room, fits in ((0, False), (1, True)):
            answers, messages = self.chat(["hello"], *DRAWN, "--ctx", len(hello) + room)
            self.assertEqual(len(answers), fits)
            self.assertEqual(messages, ["(the context is full)"] if fits else [
                f"plumb: the conversation is {len(hello)} tokens long and the context has {len(hello)} positions; "
                "/reset starts anew, --ctx makes it longer"])  # fmt: skip
        answers, messages = self.chat(["hello " * 9, "upper cat"], "--temp", "0", "--ctx", "40")
        self.assertEqual((answers, len(messages)), (["CAT"], 1))
        self.assertEqual(self.chat(["hello"], *DRAWN)[1], [], "the token limit is no full context")

    def test_an_interrupt_ends_an_answer_and_not_the_chat(self):
        options = ("--ctx", "100000", "--temp", "3", "--top-k", "0", "--logit-bias", "2=-inf", "--backend", "reference")
        chat = subprocess.Popen([PLUMB, "chat", "canary", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, bufsize=0)  # fmt: skip
        for _ in range(2):
            chat.stdin.write(b"hello\n")
            self.assertTrue(chat.stdout.read(5))
            chat.send_signal(signal.SIGINT)
            deadline = time.time() + 20
            while select.select([chat.stdout], [], [], 1)[0] and time.time() < deadline:
                os.read(chat.stdout.fileno(), 1 << 16)
        output, messages = chat.communicate(b"/quit\n", timeout=20)
        lines = [line for line in messages.splitlines() if not line.startswith(b"plumb: warning")]
        self.assertEqual((chat.returncode, len(lines)), (0, 1), messages)

    def terminal(self, *steps, environment):
        """Types on a terminal, and each time waits for what should appear after it. Returns the exit code."""
        child, terminal = pty.fork()
        if child == 0:
            os.execve(PLUMB, [PLUMB, "chat", "canary", "--temp", "0"], {**os.environ, "TERM": "xterm", **environment})
        try:
            shown = b""
            for keys, expected in (*steps, (b"", b"> ")):
                os.write(terminal, keys)
                while expected not in shown:
                    self.assertTrue(select.select([terminal], [], [], 60)[0], f"{expected} is not in {shown}")
                    shown += os.read(terminal, 1 << 16)
                shown = shown.split(expected, 1)[1]
            # Control-D ends the program, and with it the terminal.
            os.write(terminal, b"\x04")
            with contextlib.suppress(OSError):
                while select.select([terminal], [], [], 60)[0] and os.read(terminal, 1 << 16):
                    pass
        finally:
            os.close(terminal)
            _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def test_an_interrupt_is_never_lost(self):
        # A Ctrl-C that is typed the moment the prompt appears.
        interrupt = ((b"sea\x03", b"\n"), (b"", b"> "))
        environment = {"PLUMB_CACHE": str(self.path / "cache")}
        self.assertEqual(self.terminal((b"", b"> "), *interrupt * 30, (b"upper king\r", b"KING\r\n"), environment=environment), 0)

    def test_a_terminal_has_editing_and_a_history(self):
        up = b"\x1b[A"
        environment = {"PLUMB_CACHE": str(self.path / "cache"), "LC_ALL": "C"}
        self.assertEqual(self.terminal((b"", b"> "), (b"upper cat\r", b"CAT\r\n"), (b"", b"> "), (b"upper dog", b"dog"),
                                       (b"\x7f\x7f\x7fcloud\r", b"CLOUD\r\n"), (b"", b"> "),
                                       (up + up + b"\r", b"CAT\r\n"), (b"", b"> "),
                                       (b"upper sea\x03", b"\n"), (b"", b"> "), (b"upper king\r", b"KING\r\n"),
                                       (b"", b"> "), ("caf\u00e9".encode(), "\u00e9".encode()), (b"\r", b"\n"),
                                       environment=environment), 0)  # fmt: skip
        self.assertEqual(sorted(path.name for path in (self.path / "cache").iterdir()), ["chat_history"])
        history = (self.path / "cache" / "chat_history").read_text()
        self.assertNotIn("\\012", history, "the end of a line is no part of it")
        self.assertEqual(self.terminal((b"", b"> "), (up + up + b"\r", b"KING\r\n"), environment=environment), 0)


if __name__ == "__main__":
    unittest.main()
