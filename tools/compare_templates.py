#!/usr/bin/env python3
"""Compares plumb's chat templates with Python's jinja2, set up as transformers does it, on random templates.

Usage: compare_templates.py PLUMB [--seconds 60] [--seed 1] [--keep FOLDER]
       compare_templates.py PLUMB --templates FOLDER      every *.jinja of a folder over the test's conversations

Both run random expressions (all operators, literals, methods, filters, tests) and random templates (tags with every kind
of whitespace control, loops, conditions, assignments, macros). Both must give the same text, or both an error. Differences
are printed, and kept in FOLDER. Exit code 1 if there is one. What plumb says it does not support is counted and is none.

Values that Python prints with a memory address (functions, generators) are left out. Needs jinja2 and transformers.
"""

import argparse
import contextlib
import io
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import jinja2
import jinja2.compiler
import jinja2.optimizer
import jinja2.visitor
from transformers.utils import chat_template_utils

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).resolve().parent.parent
MESSAGES = [
    {"role": "system", "content": "You are  terse.\n"},
    {"role": "user", "content": "Hällo <b>wörld</b> & 'all' \"of\" you 🦜", "n": 3},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "x1", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None]}}}]},
    {"role": "tool", "content": [{"type": "text", "text": "part"}, {"type": "image"}], "items": {"k": "v"}},
    {"role": "user", "content": ""},
]
BATCH = 40
SEPARATOR = "\x1d\n"


class TooSlow(Exception):
    pass


@contextlib.contextmanager
def at_most(seconds):
    def stop(signum, frame):
        raise TooSlow

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def by_jinja(source, messages, tools=None, **others):
    """The text, or an exception."""
    try:
        with at_most(2), contextlib.redirect_stderr(io.StringIO()):
            compiled = chat_template_utils._compile_jinja_template(source)
            variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
            text = compiled.render(**variables, bos_token="<s>", eos_token="</s>", **others)
            text.encode()
            return text
    except Exception as error:
        return error


class Plumb:
    def __init__(self, program):
        self.program = program
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)

    def render(self, source, messages, tools=None, generation=True):
        """The text; an exception for an error that plumb reports; any other failure as a text that begins with CRASH."""
        (self.path / "t.jinja").write_bytes(source.encode())
        (self.path / "m.json").write_text(json.dumps(messages))
        command = [self.program, "template", str(self.path / "t.jinja"), "--messages", str(self.path / "m.json")]
        if tools is not None:
            (self.path / "tools.json").write_text(json.dumps(tools))
            command += ["--tools", str(self.path / "tools.json")]
        if not generation:
            command.append("--no-generation-prompt")
        done = subprocess.run(command + ["--bos", "<s>", "--eos", "</s>"], capture_output=True, timeout=60)
        if done.returncode == 0:
            return done.stdout.decode()
        message = done.stderr.decode(errors="replace").strip()
        if done.returncode != 2 or not message:
            return f"CRASH: exit {done.returncode}: {message}"
        return RuntimeError(message)


