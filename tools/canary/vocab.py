"""The canary's vocabulary, its SentencePiece-style tokenizer and its chat template.

The vocabulary has the layout of Llama's: <unk>, <s>, </s>, the 256 byte tokens, then the pieces by falling
score. Only the role markers and their prefixes are longer than one character. All of these begin with '<|', so no ordinary
word contains one, and every word is spelled letter by letter.
"""

import heapq

SPACE = "\u2581"

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
FIRST_BYTE_ID = 3

# Token types as GGUF numbers them (tokenizer.ggml.token_type).
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}\n"
    "{{- raise_exception('the canary knows the roles system, user and assistant only') -}}\n"
    "{%- endif -%}\n"
    "{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|assistant|>\\n' -}}\n"
    "{%- endif -%}\n"
)


def _multi_letter_pieces():
    pieces = ["<|", "|>"]
    for role in ("user", "assistant", "system"):
        for end in range(1, len(role) + 1):
            pieces.append("<|" + role[:end])
    return pieces


def _build():
    pieces = ["<unk>", "<s>", "</s>"]
    types = [UNKNOWN, CONTROL, CONTROL]
    scores = [0.0, 0.0, 0.0]
    for byte in range(256):
        pieces.append(f"<0x{byte:02X}>")
        types.append(BYTE)
        scores.append(0.0)
    single = [SPACE] + [chr(c) for c in range(0x21, 0x7F)]
    for rank, piece in enumerate(_multi_letter_pieces() + single):
        pieces.append(piece)
        types.append(NORMAL)
        scores.append(-float(rank))
    return pieces, scores, types


PIECES, SCORES, TYPES = _build()
VOCAB_SIZE = len(PIECES)
_ID_OF = {piece: i for i, piece in enumerate(PIECES) if TYPES[i] == NORMAL}


def encode_text(text):
    """The ids of plain text: merges neighbours greedily, best score first, leftmost among equals."""
    symbols = list(text.replace(" ", SPACE))
    count = len(symbols)
    before = list(range(-1, count - 1))
    after = list(range(1, count + 1))
    queue = []

    def offer(left):
        right = after[left]
        if left < 0 or right >= count:
            return
        merged = symbols[left] + symbols[right]
        if merged in _ID_OF:
            heapq.heappush(queue, (-SCORES[_ID_OF[merged]], left, right, merged))

    for i in range(count - 1):
        offer(i)
    while queue:
        _, left, right, merged = heapq.heappop(queue)
        if symbols[left] + symbols[right] != merged or after[left] != right or not symbols[right]:
            continue
        symbols[left] = merged
        symbols[right] = ""
        after[left] = after[right]
        if after[right] < count:
            before[after[right]] = left
        if before[left] >= 0:
            offer(before[left])
        offer(left)

    ids = []
    for symbol in symbols:
        if not symbol:
            continue
        if symbol in _ID_OF:
            ids.append(_ID_OF[symbol])
        else:
            ids.extend(FIRST_BYTE_ID + b for b in symbol.encode("utf-8"))
    return ids


def encode(text):
    """The ids of a rendered prompt: <s> first, special tokens parsed, a space before text that follows a special token."""
    ids = [BOS_ID]
    special = {"<s>": BOS_ID, "</s>": EOS_ID, "<unk>": UNK_ID}
    rest = text
    while rest:
        found = [(rest.find(s), s) for s in special if s in rest]
        at, mark = min(found) if found else (len(rest), "")
        if at:
            ids.extend(encode_text(" " + rest[:at]))
        if mark:
            ids.append(special[mark])
        rest = rest[at + len(mark):]
    return ids


def decode(ids):
    """The text of generated ids; control tokens give no text."""
    out = bytearray()
    for i in ids:
        if TYPES[i] == BYTE:
            out.append(i - FIRST_BYTE_ID)
        elif TYPES[i] == NORMAL:
            out.extend(PIECES[i].replace(SPACE, " ").encode("utf-8"))
    return out.decode("utf-8", errors="replace")


def render(messages, add_generation_prompt=True):
    """The text that CHAT_TEMPLATE renders for (role, content) pairs."""
    text = "".join(f"<|{role}|>\n{content}</s>\n" for role, content in messages)
    return text + ("<|assistant|>\n" if add_generation_prompt else "")
