#!/usr/bin/env python3
"""Writes src/text/jinja/unicode_tables.h: the Unicode properties and case mappings that Python's str methods use.

Chat templates call Python string methods (upper, title, isalpha, split, ...), so the tables are made from Python itself.
Usage: make_jinja_unicode.py > src/text/jinja/unicode_tables.h
"""

import sys
import unicodedata

LAST = 0x110000
SURROGATES = range(0xD800, 0xE000)


def code_points():
    return (c for c in range(LAST) if c not in SURROGATES)


def ranges(predicate):
    result = []
    for c in code_points():
        if predicate(chr(c)):
            if result and result[-1][1] == c - 1:
                result[-1][1] = c
            else:
                result.append([c, c])
    return result


def is_cased(text):
    # A cased character keeps a following capital sigma final: "XΣ".lower() ends in "ς" if X is cased.
    return (text + "\u03a3").lower()[-1] == "\u03c2"


def is_case_ignorable(text):
    # An ignorable character between a cased one and the sigma does not matter.
    return ("A" + text + "\u03a3").lower()[-1] == "\u03c2" and not is_cased(text)


PROPERTIES = [
    ("alpha", str.isalpha),
    ("decimal", str.isdecimal),
    ("digit", str.isdigit),
    ("numeric", str.isnumeric),
    ("space", str.isspace),
    ("lower", str.islower),
    ("upper", str.isupper),
    ("title", lambda c: unicodedata.category(c) == "Lt"),
    ("printable", str.isprintable),
    ("identifier_start", str.isidentifier),
    ("identifier_part", lambda c: ("a" + c).isidentifier()),
    ("cased", is_cased),
    ("case_ignorable", is_case_ignorable),
]


def print_property(name, predicate):
    rows = ranges(predicate)
    print(f"inline constexpr CodeRange k_{name}[] = {{")
    line = "   "
    for first, last in rows:
        item = f" {{0x{first:x}, 0x{last:x}}},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};\n")


def print_mapping(name, function):
    # Runs of code points that move by one distance; stride 2 is how the alphabets that alternate cases are laid out.
    runs, special = [], []
    for c in code_points():
        mapped = function(chr(c))
        if mapped == chr(c):
            continue
        if len(mapped) > 1:
            special.append((c, mapped))
            continue
        delta = ord(mapped) - c
        if runs and runs[-1][2] == delta:
            first, last, _, stride = runs[-1]
            step = c - last
            if (stride == 0 and step <= 2) or stride == step:
                runs[-1] = (first, c, delta, step)
                continue
        runs.append((c, c, delta, 0))
    print(f"inline constexpr CaseRun k_to_{name}[] = {{")
    line = "   "
    for first, last, delta, stride in runs:
        item = f" {{0x{first:x}, 0x{last:x}, {delta}, {stride or 1}}},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};\n")
    print(f"inline constexpr CaseExpansion k_to_{name}_expansions[] = {{")
    line = "   "
    for c, mapped in special:
        points = ", ".join(f"0x{ord(m):x}" for m in mapped)
        item = f" {{0x{c:x}, {{{points}}}}},"
        if len(line) + len(item) > 120:
            print(line)
            line = "   "
        line += item
    print(line if special else "    {0, {}},")
    print("};\n")


def main():
    sys.stdout.reconfigure(encoding="utf-8")
    print("// Made by tools/make_jinja_unicode.py; do not edit.")
    print(f"// Unicode {unicodedata.unidata_version}, as Python's str methods see it.")
    print("// clang-format off")
    print("#pragma once\n\n#include <cstdint>\n\nnamespace plumb::text::jinja::unicode {\n")
    print("struct CodeRange {\n  std::uint32_t first, last;\n};")
    print("struct CaseRun {\n  std::uint32_t first, last;\n  std::int32_t delta;\n  std::uint32_t stride;\n};")
    print("struct CaseExpansion {\n  std::uint32_t from;\n  std::uint32_t to[3];\n};\n")
    for name, predicate in PROPERTIES:
        print_property(name, predicate)
    print_mapping("lower", str.lower)
    print_mapping("upper", str.upper)
    print_mapping("title", str.title)
    print_mapping("casefold", str.casefold)
    print("}  // namespace plumb::text::jinja::unicode\n// clang-format on")


main()