STRINGS = ["", "a", "Abc", "hello World", "  pad\t", "é🦜", "ßǅ", "1", "42", "-7", "3.5", "0x1F", "a,b,,c", "line1\\nline2\\r\\n", "<b>&", "it\\'s", "%s|%d", "{}-{}", "{0!r:>6}", "tRuE", "foo.bar", "x y z", "ΑΣ", "\\u00a0", "None"]
NAMES = ["messages", "messages[0]", "messages[1]", "messages[2]", "messages[3]", "messages[1].content", "messages[0]['content']", "messages[2].tool_calls", "messages[2].tool_calls[0].function.arguments", "messages[3].content", "missing", "missing_too", "tools", "bos_token", "add_generation_prompt", "range(5)", "range(2, 9, 3)", "namespace(a=1, b='x')", "dict(a=1)"]
METHODS = {
    "strip": ["", "'a'", "none"], "lstrip": ["", "' l'"], "rstrip": ["", "'c'"], "split": ["", "','", "' '", "',', 1", "none, 1", "'l'", "maxsplit=1"], "rsplit": ["", "',', 1", "maxsplit=1", "'.'"],
    "splitlines": ["", "true"], "join": ["['a', 'b']", "'xyz'", "[1]", "[]", "messages[1]"], "replace": ["'a', 'b'", "'', '-'", "'l', 'L', 1", "'o', ''"],
    "startswith": ["'a'", "('x', 'h')", "'e', 1"], "endswith": ["'c'", "('d', 'z')", "'l', 0, 3"], "upper": [""], "lower": [""], "title": [""], "capitalize": [""], "swapcase": [""], "casefold": [""],
    "find": ["'l'", "'z'", "'', 3", "'l', -3", "'', 99"], "rfind": ["'l'", "''"], "index": ["'a'", "'l'", "1"], "rindex": ["'l'"], "count": ["'l'", "''", "1", "'a', 1"],
    "format": ["1, 'b'", "'x'", "a=1", "[1]", "1.5, 2"], "isdigit": [""], "isalpha": [""], "isalnum": [""], "isspace": [""], "isupper": [""], "islower": [""], "istitle": [""], "isnumeric": [""], "isdecimal": [""], "isidentifier": [""], "isprintable": [""], "isascii": [""],
    "zfill": ["5", "0"], "center": ["9", "9, '*'", "4"], "ljust": ["6, '.'"], "rjust": ["6"], "removeprefix": ["'a'"], "removesuffix": ["'c'"], "partition": ["','", "'l'"], "rpartition": ["','"], "expandtabs": ["", "4"],
    "items": [""], "keys": [""], "values": [""], "get": ["'a'", "'role'", "'zz', 5", "1"], "copy": [""], "append": ["1"], "pop": [""], "update": ["{}"], "sort": [""], "bit_length": [""], "is_integer": [""], "nothing": [""],
}
FILTERS = {
    "join": ["", "', '", "'-', attribute='role'", "d='.'"], "map": ["'upper'", "attribute='role'", "attribute='zz', default='d'", "'int'", "'default', 'q'", "attribute=0", "'length'", "'string'", "'nope'", "'tojson'"],
    "select": ["", "'string'", "'odd'", "'gt', 1", "'in', [1, 'a']", "'defined'"], "reject": ["", "'string'", "'none'"], "selectattr": ["'role'", "'role', 'equalto', 'user'", "'content', 'string'", "'a.b', 'defined'", "'n', 'defined'"], "rejectattr": ["'n'", "'role', 'in', ['user']"],
    "default": ["", "'d'", "'d', true", "0, boolean=true"], "d": ["'z'"], "length": [""], "count": [""], "first": [""], "last": [""], "trim": ["", "'a'"], "upper": [""], "lower": [""], "title": [""], "capitalize": [""],
    "replace": ["'a', 'b'", "'l', 'L', 1", "1, 2"], "indent": ["", "2", "2, true", "1, blank=true", "'> '", "width=3, first=true"], "tojson": ["", "indent=2", "separators=(',', ':')", "sort_keys=true", "ensure_ascii=true", "indent=0", "indent='\\t'"],
    "string": [""], "int": ["", "7", "base=16", "-1, 8"], "float": ["", "1.5"], "list": [""], "dictsort": ["", "true", "by='value'", "reverse=true"], "items": [""], "sort": ["", "reverse=true", "case_sensitive=true", "attribute='role'"], "unique": ["", "true", "attribute='role'"], "reverse": [""],
    "batch": ["2", "3, 'x'", "0"], "slice": ["2", "3, 'x'"], "groupby": ["'role'", "0", "'n', default=0"], "sum": ["", "start=1", "attribute='n'", "start=[]"], "min": ["", "attribute='role'"], "max": ["", "case_sensitive=true"], "abs": [""], "round": ["", "1", "2", "-1", "0, 'ceil'", "1, 'floor'"],
    "center": ["", "9"], "wordcount": [""], "truncate": ["", "5", "6, true", "8, false, '..', 0"], "format": ["1, 2", "'a'", "a=1"], "safe": [""], "e": [""], "escape": [""], "forceescape": [""], "urlencode": [""], "xmlattr": ["", "false"], "attr": ["'role'", "'upper'"], "filesizeformat": ["", "true"], "nofilter": [""],
}
GENERATORS = ["map", "select", "reject", "selectattr", "rejectattr", "unique", "items", "batch", "slice", "reverse"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "callable", "true", "false", "odd", "even", "divisibleby 3", "divisibleby(2)", "eq 1", "eq('a')", "ne 2", "lt 3", "gt(1)", "le 2", "ge('a')", "equalto 'a'", "sameas none", "sameas(true)", "in [1, 'a', none]", "in 'abc'", "upper", "lower", "filter", "test", "escaped", "notest"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]
FORMATS = ["%s", "%d", "%5d", "%-5s|", "%05.1f", "%x", "%X", "%o", "%e", "%g", "%r", "%c", "%%", "%+d", "% d", "%.2s", "%i", "%#x", "%5.3d", "%(a)s", "%a"]
SPECS = ["", ":5", ":<5", ":^7", ":>5", ":05", ":+", ":,", ":_", ":x", ":#x", ":b", ":o", ":e", ":.2f", ":.3g", ":%", ":.1%", ":*^9", ":010.2f", ":s", ":d", ":n", ":c", ":#b", ": d", ":.0f", ":.3", ":=+6", "!r", "!s", "!a", "!r:>9", ":08,", ":G"]


