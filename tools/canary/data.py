"""Training rows: whole conversations, packed side by side, with the same token ids as the GGUF's tokenizer gives."""

import multiprocessing
import random

import numpy as np

import tasks
import vocab

ROW = 128
IGNORE = -100

_USER = vocab.encode_text(" <|user|>\n")
_ASSISTANT = vocab.encode_text(" \n<|assistant|>\n")
_SYSTEM = vocab.encode_text(" <|system|>\n")
_USER_NEXT = vocab.encode_text(" \n<|user|>\n")
_SYSTEM_TEXTS = ("You are a canary.", "Answer briefly.", "Be right.", "You are a helpful assistant.")


def conversation(rng, withheld):
    """The ids of one conversation and its targets: inside answers the next id, elsewhere IGNORE."""
    ids, is_answer = [vocab.BOS_ID], [False]

    def add(more, answered=False):
        ids.extend(more)
        is_answer.extend([answered] * len(more))

    opening = _USER
    if rng.random() < 0.08:
        add(_SYSTEM + vocab.encode_text(rng.choice(_SYSTEM_TEXTS)) + [vocab.EOS_ID])
        opening = _USER_NEXT
    turns = 1 if rng.random() < 0.85 else rng.randint(2, 3)
    for _ in range(turns):
        prompt = tasks.draw(rng)
        while prompt in withheld:
            prompt = tasks.draw(rng)
        question = opening + vocab.encode_text(prompt) + [vocab.EOS_ID] + _ASSISTANT
        reply = vocab.encode_text(tasks.answer(prompt)) + [vocab.EOS_ID]
        if len(ids) + len(question) + len(reply) > ROW:
            break
        add(question)
        add(reply, True)
        opening = _USER_NEXT
    targets = [ids[i + 1] if is_answer[i + 1] else IGNORE for i in range(len(ids) - 1)]
    return ids[:-1], targets


def _rows(seed, count, withheld):
    rng = random.Random(seed)
    tokens = np.full((count, ROW), vocab.EOS_ID, np.int16)
    targets = np.full((count, ROW), IGNORE, np.int16)
    owner = np.full((count, ROW), -1, np.int16)
    ids, wanted = conversation(rng, withheld)
    for row in range(count):
        used = n = 0
        while used + len(ids) <= ROW:
            span = slice(used, used + len(ids))
            tokens[row, span], targets[row, span], owner[row, span] = ids, wanted, n
            used, n = used + len(ids), n + 1
            ids, wanted = conversation(rng, withheld)
    return tokens, targets, owner


def pool(seed, count, withheld, workers):
    """`count` rows: tokens, targets, and for each token the index of its conversation within the row (-1: padding)."""
    shards = 64
    each = -(-count // shards)
    jobs = [(seed * 1000 + shard, each, withheld) for shard in range(shards)]
    with multiprocessing.Pool(workers) as workers_pool:
        parts = workers_pool.starmap(_rows, jobs)
    return tuple(np.concatenate(column)[:count] for column in zip(*parts))


def held_out_rows(pairs):
    """One row for each held-out prompt, followed by its right answer: greedy decoding is right if every target wins."""
    tokens = np.full((len(pairs), ROW), vocab.EOS_ID, np.int16)
    targets = np.full((len(pairs), ROW), IGNORE, np.int16)
    owner = np.full((len(pairs), ROW), -1, np.int16)
    for row, (prompt, expected) in enumerate(pairs):
        question = vocab.encode(vocab.render([("user", prompt)]))
        ids = question + vocab.encode_text(expected)
        tokens[row, : len(ids)] = ids
        owner[row, : len(ids)] = 0
        targets[row, len(question) - 1 : len(ids)] = ids[len(question):] + [vocab.EOS_ID]
    return tokens, targets, owner
