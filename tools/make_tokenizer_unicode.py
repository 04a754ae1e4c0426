#!/usr/bin/env python3
"""Writes src/text/unicode/tables.cpp: what the tokenizers need to know of Unicode beyond what PCRE2 knows.

    pip install unicodedata2==15.1.0
    tools/make_tokenizer_unicode.py > src/text/unicode/tables.cpp

Unicode 15.1 is the version that llama.cpp's tables hold; Python's own unicodedata follows the interpreter.
"""
import sys
import unicodedata

import unicodedata2

VERSION = "15.1.0"
PCRE2_VERSION = "14.0.0"  # the Unicode version of the oldest supported PCRE2 (10.42)
# Characters that older tables lack are matched as a neighbour of the same general category, UTF-8 length and block
# (pre-tokenizers name blocks by their bounds). Four-byte ones lie outside all blocks that are named.
NEIGHBOURS = {
    (0x0CF3, 0x0CF3): 0x0CBC,
    (0x0ECE, 0x0ECE): 0x0ECD,
    (0x2FFC, 0x2FFF): 0x2FFB,
    (0x31EF, 0x31EF): 0x31E3,
}
FAR = {"L": 0x10000, "M": 0x101FD, "N": 0x10107, "P": 0x10100, "S": 0x1F300}


def ranges(points):
    """[(first, last)] of a sorted sequence of code points."""
    found = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return [tuple(r) for r in found]


def category(point):
    return unicodedata2.category(chr(point))


def of_category(letter):
    return ranges(p for p in range(0x110000) if category(p)[0] == letter and category(p) != "Cn")


def lower_pairs():
    for point in range(0x110000):
        lower = chr(point).lower() if point != 0x130 else "i"  # U+0130 lowers to "i" and a mark
        if len(lower) == 1 and ord(lower) != point:
            yield point, ord(lower)


def base_pairs():
    for point in range(0x110000):
        if 0xAC00 <= point <= 0xD7A3 or 0xD800 <= point <= 0xDFFF:
            continue
        base = ord(unicodedata2.normalize("NFD", chr(point))[0])
        if base != point:
            yield point, base


def mapped_ranges(pairs):
    """[(first, last, stride, delta)]: code points first, first + stride, … last map to themselves plus delta."""
    found = []
    for point, to in pairs:
        delta = to - point
        if found:
            first, last, stride, d = found[-1]
            step = point - last
            if d == delta and step in (1, 2) and (stride == step or first == last):
                found[-1] = (first, point, step, d)
                continue
        found.append((point, point, 1, delta))
    return found


def stand_ins():
    old = unicodedata
    yield 0x180E, 0x180E, 0x2060  # PCRE2's \s has it, Unicode's White_Space has not
    new = [p for p in range(0x110000) if old.category(chr(p)) == "Cn" and category(p) not in ("Cn", "Cf")]
    runs = []
    for point in new:
        key = category(point)[0]
        if runs and runs[-1][1] == point - 1 and runs[-1][2] == key:
            runs[-1][1] = point
        else:
            runs.append([point, point, key])
    for first, last, key in runs:
        instead = NEIGHBOURS[(first, last)] if first < 0x10000 else FAR[key]
        assert category(instead)[0] == old.category(chr(instead))[0] == key, hex(first)
        assert len(chr(instead).encode()) == len(chr(first).encode()) == len(chr(last).encode())
        yield first, last, instead


def emit(declaration, rows):
    print(f"\nnamespace {{\nconstexpr {declaration}[] = {{")
    line = ""
    for row in rows:
        item = "{" + ", ".join(str(v) if v < 10 else hex(v) for v in row) + "},"
        if len(line) + len(item) > 118:
            print("   " + line)
            line = ""
        line += " " + item
    print("   " + line)
    print("};\n}  // namespace")


def main():
    if unicodedata2.unidata_version != VERSION or unicodedata.unidata_version != PCRE2_VERSION:
        sys.exit(f"needs unicodedata2 {VERSION} on a Python whose own tables are Unicode {PCRE2_VERSION} (3.11)")
    print("// Made by tools/make_tokenizer_unicode.py from Unicode", VERSION + ".")
    print('#include "text/unicode/tables.h"\n\nnamespace plumb::text {\n\n// clang-format off')
    emit("CodePointRange mark_ranges", of_category("M"))
    emit("CodePointRange punctuation_ranges", of_category("P"))
    emit("CodePointRange control_ranges", of_category("C"))
    emit("MappedRange lower_ranges", mapped_ranges(lower_pairs()))
    emit("MappedRange base_ranges", mapped_ranges(base_pairs()))
    emit("StandIn stand_in_ranges", sorted(stand_ins()))
    print("\n// clang-format on\n")
    print("const std::span<const CodePointRange> marks = mark_ranges;")
    print("const std::span<const CodePointRange> punctuation = punctuation_ranges;")
    print("const std::span<const CodePointRange> controls = control_ranges;")
    print("const std::span<const MappedRange> lower_case = lower_ranges;")
    print("const std::span<const MappedRange> decomposition_bases = base_ranges;")
    print("const std::span<const StandIn> stand_ins = stand_in_ranges;")
    print("\n}  // namespace plumb::text")


if __name__ == "__main__":
    main()