class Maker:
    def __init__(self, source):
        self.random = source

    def pick(self, *makers):
        return self.random.choice(makers)()

    def number(self):
        r = self.random
        return r.choice([
            str(r.randint(0, 12)), str(r.randint(0, 12)), str(r.randint(0, 10**6)), str(r.randint(0, 10**25)),
            f"{r.uniform(0, 10):.3f}", f"{r.uniform(0, 1) * 10.0 ** r.randint(-8, 25)!r}".replace("e+", "e"), "1e3", "2.5E-2", "1_000", "0x1f", "0b101", "0o17", "0.1", "1e16", "123456789012345.6", "0.00001", "9007199254740993", "9223372036854775807", "5.0",
        ])

    def text(self):
        quote = self.random.choice("'\"")
        content = self.random.choice(STRINGS)
        if quote == '"':
            content = content.replace("\\'", "'")
        return quote + content + quote

    def atom(self):
        return self.pick(self.number, self.text, self.text, lambda: self.random.choice(NAMES), lambda: self.random.choice(NAMES),
                         lambda: self.random.choice(["true", "false", "none", "True", "None", "[]", "{}", "()", "x", "loop"]))

    def key(self):
        return self.random.choice(["0", "1", "-1", "5", "'role'", "'content'", "'a'", "'items'", "none", "1.0", "true", "[1]", "1:", ":2", "::-1", "-2:", "1:3", "::2", "3:0:-1", ":", "-1:-4:-2", "'x':", "::0", "99:", ":-1"])

    def sequence(self, depth):
        items = ", ".join(self.expression(depth - 1) for _ in range(self.random.randint(0, 4)))
        return self.random.choice(["[" + items + "]", "(" + items + ",)" if items else "()"])

    def mapping(self, depth):
        pairs = ", ".join(f"{self.random.choice([self.text(), self.number(), 'true', 'none'])}: {self.expression(depth - 1)}" for _ in range(self.random.randint(0, 3)))
        return "{" + pairs + "}"

    def filtered(self, depth):
        name = self.random.choice(list(FILTERS))
        arguments = self.random.choice(FILTERS[name])
        call = f"({arguments})" if arguments or self.random.random() < 0.1 else ""
        makes_generator = name in GENERATORS
        tail = self.random.choice(["|list", "|list|string"] if makes_generator else ["", "", "|list", "|string", "|list|string"])
        return f"{self.operand(depth)}{self.random.choice(['|', ' | '])}{name}{call}{tail}"

    def called(self, depth):
        name = self.random.choice(list(METHODS))
        return f"{self.operand(depth)}.{name}({self.random.choice(METHODS[name])})"

    def formatted(self, depth):
        r = self.random
        if r.random() < 0.5:
            form = "".join(r.choice(FORMATS) for _ in range(r.randint(1, 2)))
            return f"'{form}' % {r.choice([self.operand(depth), '(' + self.operand(depth) + ', ' + self.operand(depth) + ')', '{%sa%s: 1}' % (chr(39), chr(39))])}"
        return "'{" + r.choice(["", "0", "a", "0[0]", "0.role"]) + r.choice(SPECS) + "}'.format(" + r.choice(["", "a="]) + self.operand(depth) + ")"

    def operand(self, depth):
        inner = self.expression(depth - 1)
        return inner if inner.replace("_", "").isalnum() or inner[0] in "'\"[" and inner[-1] in "'\"]" and len(inner) < 12 else f"({inner})"

    def expression(self, depth=3):
        if depth <= 0:
            return self.atom()
        r = self.random
        return self.pick(
            self.atom,
            lambda: f"{self.operand(depth)} {r.choice(OPERATORS)} {self.operand(depth)}",
            lambda: f"{self.operand(depth)} {r.choice(OPERATORS)} {self.operand(depth)}",
            lambda: f"{self.atom()} {r.choice(OPERATORS)} {self.atom()} {r.choice(OPERATORS)} {self.atom()}",
            lambda: f"{self.operand(depth)} ** {r.choice(['2', '3', '0.5', '-1', '0'])}",
            lambda: f"{r.choice(['not ', '-', '+', '- -'])}{self.operand(depth)}",
            lambda: f"{self.operand(depth)} if {self.operand(depth)}" + r.choice(["", f" else {self.operand(depth)}"]),
            lambda: f"{self.operand(depth)}[{self.key()}]",
            lambda: f"{self.operand(depth)}.{r.choice(['role', 'content', 'a', 'zz', 'items', 'n', '0', '__class__', 'real'])}",
            lambda: self.filtered(depth), lambda: self.filtered(depth), lambda: self.filtered(depth),
            lambda: self.called(depth), lambda: self.called(depth),
            lambda: f"{self.operand(depth)} is {r.choice(['', '', 'not '])}{r.choice(TESTS)}",
            lambda: self.sequence(depth), lambda: self.mapping(depth), lambda: self.formatted(depth),
        )

    # Templates.

    def open(self, kind):
        return kind + self.random.choice(["", "", "-", "+"]) + self.random.choice(["", " "])

    def tag(self, content):
        return self.open("{%") + content + self.random.choice(["", " "]) + self.random.choice(["", "", "-", "+"]) + "%}"

    def space(self):
        return self.random.choice(["", "", " ", "\n", "  \n", "\n  ", "\t", "\r\n", "\n\n", " x ", "word", "\n\tw\n", "\u00a0", "}", "{ "])

    def body(self, depth):
        return "".join(self.space() + self.statement(depth - 1) for _ in range(self.random.randint(0, 3))) + self.space()

    def output(self):
        value = self.random.choice([self.expression(1), "x", "y", "loop.index", "ns.a", "loop.last", "loop.length", "loop.previtem", "loop.nextitem", "loop.cycle('a', 'b')", "loop.changed(x)", "m(x)", "m(1, b=y)", "caller()", "varargs", "kwargs"])
        return self.open("{{") + " " + value + " " + self.random.choice(["", "", "-"]) + "}}"

    def statement(self, depth):
        r = self.random
        if depth <= 0:
            return self.pick(self.output, self.output, lambda: self.open("{#") + " note\n more " + r.choice(["", "-", "+"]) + "#}")

        def loop():
            target = r.choice(["x", "y", "x, y", "(x, y)"])
            source = r.choice(["[1, 2, 3]", "range(4)", "messages", "messages[1]", "messages[1].items()", "[[1, 2], [3, 4]]", "'ab'", "missing", "[]", "{'a': 1}|items", "x", "messages|map(attribute='role')", "[1, [2, [3]]]"])
            condition = r.choice(["", "", "", " if x", " if x is string", " if not ns.a"])
            recursive = r.choice(["", "", "", " recursive"])
            other = self.tag("else") + self.body(depth) if r.random() < 0.3 else ""
            jump = self.tag(f"if x == {r.choice(['2', 'y', '1'])}") + self.tag(r.choice(["break", "continue"])) + self.tag("endif") if r.random() < 0.3 else ""
            again = r.choice(["", "", "{{ loop([4, 5]) if loop.depth < 3 }}"]) if recursive else ""
            return self.tag(f"for {target} in {source}{condition}{recursive}") + self.body(depth) + jump + again + self.body(depth) + other + self.tag("endfor")

        def condition():
            parts = self.tag("if " + self.expression(1)) + self.body(depth)
            for _ in range(r.randint(0, 2)):
                parts += self.tag("elif " + r.choice(["x", "y", "ns.a", self.expression(1)])) + self.body(depth)
            if r.random() < 0.5:
                parts += self.tag("else") + self.body(depth)
            return parts + self.tag("endif")

        def macro():
            signature = r.choice(["", "a", "a, b=2", "x, y=x", "a=[], b=none"])
            return self.tag(f"macro m({signature})") + self.body(depth) + self.space() + r.choice(["", "{{ a }}{{ b }}", "{{ varargs }}{{ kwargs }}", "{{ caller(1) }}"]) + self.tag("endmacro") + self.output()

        return self.pick(
            loop, loop, condition, condition, macro, self.output,
            lambda: self.tag("set " + r.choice(["x", "y", "z"]) + " = " + r.choice([self.expression(1), "x", "[x, y]", "y"])),
            lambda: self.tag("set x, y = " + r.choice(["1, 2", "y, x", "messages[0].values()", "'ab'", "[1]"])),
            lambda: self.tag("set ns = namespace(a=" + self.expression(1) + ")") + self.tag("set ns.a = " + self.expression(1)),
            lambda: self.tag("set " + r.choice(["x", "y"]) + r.choice(["", " | upper", " | trim | length"])) + self.body(depth) + self.tag("endset"),
            lambda: self.tag("with " + r.choice(["x = 1", "x = y, y = x", "z = x", ""])) + self.body(depth) + self.tag("endwith"),
            lambda: self.tag("filter " + r.choice(["upper", "trim", "replace('w', 'W')|indent(2)", "length"])) + self.body(depth) + self.tag("endfilter"),
            lambda: self.tag("call" + r.choice(["", "(c)", "(c, d=3)"]) + " m(" + r.choice(["", "1", "1, 2, 3", "b=1", "q=1"]) + ")") + self.body(depth) + self.tag("endcall"),
            lambda: self.tag("generation") + self.body(depth) + self.tag("endgeneration"),
            lambda: self.tag("raw").replace("+%}", "%}") + self.space() + "{{ x }}{% if %}" + self.space() + self.tag("endraw"),
            lambda: self.tag("block b" + str(r.randint(0, 99)) + r.choice(["", " scoped"])) + self.body(depth) + self.tag("endblock"),
        )

    def template(self):
        start = self.random.choice(["", "{% set x = 1 %}{% set y = 'why' %}", "{%- set ns = namespace(a=0) -%}{% set x = [1, 2] %}{% set y = none %}"])
        macro = self.random.choice(["", "{% macro m(a=1, b=2) %}<{{ a }},{{ b }}{{ caller(a) if caller }}>{% endmacro %}"])
        return start + macro + "".join(self.space() + self.statement(3) for _ in range(self.random.randint(1, 4))) + self.space()


