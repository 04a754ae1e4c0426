"""llama.cpp as a yardstick, through the low-level API of the PyPI package llama-cpp-python (known to work: 0.3.36).

Takes tokens, returns logits and seconds; nothing is sampled. Nothing in Plumb depends on it.
"""

import contextlib
import ctypes
import os
import time

import llama_cpp
import numpy


@llama_cpp.llama_log_callback
def _silent(level, text, data):
    pass


class Yardstick:
    """One model and one context of llama.cpp. Weights are mapped from the file; all else is llama.cpp's default.

    change(parameters) may change the context's parameters before they are used.
    """

    def __init__(self, path, n_ctx, n_threads, n_batch=512, f32_cache=False, change=lambda parameters: None):
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        start = time.perf_counter()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = n_ctx
        parameters.n_batch = parameters.n_ubatch = n_batch
        parameters.n_threads = parameters.n_threads_batch = n_threads
        if f32_cache:
            parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        change(parameters)
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp cannot make a context of {n_ctx} positions")
        self.load_seconds = time.perf_counter() - start
        self.n_batch = n_batch
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def close(self):
        with contextlib.suppress(AttributeError):
            llama_cpp.llama_free(self.context)
            llama_cpp.llama_model_free(self.model)
            del self.context, self.model

    def kv_bytes(self, positions):
        """Bytes of the keys and values of this many positions in F16."""
        head_dim = llama_cpp.llama_model_n_embd(self.model) // llama_cpp.llama_model_n_head(self.model)
        width = llama_cpp.llama_model_n_head_kv(self.model) * head_dim
        return 2 * 2 * llama_cpp.llama_model_n_layer(self.model) * width * positions

    def tokenize(self, text, parse_special=False):
        data = text.encode()
        room = len(data) + 16
        tokens = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, room, True, parse_special)
        if n < 0:
            raise SystemExit(f"llama.cpp cannot tokenize {text!r}")
        return list(tokens[:n])

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, tokens, all_logits=False):
        """Runs tokens after those in the context, in batches. Computes the logits of the last one, or of all."""
        for begin in range(0, len(tokens), self.n_batch):
            part = tokens[begin : begin + self.n_batch]
            array = (llama_cpp.llama_token * len(part))(*part)
            batch = llama_cpp.llama_batch_get_one(array, len(part))
            if all_logits:
                batch.logits = (ctypes.c_int8 * len(part))(*[1] * len(part))
            if llama_cpp.llama_decode(self.context, batch) != 0:
                raise SystemExit(f"llama.cpp cannot decode {len(part)} tokens")

    def logits(self, tokens):
        """The logits after these tokens, in float64."""
        self.clear()
        self.decode(tokens)
        return self.last_logits()

    def last_logits(self):
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        return numpy.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).astype(numpy.float64)

    def seconds(self, tokens, one_by_one):
        """The seconds that the tokens take from an empty context, as one prompt or one by one."""
        self.clear()
        llama_cpp.llama_synchronize(self.context)
        start = time.perf_counter()
        for part in [[token] for token in tokens] if one_by_one else [tokens]:
            self.decode(part)
            llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - start


def version():
    return llama_cpp.__version__
