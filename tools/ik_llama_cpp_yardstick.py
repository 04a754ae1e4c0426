"""ik_llama.cpp as a yardstick of speed, through the PyPI package ik-llama-cpp-python (known to work: 0.1.5).

Has what bench/alternate.py needs of llama_cpp_yardstick's Yardstick. Nothing in Plumb depends on it.
"""

import ctypes
import importlib.metadata
import os
import time

from ik_llama_cpp import _ctypes_api as api


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level, text, data):
    pass


api._lib.llama_synchronize.argtypes = [ctypes.c_void_p]
api._lib.llama_synchronize.restype = None


class Yardstick:
    """One model and one context of ik_llama.cpp. Weights are mapped from the file, or with repack made anew in the layouts that its
    own kernels prefer; flash attention is on; all else is its default."""

    def __init__(self, path, n_ctx, n_threads, n_batch=512, repack=False):
        api._lib.llama_log_set(_silent, None)
        api.llama_backend_init()
        start = time.perf_counter()
        parameters = api.llama_model_default_params()
        parameters.repack_tensors = repack
        parameters.use_mmap = not repack
        self.model = api.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.model:
            raise SystemExit(f"{path}: ik_llama.cpp cannot load it")
        parameters = api.llama_context_default_params()
        parameters.n_ctx = n_ctx
        parameters.n_batch = parameters.n_ubatch = n_batch
        parameters.n_threads = parameters.n_threads_batch = n_threads
        self.context = api.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"{path}: ik_llama.cpp cannot make a context of {n_ctx} positions")
        self.load_seconds = time.perf_counter() - start
        self.n_batch = n_batch
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(n_batch, 0, 1)

    def decode(self, tokens, position):
        """Runs tokens from this position on, in batches. Computes the logits of each batch's last one."""
        for begin in range(0, len(tokens), self.n_batch):
            part = tokens[begin : begin + self.n_batch]
            self.batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self.batch.token[i] = token
                self.batch.pos[i] = position + begin + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = 0
                self.batch.logits[i] = i + 1 == len(part)
            if api.llama_decode(self.context, self.batch) != 0:
                raise SystemExit(f"ik_llama.cpp cannot decode {len(part)} tokens")
            api._lib.llama_synchronize(self.context)

    def seconds(self, tokens, one_by_one):
        """The seconds that the tokens take from an empty context, as one prompt or one by one."""
        api.llama_kv_cache_clear(self.context)
        start = time.perf_counter()
        if one_by_one:
            for position, token in enumerate(tokens):
                self.decode([token], position)
        else:
            self.decode(tokens, 0)
        return time.perf_counter() - start

    def kv_bytes(self, positions):
        """Unknown: its API does not tell the number of key-value heads."""
        return None


def version():
    return importlib.metadata.version("ik-llama-cpp-python")