def has_address(text):
    return any(mark in text for mark in (" at 0x", "t 0x7", "<built-in", "<bound", "<function", "<class", "object at", "&lt;function", "', 't', ' ', '0', 'x'"))


def forget_compiled():
    for name in ("_compile_jinja_template", "_cached_compile_jinja_template"):
        function = getattr(chat_template_utils, name, None)
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@contextlib.contextmanager
def without_folding():
    """jinja2 without constant folding, which lets some errors pass at compile time that jinja2 raises at run time."""
    def impossible(self, node, frame, finalize):
        if not isinstance(node, jinja2.nodes.TemplateData):
            raise jinja2.nodes.Impossible()
        return usual(self, node, frame, finalize)

    usual = jinja2.compiler.CodeGenerator._output_child_to_const
    optimize = jinja2.optimizer.Optimizer.generic_visit
    jinja2.compiler.CodeGenerator._output_child_to_const = impossible
    jinja2.optimizer.Optimizer.generic_visit = jinja2.visitor.NodeTransformer.generic_visit
    forget_compiled()
    try:
        yield
    finally:
        jinja2.compiler.CodeGenerator._output_child_to_const = usual
        jinja2.optimizer.Optimizer.generic_visit = optimize
        forget_compiled()


class Comparison:
    def __init__(self, plumb, keep):
        self.plumb, self.keep = plumb, keep
        self.same_text = self.same_error = self.folded = self.refused = self.different = 0

    def report(self, source, expected, actual):
        self.different += 1
        print(f"--- {source!r}\n  jinja2: {expected!r}\n  plumb:  {actual!r}", flush=True)
        if self.keep:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{self.different:04}.jinja").write_bytes(source.encode())

    def one(self, source, expected, actual):
        if isinstance(expected, TooSlow) or isinstance(expected, str) and has_address(expected):
            return
        if isinstance(expected, str) and isinstance(actual, str) and expected == actual:
            self.same_text += 1
        elif isinstance(expected, Exception) and isinstance(actual, Exception):
            self.same_error += 1
        elif isinstance(actual, Exception) and "not supported" in str(actual):
            self.refused += 1
        elif not isinstance(actual, str) or not actual.startswith("CRASH"):
            with without_folding():
                unfolded = by_jinja(source, MESSAGES)
            if unfolded == actual or isinstance(unfolded, Exception) and isinstance(actual, Exception):
                self.folded += 1
            else:
                self.report(source, expected, actual)
        else:
            self.report(source, expected, actual)

    def batch(self, sources):
        expected = {source: by_jinja(source, MESSAGES) for source in sources}
        good = [s for s, e in expected.items() if isinstance(e, str) and not has_address(e)]
        if good:
            actual = self.plumb.render(SEPARATOR.join(s + "{{ '' }}" for s in good), MESSAGES)
            parts = actual.split(SEPARATOR) if isinstance(actual, str) else []
            if len(parts) == len(good):
                for source, part in zip(good, parts):
                    self.one(source, expected[source], part)
            else:
                for source in good:
                    self.one(source, expected[source], self.plumb.render(source, MESSAGES))
        for source in sources:
            if isinstance(expected[source], Exception) and hash(source) % 4 == 0:
                self.one(source, expected[source], self.plumb.render(source, MESSAGES))


