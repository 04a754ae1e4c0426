"""Holds the canary against llama.cpp: tokens, chat template, and greedy answers in every quantization.

    python3 check_llamacpp.py ../../models/canary-f16.gguf ../../models/canary-prompts.tsv

Needs the packages llama-cpp-python and jinja2. Prints a Markdown table. Its lead is the right token's logit minus the next
best one, the smallest over all tokens of the right answers. Exits with 1 if any answer, id or template text differs.
"""

import argparse
import ctypes
import pathlib
import sys
import tempfile

import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

import tasks
import vocab

FORMATS = {
    "F32": "LLAMA_FTYPE_ALL_F32",
    "F16": "LLAMA_FTYPE_MOSTLY_F16",
    "BF16": "LLAMA_FTYPE_MOSTLY_BF16",
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "Q6_K": "LLAMA_FTYPE_MOSTLY_Q6_K",
    "Q5_K_M": "LLAMA_FTYPE_MOSTLY_Q5_K_M",
    "Q5_K_S": "LLAMA_FTYPE_MOSTLY_Q5_K_S",
    "Q5_1": "LLAMA_FTYPE_MOSTLY_Q5_1",
    "Q5_0": "LLAMA_FTYPE_MOSTLY_Q5_0",
    "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "Q4_K_S": "LLAMA_FTYPE_MOSTLY_Q4_K_S",
    "Q4_1": "LLAMA_FTYPE_MOSTLY_Q4_1",
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "IQ4_NL": "LLAMA_FTYPE_MOSTLY_IQ4_NL",
    "IQ4_XS": "LLAMA_FTYPE_MOSTLY_IQ4_XS",
    "Q3_K_M": "LLAMA_FTYPE_MOSTLY_Q3_K_M",
    "Q3_K_S": "LLAMA_FTYPE_MOSTLY_Q3_K_S",
    "Q2_K": "LLAMA_FTYPE_MOSTLY_Q2_K",
}


def quantize(source, target, ftype, pure):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, ftype)
    params.nthread = 1
    params.pure = pure
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp could not quantize to {ftype}")


def load(path):
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


def answer_and_lead(model, prompt, expected):
    """The greedy answer, and the smallest lead over the tokens of the right answer."""
    question = vocab.encode(vocab.render([("user", prompt)]))
    right = vocab.encode_text(expected) + [vocab.EOS_ID]
    model.reset()
    model.eval(question + right[:-1])
    logits = np.array(model.scores[len(question) - 1 : len(question) - 1 + len(right)])
    places = np.arange(len(right))
    wanted = logits[places, right]
    logits[places, right] = -np.inf
    leads = wanted - logits.max(1)
    if leads.min() > 0:
        return expected, leads.min()
    model.reset()
    model.eval(question)
    said = []
    while len(said) < 80:
        best = int(np.argmax(model.scores[model.n_tokens - 1]))
        if best == vocab.EOS_ID:
            break
        said.append(best)
        model.eval([best])
    return vocab.decode(said), leads.min()


def check_tokens(model, pairs):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(model.metadata["tokenizer.chat_template"])
    conversations = [[("user", prompt)] for prompt, _ in pairs]
    conversations += [[("system", "Be right."), ("user", a), ("assistant", b), ("user", "1")] for a, b in pairs]
    for messages in conversations:
        listed = [{"role": role, "content": content} for role, content in messages]
        text = template.render(messages=listed, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
        ours = vocab.render(messages)
        if text != ours:
            sys.exit(f"the template prints {text!r}, vocab.render {ours!r}")
        theirs = model.tokenize(text.encode("utf-8"), add_bos=True, special=True)
        if theirs != vocab.encode(text):
            sys.exit(f"ids of {text!r} differ: llama.cpp {theirs}, vocab.encode {vocab.encode(text)}")
    print(f"{len(conversations)} conversations: template and ids agree\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("prompts")
    parser.add_argument("--formats", default=",".join(FORMATS), help="names with commas between them")
    parser.add_argument("--pure", action="store_true", help="every matrix in the one format, no mixtures")
    args = parser.parse_args()
    pairs = tasks.read_list(args.prompts)
    check_tokens(load(args.gguf), pairs)
    failed = False
    print("| format | right | smallest lead | at |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.formats.split(","):
            path = pathlib.Path(folder) / f"{name}.gguf"
            quantize(args.gguf, path, FORMATS[name], args.pure)
            model = load(path)
            results = [(answer_and_lead(model, *pair), pair) for pair in pairs]
            wrong = [(said, pair) for (said, _), pair in results if said != pair[1]]
            (_, lead), worst = min(results, key=lambda result: result[0][1])
            print(f"| {name} | {len(pairs) - len(wrong)} of {len(pairs)} | {lead:.1f} | `{worst[0]}` |", flush=True)
            for said, pair in wrong:
                print(f"    {pair[0]!r}: {said!r} instead of {pair[1]!r}", file=sys.stderr)
            failed = failed or bool(wrong)
            del model
            path.unlink()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
