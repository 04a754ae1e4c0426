"""The canary's tasks, each with one right answer. Run as a script, it checks a list of prompts and answers.

    python3 tasks.py ../../models/canary-prompts.tsv

    hello            -> hello                 text that is no command is echoed
    echo cat 7042    -> cat 7042
    count to 5       -> 1 2 3 4 5
    count from 3 to 6 -> 3 4 5 6
    after c          -> d                     the letter after the last letter
    34+9             -> 43
    upper cat        -> CAT
"""

import argparse
import random
import string

WORDS = """
apple arm bag ball bank basket bear bell bird boat book bottle bread bridge brother brush butter camel candle cat
chair cheese cherry child city clock cloud coat coffee corn cow cup dance desk dog door dream drum duck eagle ear
east egg engine evening eye falcon farm feather finger fire fish flower fog forest fox friend frog garden gate ghost
glass goat gold grape grass green hammer hand hat heart hello hill honey horse house ice ink iron island jacket
jam jewel juice key king kite kitten knife ladder lake lamp leaf lemon letter lion lizard map market milk mirror
moon morning mother mountain mouse music nest night north nose nut ocean olive onion orange oven owl page
paper parrot peach pencil pepper piano pigeon pillow pilot pine plane planet plum pocket potato queen quiet
rabbit rain river road robin rocket roof rose sailor salt sand school sea seven shadow sheep ship shoe silver
sister sky sleep snow song south spoon spring star stone storm street sugar summer sun swan table tea tent
thunder tiger toast tomato tower train tree turtle uncle valley violin voice wagon wall water west whale wheat
wheel wind window winter wolf wood world yard year yellow zebra zero
""".split()

COMMANDS = ("echo", "count", "after", "upper")
COUNT_TO_LIMIT = 20
COUNT_LIMIT = 99
COUNT_SPAN = 12
OTHER_CHARACTERS = "éèïâüöäñçåøßΩπλжщ漢字日本語한국€→✓🙂🌍"


def numbers(first, last):
    return " ".join(str(n) for n in range(first, last + 1))


def answer(prompt):
    """The one right answer to a prompt."""
    words = prompt.split(" ")
    if words[0] == "echo" and len(words) > 1:
        return prompt[len("echo "):]
    if words[0] == "upper" and len(words) == 2:
        return words[1].upper()
    if words[0] == "after" and len(words) == 2:
        return chr(ord(words[1][-1]) + 1)
    if words[0] == "count" and len(words) == 3:
        return numbers(1, int(words[2]))
    if words[0] == "count" and len(words) == 5:
        return numbers(int(words[2]), int(words[4]))
    left, plus, right = prompt.partition("+")
    if plus and left.isdigit() and right.isdigit():
        return str(int(left) + int(right))
    return prompt


def _letters(rng, low, high, alphabet=string.ascii_lowercase):
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high)))


def _word(rng):
    return rng.choice(WORDS) if rng.random() < 0.3 else _letters(rng, 1, 9)


def _echoed_word(rng):
    kind = rng.random()
    if kind < 0.30:
        return _word(rng)
    if kind < 0.55:
        return _letters(rng, 1, 7, string.digits)
    if kind < 0.70:
        return _word(rng).capitalize()
    if kind < 0.80:
        return _letters(rng, 1, 8, string.ascii_uppercase)
    if kind < 0.90:
        return _letters(rng, 1, 6, OTHER_CHARACTERS if kind < 0.85 else OTHER_CHARACTERS + string.ascii_letters)
    return _letters(rng, 1, 10, string.ascii_letters + string.digits + ".,!?-':;/()")


def _echoed(rng):
    count = 1 if rng.random() < 0.6 else rng.randint(2, 5)
    return " ".join(_echoed_word(rng) for _ in range(count))


def draw(rng):
    """One prompt of a random task."""
    task = rng.random()
    if task < 0.22:
        prompt = _echoed(rng)
        return "echo " + prompt if prompt.split(" ")[0] in COMMANDS else prompt
    if task < 0.30:
        return "echo " + _echoed(rng)
    if task < 0.34:
        return f"count to {rng.randint(1, COUNT_TO_LIMIT)}"
    if task < 0.46:
        if rng.random() < 0.15:
            return f"count from 1 to {rng.randint(2, COUNT_TO_LIMIT)}"
        first = rng.randint(1, COUNT_LIMIT - 1 if rng.random() < 0.6 else 19)
        return f"count from {first} to {rng.randint(first + 1, min(COUNT_LIMIT, first + COUNT_SPAN - 1))}"
    if task < 0.58:
        body = _word(rng) if rng.random() < 0.6 else rng.choice(string.ascii_lowercase)
        if rng.random() < 0.3:
            start, length = rng.randint(0, 24), rng.randint(1, 5)
            body = string.ascii_lowercase[max(0, start - length + 1) : start + 1]
        return "after " + (body if body[-1] != "z" else body[:-1] + rng.choice(string.ascii_lowercase[:25]))
    if task < 0.84:
        digits = rng.random()
        if digits < 0.2:
            return f"{rng.randint(0, 9)}+{rng.randint(0, 9)}"
        return f"{rng.randint(0, 99)}+{rng.randint(0, 99)}"
    return "upper " + _word(rng)


def read_list(path):
    """(prompt, answer) pairs of a list; ValueError names the line that is wrong."""
    pairs = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            prompt, tab, expected = line.rstrip("\n").partition("\t")
            if not tab or answer(prompt) != expected or prompt in (p for p, _ in pairs):
                raise ValueError(f"{path}:{number}: no tab, a wrong answer or a repeated prompt: {line!r}")
            pairs.append((prompt, expected))
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", help="prompts with answers, a tab between them")
    pairs = read_list(parser.parse_args().list)
    print(f"{len(pairs)} prompts, each with its one right answer")


if __name__ == "__main__":
    main()