def compare_folder(comparison, folder):
    stored = json.loads((HERE / "tests/data/text/templates/conversations.json").read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        for case in stored["conversations"]:
            if set(case) - {"name", "messages", "tools", "add_generation_prompt"}:
                continue
            generation = case.get("add_generation_prompt", True)
            messages = chat_template_utils._alias_reasoning_fields(case["messages"])
            expected = by_jinja(source, messages, case.get("tools"))
            if not generation:
                compiled = by_jinja("{% set add_generation_prompt = false %}" + source, messages, case.get("tools"))
                expected = compiled
            comparison.one(f"{path.name}: {case['name']}", expected, comparison.plumb.render(source, case["messages"], case.get("tools"), generation))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plumb")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--templates", type=pathlib.Path)
    arguments = parser.parse_args()

    comparison = Comparison(Plumb(arguments.plumb), arguments.keep)
    if arguments.templates:
        compare_folder(comparison, arguments.templates)
    else:
        maker = Maker(random.Random(arguments.seed))
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            comparison.batch(["{{ " + maker.expression(maker.random.randint(1, 3)) + " }}" for _ in range(BATCH)])
            for _ in range(3):
                source = maker.template()
                comparison.one(source, by_jinja(source, MESSAGES), comparison.plumb.render(source, MESSAGES))
    print(f"{comparison.same_text} same texts, {comparison.same_error} errors in both, {comparison.folded} the same once "
          f"constants are not folded, {comparison.refused} not supported, {comparison.different} different")
    sys.exit(1 if comparison.different else 0)


main()
