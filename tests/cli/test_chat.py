"""plumb chat: what the model is given on each turn, its commands, and the editing of lines on a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata
import unittest

from command_line import PLUMB, CommandLine, plumb, spelling

# Any difference between two prompts soon shows in answers drawn from so many tokens.
DRAWN = ("--backend", "reference", "--temp", "3", "--top-k", "20", "--min-p", "0", "--top-p", "1", "--seed", "7", "-n", "24",
         "--logit-bias", "2=-inf")  # fmt: skip


class Chat(CommandLine):
    def chat(self, lines, *options):
        """The answers to lines, and the messages. Answers have no line ends."""
        done = plumb("chat", "canary", *options, stdin="\n".join(lines).encode())
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stderr.decode().splitlines()
        banner, *messages = [line for line in lines if not line.startswith("plumb: warning")]
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
        for ending in ("/quit", "/exit", "/bye"):
            self.assertEqual(self.chat(["", "  ", "\t", "upper cat", ending, "upper dog"], "--temp", "0"), (["CAT"], []))
        self.assertEqual(self.chat([]), ([], []))

    def test_what_does_not_fit_is_as_if_it_had_not_been_said(self):
        hello = self.json("tokenize", "canary", "--chat", "-p", "hello")["tokens"]
        for room, fits in ((0, False), (1, True)):
            answers, messages = self.chat(["hello"], *DRAWN, "--ctx", len(hello) + room)
            self.assertEqual(len(answers), fits)
            self.assertEqual(messages, ["(the context is full)"] if fits else [
                f"plumb: the message makes a prompt of {len(hello)} tokens and the context has {len(hello)} positions; "
                "shorten it, or make the context longer with --ctx or /set ctx"])  # fmt: skip
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

    def test_a_reset_and_clear_are_one(self):
        self.assertEqual(self.chat(["/clear", "/reset"])[1], ["The conversation begins anew."] * 2)

    def test_text_of_several_lines_is_one_message(self):
        whole = self.answer([{"role": "user", "content": "hello world\nupper cat\n\nhello"}], *DRAWN)
        for lines in (['"""hello world', "upper cat", "", 'hello"""'], ['"""', "hello world", "upper cat", "", "hello", '"""'],
                      ["hello world\\", "upper cat\\", "\\", "hello"]):  # fmt: skip
            self.assertEqual(self.chat(lines, *DRAWN), ([whole], []), lines)
        self.assertEqual(self.chat(['"""upper cat"""'], "--temp", "0"), (["CAT"], []))
        self.assertEqual(self.chat(['"upper" cat'], *DRAWN)[0], [self.answer([{"role": "user", "content": '"upper" cat'}], *DRAWN)])

    def test_a_slip_is_answered_by_the_program(self):
        slips = (("/claer", "there is no command /claer; did you mean /clear?"), ("/hlep", "did you mean /help?"),
                 ("/foo bar", "there is no command /foo; /help lists them"), ("/", "there is no command /;"),
                 ("/set temprature 1", "did you mean temperature?"), ("/set top-k x", "'x': expected a whole number"),
                 ("/set top_p 2", "top_p"), ("/show infoo", "did you mean info?"), ("/save", "which file?"),
                 ("/load nothing.json", "nothing.json"), ("/retry", "no message"), ("/edit x", "no message"),
                 ("/tokens", "no answer yet"), ("/read nothing.txt", "nothing.txt"))  # fmt: skip
        answers, messages = self.chat([*(line for line, _ in slips), "upper cat"], "--temp", "0")
        self.assertEqual(answers, ["CAT"])
        for (line, expected), message in zip(slips, messages, strict=True):
            self.assertIn(expected, message, line)
        for line in ("/usr/bin/env is what?", " /help"):
            answer = self.answer([{"role": "user", "content": line.strip()}], "--temp", "0")
            self.assertEqual(self.chat([line], "--temp", "0"), ([answer], []))

    def test_help_names_every_command(self):
        for line in ("/help", "/?", "/HELP"):
            _, messages = self.chat([line])
            for command in ("help", "bye", "clear", "system", "set", "show", "save", "load", "read", "retry", "edit", "tokens"):
                self.assertIn(f"  /{command} ", "\n".join(messages))

    def test_settings_hold_for_the_next_answer(self):
        for lines in (["/set parameter temperature 0"], ["/set temperature 0"], ["/set temp 0"], ["/set --temp 0"]):
            self.assertEqual(self.chat([*lines, "upper cat"], "--temp", "3")[0], ["CAT"], lines)
        self.assertEqual(self.chat(["/set num_predict 1", "upper cat"], "--temp", "0")[0], ["C"])
        self.assertEqual(self.chat(['/set stop "T"', "upper cat", '/set stop ""', "upper cat"], "--temp", "0")[0], ["CA", "CAT"])
        one, other = (self.chat([f"/set seed {seed}", "hello world"], *DRAWN)[0] for seed in (7, 8))
        self.assertEqual(one, self.chat(["hello world"], *DRAWN)[0])
        self.assertNotEqual(one, other)
        self.assertIn("  temperature         0", self.chat(["/set temp 0", "/show parameters"])[1])
        _, messages = self.chat(["/set verbose", "upper cat", "/set quiet", "upper cat"], "--temp", "0", "--ctx", "200")
        self.assertRegex(messages[1], r"^\(prompt \d+ tokens, .* tokens/s; answer 4 tokens, .*; context \d+ of 200; seed \d+\)$")
        self.assertEqual(len(messages), 3)

    def test_thinking_is_switched(self):
        template = self.written("switch.jinja", "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ 'upper ' if enable_thinking or thinking }}"
                                "{{ m.content }}</s>\n<|assistant|>\n{% else %}{{ m.content }}</s>\n{% endif %}{% endfor %}")  # fmt: skip
        options = ("--temp", "0", "--template", template)
        for on, off in (("think", "nothink"), ("think true", "think false"), ("nothink false", "nothink true"), ("--think on", "--think off")):
            answers, messages = self.chat(["cat", "/clear", f"/set {on}", "cat", "/clear", f"/set {off}", "cat"], *options)
            self.assertEqual(answers, ["cat", "CAT", "cat"])
            self.assertEqual(messages[1::2], ["The model is told to think before it answers.", "The model is told not to think before it answers."])
        # It wins over the command line, and holds for another model.
        for given in (("--reasoning", "on"), ("--chat-template-kwargs", '{"enable_thinking": true, "thinking": true}')):
            self.assertEqual(self.chat(["cat", "/clear", "/set nothink", "cat", "/load canary", "/clear", "cat"], *options, *given)[0],
                             ["CAT", "cat", "cat"])  # fmt: skip
        _, messages = self.chat(["/set think", "/set think maybe"], "--temp", "0")
        self.assertIn("the model's chat template has no switch for thinking", messages[0])
        self.assertIn("'maybe': expected true or false", messages[1])
        self.assertIn("enable_thinking", "\n".join(self.chat(["/show template"], *options)[1]))

    def test_the_system_message_can_be_changed(self):
        for lines in (["/system reverse"], ["/set system reverse"], ['/system """reverse', '"""'], ['/set system "reverse"']):
            self.assertEqual(self.chat([*lines, "hello world"], *DRAWN)[0],
                             self.chat(["hello world"], *DRAWN, "--system", "reverse")[0], lines)  # fmt: skip
        _, messages = self.chat(["/system", "/system be brief", "/system", '/system ""', "/show system"])
        self.assertEqual(messages[0::2], ["There is no system message.", "be brief", "There is no system message."])

    def test_an_answer_can_be_made_once_more_and_a_message_changed(self):
        first, again, changed = self.chat(["hello world", "/retry", "/edit hello"], *DRAWN)[0]
        self.assertNotEqual(first, again)
        self.assertEqual([first, changed], self.chat(["hello world", "/clear", "hello"], *DRAWN)[0])
        self.assertIn("give the new text", self.chat(["upper cat", "/edit"], "--temp", "0")[1][0])

    def test_a_conversation_is_saved_and_goes_on(self):
        path = self.path / "my chat.json"
        lines = ["hello world", "upper cat"]
        whole = self.chat([*lines, "hello"], *DRAWN, "--system", "reverse")[0]
        answers, messages = self.chat([*lines, f"/save {path}"], *DRAWN, "--system", "reverse")
        self.assertEqual(messages, [f"The conversation is in {path}."])
        self.assertEqual([message["content"] for message in json.loads(path.read_text())],
                         ["reverse", lines[0], answers[0], lines[1], answers[1]])  # fmt: skip
        for name in (path, f'"{path}"'):
            self.assertEqual(self.chat([f"/load {name}", "hello"], *DRAWN),
                             (whole[2:], ["The conversation goes on after 2 turns."]))  # fmt: skip
        self.ok("template", "canary", "--messages", path)
        other = self.written("other.txt", "mine")
        self.assertIn("another kind of file", self.chat([f"/save {other}"])[1][0])
        self.assertEqual(other.read_text(), "mine")
        for text in ("{", "[1]", '[{"role": "user"}]', '[{"role": 1, "content": ""}]', "null"):
            self.assertIn("no conversation", self.chat([f"/load {self.written('bad.json', text)}"])[1][0], text)

    def test_another_model_goes_on(self):
        copy = self.path / "copy.gguf"
        self.ok("quantize", "canary", copy, "Q8_0")
        answers, messages = self.chat(["upper cat", f"/load {copy}", "upper dog", "/show info"], "--temp", "0")
        self.assertEqual(answers, ["CAT", "DOG"])
        self.assertIn("copy.gguf on ", messages[0])
        self.assertIn("turns      2", messages)

    def test_a_file_goes_before_the_next_message(self):
        path = self.written("note.txt", "hello")
        answers, _ = self.chat([f"/read {path}", "upper cat"], *DRAWN)
        self.assertEqual(answers, [self.answer([{"role": "user", "content": "note.txt:\nhello\n\nupper cat"}], *DRAWN)])

    def test_tokens_have_their_probabilities(self):
        _, messages = self.chat(["upper cat", "/tokens"], "--temp", "0")
        self.assertEqual([json.loads(re.findall(r'"[^"]*"', line)[0]) for line in messages][:3], ["C", "A", "T"])
        for line in messages:
            self.assertRegex(line, r"^ *\d+\.\d %")

    def test_the_oldest_turns_go_when_the_context_is_full(self):
        greedy = ("--temp", "0", "--system", "s")
        turns = [("upper cat", "CAT"), ("upper dog", "DOG"), ("upper sea", "SEA"), ("upper king", "KING"), ("upper sun", "SUN")]
        lines = [line for line, _ in turns]
        notes = self.chat(["/set verbose", *lines], *greedy, "-n", "4", "--ctx", "1000")[1]
        # The last of four tokens does not run.
        needed = int(re.search(r"context (\d+) of", notes[-1])[1]) - 3
        answers, notes = self.chat(lines, *greedy, "-n", "4", "--ctx", needed + 3)
        self.assertEqual(answers, [answer for _, answer in turns])
        self.assertEqual(len(notes), 1, notes)
        self.assertRegex(notes[0], rf"^\(the context of {needed + 3} positions is full: the (\d )?oldest turns? went\)$")
        self.assertEqual(self.chat(lines, *greedy, "-n", "4", "--ctx", needed + 4), (answers, []))

    def test_the_context_is_what_the_model_was_made_for(self):
        def banner(*options):
            return plumb("chat", "canary", *options).stderr.decode()

        trained = self.json("inspect", "canary")["metadata"]["llama.context_length"]
        self.assertIn(f"; context {trained}: all that the model was made for.", banner())
        self.assertIn(f"; context 77: as asked; the model was made for {trained}.", banner("--ctx", "77"))
        self.assertIn("0 of 99 used", "\n".join(self.chat(["/set num_ctx 99", "/show"])[1]))


class Screen:
    """What a terminal of some columns shows, of what the editor sends."""

    def __init__(self, columns):
        self.columns, self.rows, self.row, self.column = columns, [{}], 0, 0

    def feed(self, text):
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", text, re.DOTALL):
            self.control(part[2:-1], part[-1]) if part[0] == "\x1b" else self.put(part)

    def control(self, number, action):
        n = int(number) if number.isdigit() else 1
        row = self.rows[self.row]
        if action == "A":
            self.row = max(0, self.row - n)
        elif action == "C":
            self.column = min(self.columns - 1, self.column + n)
        elif action in "KJ":
            for column in [column for column in row if column >= min(self.column, self.columns - 1)]:
                del row[column]
            if action == "J":
                del self.rows[self.row + 1 :]
        elif action not in "hlm":
            raise AssertionError(f"{action!r} is sent")

    def put(self, character):
        if character in "\r\n":
            self.column = 0 if character == "\r" else self.column
            self.row += character == "\n"
        elif unicodedata.combining(character):
            self.rows[self.row][self.column - 1] += character
            return
        else:
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if self.column + width > self.columns:
                self.row, self.column = self.row + 1, 0
        while self.row >= len(self.rows):
            self.rows.append({})
        if character not in "\r\n":
            self.rows[self.row].update({self.column + i: "" for i in range(width)})
            self.rows[self.row][self.column] = character
            self.column += width

    def lines(self):
        """The rows, without empty ones at the end."""
        rows = ["".join(row.get(i, " ") for i in range(max(row, default=-1) + 1)).rstrip() for row in self.rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows


class Terminal:
    """plumb chat on a terminal."""

    def __init__(self, environment, columns=80, rows=24, options=("--temp", "0"), model="canary"):
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.execve(PLUMB, [PLUMB, "chat", model, *options], {**os.environ, "TERM": "xterm", **environment})
        self.shown = b""
        self.resize(columns, rows)

    def resize(self, columns, rows=24):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.terminal, keys)

    def wait(self, expected):
        """Waits for what should appear, and returns it with what came before it."""
        while expected not in self.shown:
            if not select.select([self.terminal], [], [], 60)[0]:
                raise AssertionError(f"{expected} is not in {self.shown}")
            self.shown += os.read(self.terminal, 1 << 16)
        before, self.shown = self.shown.split(expected, 1)
        return before + expected

    def echo(self):
        return bool(termios.tcgetattr(self.terminal)[3] & termios.ECHO)

    def end(self, keys=b"\x04"):
        """Returns the exit code."""
        self.type(keys)
        with contextlib.suppress(OSError):
            while select.select([self.terminal], [], [], 60)[0] and os.read(self.terminal, 1 << 16):
                pass
        os.close(self.terminal)
        _, status = os.waitpid(self.child, 0)
        return os.waitstatus_to_exitcode(status)


PROMPT = b"> \x1b[K\x1b[J\r\x1b[2C\x1b[?25h"
UP, LEFT, RIGHT, PASTE, PASTED = b"\x1b[A", b"\x1b[D", b"\x1b[C", b"\x1b[200~", b"\x1b[201~"


class OnATerminal(CommandLine):
    def setUp(self):
        super().setUp()
        self.environment = {"PLUMB_CACHE": str(self.path / "cache"), "LC_ALL": "C", "NO_COLOR": "1"}

    def session(self, *steps, **more):
        """Types, and each time waits for what should appear after it."""
        terminal = Terminal(self.environment, **more)
        terminal.wait(PROMPT)
        for keys, expected in steps:
            terminal.type(keys)
            terminal.wait(expected)
        self.assertEqual(terminal.end(), 0)

    def test_an_interrupt_is_never_lost(self):
        # A Ctrl-C that is typed the moment the prompt appears, and one right behind Enter.
        self.session(*[(b"sea\x03", b"\r\n"), (b"", PROMPT)] * 30, (b"upper king\r", b"KING\r\n"), (b"", PROMPT))
        options = ("--ctx", "100000", "--temp", "3", "--top-k", "0", "--logit-bias", "2=-inf")
        self.session(*[(b"hello\r\x03", PROMPT)] * 5, (b"\x03", b"(Ctrl-D or /bye ends)"), (b"", PROMPT), options=options)

    def test_editing_and_a_history(self):
        self.session((b"upper cat\r", b"CAT\r\n"), (b"", PROMPT), (b"upper dog", b"dog"),
                     (b"\x7f\x7f\x7fcloud\r", b"CLOUD\r\n"), (b"", PROMPT), (UP + UP + b"\r", b"CAT\r\n"), (b"", PROMPT),
                     (b"cat\x01upper \x05" + LEFT * 3 + b"\x0bdog\r", b"DOG\r\n"), (b"", PROMPT),
                     (b"upper cat\x17sea\r", b"SEA\r\n"), (b"", PROMPT), (b"x\x15upper \x19\x7fsun\r", b"SUN\r\n"),
                     (b"", PROMPT), ("caf\u00e9".encode(), "\u00e9".encode()), (b"\x03", PROMPT))  # fmt: skip
        self.assertEqual(sorted(path.name for path in (self.path / "cache").iterdir()), ["chat_history"])
        history = (self.path / "cache" / "chat_history").read_text().splitlines()
        self.assertEqual(history, [f'"upper {word}"' for word in ("cat", "cloud", "cat", "dog", "sea", "sun")])
        self.session((UP + UP + b"\r", b"SEA\r\n"), (b"", PROMPT), (b"\x12clo", b"(search: clo) upper cloud"),
                     (b"\r", b"CLOUD\r\n"), (b"", PROMPT), (b"/set nohistory\r", PROMPT), (b"upper king\r", PROMPT))  # fmt: skip
        self.assertNotIn("king", (self.path / "cache" / "chat_history").read_text())

    def test_pasted_lines_are_one_message(self):
        lines = "\r".join(f"line {i}\t\\" for i in range(30)).encode()
        path = self.path / "pasted.json"
        self.session((PASTE + b"/help\r" + lines + b"\x03\x1b[A" + PASTED, b"line 29"), (b"\r", PROMPT),
                     (b"one\\\rtwo\x1b\rthree\r", PROMPT), (b'"""four\rfive"""\r', PROMPT),
                     (f"/save {path}\r".encode(), PROMPT), options=("--temp", "0", "--ctx", "4000", "-n", "4"))  # fmt: skip
        self.assertEqual([message["content"] for message in json.loads(path.read_text()) if message["role"] == "user"],
                         ["/help\n" + lines.decode().replace("\r", "\n") + "[A", "one\ntwo\nthree", '"""four\nfive"""'[3:-3]])  # fmt: skip

    def test_what_is_typed_while_an_answer_comes_waits(self):
        self.session((b"upper cat\rupper dog\rupper s", b"CAT\r\n"), (b"", b"DOG\r\n"), (b"ea\r", b"SEA\r\n"), (b"", PROMPT))

    def test_tab_completes(self):
        (self.path / "notes.json").write_text("[]")
        folder = str(self.path).encode()
        self.session((b"/cl\t", b"/clear"), (b"\r", b"The conversation begins anew."), (b"", PROMPT),
                     (b"/set top-\t\t", b"top-k   top-p"), (b"\x03", PROMPT), (b"/sh\tinf\t\r", b"turns"), (b"", PROMPT),
                     (b"/load " + folder + b"/no\t\r", b"goes on after 0 turns"), (b"", PROMPT))  # fmt: skip

    def test_what_files_hold_cannot_command_the_terminal(self):
        (self.path / "cache").mkdir()
        (self.path / "cache" / "chat_history").write_text(json.dumps("upper \x1b]0;title\x07 \u202ecat") + "\n")
        messages = [{"role": "user", "content": "up\x1b[31mper dog"}, {"role": "assistant", "content": "DOG"}]
        saved = self.written("saved.json", json.dumps(messages))
        self.written("no\x1b[32m.json", "[]")
        folder = str(self.path).encode()
        terminal = Terminal(self.environment)
        terminal.wait(PROMPT)
        for keys, expected in ((UP, b"cat"), (b"\x15/load " + folder + b"/no\t", b"/no"), (b"\x15/load " + str(saved).encode() + b"\r", b"after 1 turn."),
                               (b"/show messages\r", b"up\\x1b[31mper dog"), (b"/edit\r", b"per dog")):  # fmt: skip
            terminal.type(keys)
            seen = terminal.wait(expected)
            for evil in (b"\x1b]0", b"\x1b[31m", b"\x1b[32m", "\u202e".encode()):
                self.assertNotIn(evil, seen, keys)
        self.assertEqual(terminal.end(b"\x15\x04"), 0)

    def test_a_message_is_taken_back_to_be_changed(self):
        self.session((b"upper cat\r", b"CAT\r\n"), (b"", PROMPT), (b"/edit\r", b"> upper cat"), (b"\x17dog\r", b"DOG\r\n"),
                     (b"", PROMPT), (b"/show info\r", b"turns      1\r\n"), (b"", PROMPT))  # fmt: skip

    def test_long_lines_and_wide_characters_are_drawn_right(self):
        for columns in (20, 21, 40):
            terminal = Terminal(self.environment, columns=columns)
            terminal.wait(PROMPT)
            screen = Screen(columns)
            screen.feed("> ")
            text = ""
            for keys in ("word " * 7, "日本語" * 7, "ends", "\x1b\rnext", "e\u0301" * columns):
                text += keys.replace("\x1b\r", "\n")
                for key in re.findall("\x1b\r|.", keys, re.DOTALL):
                    terminal.type(key.encode())
                    screen.feed(terminal.wait(b"\x1b[?25h").decode())
            self.assertEqual(screen.lines(), self.drawn(text, columns))
            # In the middle: what follows moves, and nothing is left of what was there.
            for keys, expected in ((LEFT * 3 + b"X", text[:-6] + "X" + text[-6:]), (b"\x7f", text), (UP + b"\x01Y", text.replace("next", "Ynext"))):  # fmt: skip
                terminal.type(keys)
                while not screen.lines() == self.drawn(expected, columns):
                    screen.feed(terminal.wait(b"\x1b[?25h").decode())
            terminal.type(b"\x03")
            self.assertEqual(terminal.end(), 0)

    @staticmethod
    def drawn(text, columns):
        screen = Screen(columns)
        screen.feed("> " + text.replace("\n", "\r\n  "))
        return screen.lines()

    def test_the_terminal_is_given_back(self):
        for signal_number, code in ((signal.SIGTERM, (-signal.SIGTERM, 128 + signal.SIGTERM)), (None, (0,))):
            terminal = Terminal(self.environment)
            self.assertIn(b"\x1b[?2004h", terminal.wait(PROMPT))
            self.assertFalse(terminal.echo())
            if signal_number:
                os.kill(terminal.child, signal_number)
                terminal.wait(b"\x1b[?2004l")
            else:
                terminal.type(b"/bye\r")
                terminal.wait(b"\x1b[?2004l")
            deadline = time.time() + 20
            while not terminal.echo() and time.time() < deadline:
                time.sleep(0.01)
            self.assertTrue(terminal.echo())
            self.assertIn(terminal.end(b""), code)

    def test_a_dumb_terminal_gets_plain_lines(self):
        self.environment["TERM"] = "dumb"
        terminal = Terminal(self.environment)
        terminal.wait(b"> ")
        terminal.type(b"upper cat\n")
        self.assertNotIn(b"\x1b", terminal.wait(b"CAT\r\n> "))
        self.assertEqual(terminal.end(), 0)


class Thinking(CommandLine):
    """A model that answers "upper cloud" with eight rows of thinking, and then with an answer that would command the terminal."""

    def setUp(self):
        super().setUp()
        rows = "".join(f"row {i}\n" for i in range(1, 9))
        self.model = self.written("thinks.gguf", spelling(C="<think>", L=rows, O="x\x1b[31my", U="</think>", D="an\x1b]0;title\x07swer\u202e\te\u0301"))
        self.thinking = f"<think>{rows}x\x1b[31my</think>"
        self.answer = "an\x1b]0;title\x07swer\u202e\te\u0301\n"
        self.environment = {"PLUMB_CACHE": str(self.path / "cache")}

    def on_terminal(self, *options, environment=None, columns=40):
        """What is sent for an answer."""
        terminal = Terminal({**self.environment, **(environment or {})}, columns=columns, model=self.model, options=("--temp", "0", *options))
        terminal.wait(b"> ")
        terminal.type(b"upper cloud\r" if (environment or {}).get("TERM") != "dumb" else b"upper cloud\n")
        terminal.wait(b"cloud")
        sent = terminal.wait(b"> ")
        self.assertEqual(terminal.end(), 0)
        return sent.decode()

    def test_it_is_dim_and_its_last_rows_are_shown(self):
        sent = self.on_terminal()
        screen, most = Screen(40), []
        for step in re.split("(?<=\x1b\\[J)", sent.split("swer")[0]):
            screen.feed(step)
            shown = [line for line in screen.lines() if line.startswith("  ")]
            most = max(most, shown, key=len)
            self.assertLessEqual(len(shown), 5)
        self.assertEqual(most, ["  row 5", "  row 6", "  row 7", "  row 8", "  x\\x1b[31my"])
        # One line is left, and the answer.
        left = [line for line in screen.lines() if line]
        self.assertRegex(left[0], r"^\(thought for \d+\.\d s\)$")
        self.assertEqual(left[1:], ["an\\x1b]0;title\\x07"])
        dim = re.findall(r"\x1b\[2m(.*?)\x1b\[22m", sent, re.DOTALL)
        self.assertIn("row 8", dim[0])
        self.assertTrue(dim[-1].startswith("(thought for "))
        self.assertNotIn("swer", "".join(dim))

    def test_where_colours_are_not_wanted(self):
        sent = self.on_terminal(environment={"NO_COLOR": "1"})
        self.assertIn("(thought for ", sent)
        self.assertNotIn("\x1b[2m", sent)

    def test_a_dumb_terminal_gets_all_of_it(self):
        sent = self.on_terminal(environment={"TERM": "dumb"})
        self.assertIn("<think>row 1\r\nrow 2", sent)
        self.assertIn("x\\x1b[31my</think>an\\x1b]0;title", sent)
        self.assertNotIn("\x1b", sent)

    def test_it_can_be_hidden(self):
        sent = self.on_terminal("--hide-thinking")
        self.assertNotIn("row", sent)
        self.assertNotIn("thought", sent)
        self.assertIn("an\\x1b]0;title\\x07swer\\u202e\te\u0301\r\n", sent)
        for command in (["run", self.model, "-p", "upper cloud"], ["chat", self.model]):
            said = plumb(*command, "--temp", "0", "--hide-thinking", stdin=b"upper cloud\n" * (command[0] == "chat"))
            self.assertEqual(said.stdout.decode(), self.answer, said.stderr)

    def test_a_pipe_gets_all_bytes_as_they_are(self):
        for command in (["run", self.model, "-p", "upper cloud"], ["chat", self.model]):
            said = plumb(*command, "--temp", "0", stdin=b"upper cloud\n" * (command[0] == "chat"))
            self.assertEqual(said.stdout.decode(), self.thinking + self.answer, said.stderr)

    def test_show_has_what_was_folded(self):
        done = plumb("chat", self.model, "--temp", "0", "--hide-thinking", stdin=b"upper cloud\n/show thinking\n/show messages\n")
        self.assertIn("row 1\nrow 2\n", done.stderr.decode())
        self.assertIn("x\\x1b[31my", done.stderr.decode())
        self.assertIn("assistant: an\\x1b]0;title\\x07swer\\u202e\te\u0301", done.stderr.decode())


if __name__ == "__main__":
    unittest.main()
