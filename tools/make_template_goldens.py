#!/usr/bin/env python3
"""Renders chat templates with Python's jinja2, set up as transformers does it, and writes the results: the goldens of
tests/text/chat_template_test.cpp.

Usage: make_template_goldens.py [--shared ../shared/data/chat-templates]

Reads   tests/data/text/templates/conversations.json   the conversations that are tried
        tests/data/text/templates/features/*.jinja      templates that exercise one feature each
        tests/data/text/templates/snippets.json         the keys: templates of one line, mostly on one rule each
        tests/data/text/templates/styles/*.jinja        templates in the manner of well-known models
        the folder of other people's templates, which are not in this repository
Writes  tests/data/text/templates/features.json         {name: {"text"} or {"error"}}
        tests/data/text/templates/snippets.json         {template: {"text"} or {"error"}}
        tests/data/text/templates/styles.json           {name: {conversation: {"text"} or {"error"}}}
        tests/data/text/templates/shared.json           {file: {"hash", "cases": {conversation: {"hash", "bytes"}
                                                         or {"error"}}}}, the hash being FNV-1a, 64 bits

An error that the template raised itself (raise_exception) is stored with its message. For any other error the message is
null: the test then asks only for an error. Needs the packages jinja2 and transformers.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parent.parent
DATA = HERE / "tests/data/text/templates"


class FixedDate(datetime.datetime):
    """The time that strftime_now sees. The test uses the same time."""

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, 14, 15, 9, 26, 535897, tz)


chat_template_utils.datetime = FixedDate


def render(source, variables):
    try:
        text = chat_template_utils._compile_jinja_template(source).render(**variables)
        text.encode("utf-8")
        return {"text": text}
    except jinja2.exceptions.TemplateError as error:
        own = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error) if own else None}
    except Exception:
        return {"error": None}


def variables_of(conversation, defaults):
    variables = dict(defaults)
    variables.update({key: value for key, value in conversation.items() if key != "name"})
    return variables


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def hashed(result):
    if "error" in result:
        return result
    data = result["text"].encode()
    return {"hash": fnv1a(data), "bytes": len(data)}


def write(path, data):
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=pathlib.Path, default=HERE.parent / "shared/data/chat-templates")
    arguments = parser.parse_args()

    stored = json.loads((DATA / "conversations.json").read_text(encoding="utf-8"))
    defaults = stored["defaults"]
    conversations = stored["conversations"]

    def all_conversations(source):
        return {c["name"]: render(source, variables_of(c, defaults)) for c in conversations}

    features = {}
    for path in sorted((DATA / "features").glob("*.jinja")):
        features[path.name] = render(path.read_bytes().decode(), variables_of(conversations[0], defaults))
    write(DATA / "features.json", features)

    path = DATA / "snippets.json"
    first = variables_of(conversations[0], defaults)
    snippets = [{source: render(source, first)} for source in json.loads(path.read_text(encoding="utf-8"))]
    lines = [json.dumps(snippet, ensure_ascii=False)[1:-1] for snippet in snippets]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    styles = {}
    for path in sorted((DATA / "styles").glob("*.jinja")):
        styles[path.name] = all_conversations(path.read_bytes().decode())
    write(DATA / "styles.json", styles)

    shared = {}
    for path in sorted(arguments.shared.glob("*.jinja")):
        source = path.read_bytes()
        cases = {name: hashed(result) for name, result in all_conversations(source.decode()).items()}
        shared[path.name] = {"hash": fnv1a(source), "cases": cases}
    if shared:
        write(DATA / "shared.json", shared)
    counts = f"{len(features)} features, {len(snippets)} snippets, {len(styles)} styles, {len(shared)} shared"
    print(f"{counts}, {len(conversations)} conversations")


main()
