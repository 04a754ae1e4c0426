#!/usr/bin/env python3
"""Writes a Plumb trace of a run of llama.cpp, value by value, as its evaluation callback gives them.

    python tools/trace_llama_cpp.py MODEL.gguf -p "Once upon a time" -o T.safetensors --steps 4

Attention is computed without the fused kernel unless --flash-attn says otherwise. Logits are computed for every row of the
prompt, so that no value of the last block lacks rows. All else is llama.cpp's default. Needs numpy and llama-cpp-python
(known to work: 0.3.36). Exit code 2: nothing was written, and stderr says why.
"""

import argparse
import ctypes
import pathlib
import sys

import plumb_trace
from llama_cpp_nodes import PER_HEAD, Found, Graph, Node, Tensor, split
from plumb_trace import TraceError

MAX_SOURCES = 10


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor (ggml.h). Ggml checks that the installed library has this layout."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),  # elements, fastest dimension first
    ("nb", ctypes.c_size_t * 4),  # bytes from one to the next
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * MAX_SOURCES),
    ("view_src", ctypes.POINTER(GgmlTensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class GgmlInit(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Ggml:
    """The ggml inside llama-cpp-python: tensors of a graph and their data."""

    def __init__(self) -> None:
        from llama_cpp._ggml import libggml

        self._library = libggml
        pointer, size, count = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
        self._init = self._function("ggml_init", pointer, GgmlInit)
        self._free = self._function("ggml_free", None, pointer)
        self._matrix = self._function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, count, count)
        self._product = self._function("ggml_mul_mat", pointer, pointer, pointer, pointer)
        self._set_name = self._function("ggml_set_name", pointer, pointer, ctypes.c_char_p)
        self._op = self._function("ggml_op_desc", ctypes.c_char_p, pointer)
        self._type = self._function("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
        self._n_bytes = self._function("ggml_nbytes", size, pointer)
        self._get = self._function("ggml_backend_tensor_get", None, pointer, pointer, size, size)
        self.version = self._function("ggml_version", ctypes.c_char_p)().decode()
        self._check_layout()

    def _function(self, name: str, result, *arguments):
        function = getattr(self._library, name, None)
        if function is None:
            raise TraceError(f"the ggml of this llama-cpp-python has no {name}; 0.3.36 is known to work")
        function.restype, function.argtypes = result, arguments
        return function

    def _check_layout(self) -> None:
        """Makes a product with ggml and checks that GgmlTensor reads its fields right."""
        context = self._init(GgmlInit(1 << 16, None, False))
        weight = self._matrix(context, 0, 3, 5)
        other = self._matrix(context, 0, 3, 7)
        self._set_name(weight, b"plumb")
        product = self.tensor(self._product(context, weight, other))
        sources = [ctypes.addressof(source.contents) for source in product.src if source]
        fits = (
            list(product.ne) == [5, 7, 1, 1]
            and list(product.nb) == [4, 20, 140, 140]
            and sources == [weight, other]
            and self.tensor(weight).name == b"plumb"
            and self._op(ctypes.addressof(product)) == b"MUL_MAT"
        )
        self._free(context)
        if not fits:
            raise TraceError(
                f"ggml {self.version} lays its tensors out differently from what this adapter knows; "
                "llama-cpp-python 0.3.36 is known to work"
            )

    @staticmethod
    def tensor(address: int) -> GgmlTensor:
        return GgmlTensor.from_address(address)

    def node(self, address: int) -> Node:
        sources = [source.contents for source in self.tensor(address).src if source]
        return Node(address, self._op(address).decode(),
                    tuple(Tensor(ctypes.addressof(source), source.name.decode()) for source in sources))  # fmt: skip

    def array(self, address: int):
        """The tensor's elements as float32, slowest dimension first, for any strides and any backend's memory."""
        import numpy

        tensor = self.tensor(address)
        kind = self._type(tensor.type).decode()
        if kind not in ("f32", "f16", "bf16"):
            raise TraceError(f"{tensor.name.decode()} is of type {kind}; F32, F16 and BF16 can be read")
        data = ctypes.create_string_buffer(self._n_bytes(address))
        if tensor.buffer or tensor.view_src:
            self._get(address, data, 0, len(data))
        else:
            ctypes.memmove(data, tensor.data, len(data))
        dtype = {"f32": numpy.float32, "f16": numpy.float16, "bf16": numpy.uint16}[kind]
        values = numpy.ndarray(tuple(tensor.ne)[::-1], dtype, data, strides=tuple(tensor.nb)[::-1])
        if kind == "bf16":
            values = (values.astype(numpy.uint32) << 16).view(numpy.float32)
        return numpy.ascontiguousarray(values, dtype=numpy.float32)


class Recorder:
    """Answers the evaluation callback, which first asks whether a node is wanted and then gives the wanted ones."""

    def __init__(self, ggml: Ggml, writer: plumb_trace.Writer, patterns: list[str] | None):
        self.ggml, self.writer, self.patterns = ggml, writer, patterns
        self.error: Exception | None = None
        self.begin(0, 0, 0)

    def begin(self, step: int, n_tokens: int, n_cached: int) -> None:
        self.step, self.n_tokens, self.n_positions = step, n_tokens, n_cached + n_tokens
        self._graph = Graph()
        self._asked: dict[int, list[Found]] = {}
        self._block, self._values = "", {}

    def __call__(self, address: int, ask: bool, _user_data) -> bool:
        try:
            if self.error is None and ask:
                found = [value for value in self._graph.values_of(self.ggml.node(address))
                         if plumb_trace.is_wanted(self.patterns, value.name)]  # fmt: skip
                self._asked[address] = found
                return bool(found)
            if self.error is None:
                for value in self._asked[address]:
                    self._keep(address, value)
        except Exception as error:  # ctypes would print it and continue
            self.error = error
        return True

    def _keep(self, address: int, value: Found) -> None:
        block, stem = split(value.name)
        if block != self._block:
            self.flush()
            self._block = block
        source = ctypes.addressof(self.ggml.tensor(address).src[value.source].contents) if value.source >= 0 else address
        array = self.ggml.array(source)
        if stem in PER_HEAD:
            array = array.reshape(-1, array.shape[-1] * array.shape[-2])
        elif stem == "attn_probs":  # [heads, T, positions the cache has room for]
            array = array[..., : self.n_positions].reshape(-1, self.n_positions)
        else:
            array = array.reshape(-1, array.shape[-1])
        if array.shape[0] == self.n_tokens or stem in ("output_norm", "logits", "attn_probs"):
            self._values[value.name] = array

    def flush(self) -> None:
        """Writes the values of a block. They wait until the next block: a bias may come later, under its product's name."""
        for name, array in self._values.items():
            self.writer.add(self.step, name, array.shape, array)
        self._values = {}

    def end(self) -> None:
        if self.error is None:
            self.flush()
        if self.error is not None:
            raise self.error


def chat_text(llama_cpp, model, text: str) -> str:
    """The prompt in the model's chat template, as llama.cpp's library fills it in (it recognizes common templates only)."""
    template = llama_cpp.llama_model_chat_template(model, None)
    if not template:
        print("no chat template in the file; the text goes to the model as it is", file=sys.stderr)
        return text
    messages = (llama_cpp.llama_chat_message * 1)(llama_cpp.llama_chat_message(b"user", text.encode()))
    room = ctypes.create_string_buffer(4 * len(text.encode()) + 4096)
    n = llama_cpp.llama_chat_apply_template(template, messages, 1, True, room, len(room))
    if n < 0 or n > len(room):
        raise TraceError("llama.cpp's library does not know the model's chat template; give --raw or --tokens")
    return room.raw[:n].decode()


def run(arguments: argparse.Namespace) -> None:
    try:
        import llama_cpp
        import llama_cpp_yardstick
    except ImportError as error:
        raise TraceError(f"{error}; install it with pip install llama-cpp-python") from error

    ggml = Ggml()
    sha256 = plumb_trace.sha256_of(arguments.model)
    flash = {"off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
             "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO}  # fmt: skip

    recorder: Recorder | None = None
    callback = llama_cpp.ggml_backend_sched_eval_callback(lambda *what: recorder is None or recorder(*what))

    def change(parameters) -> None:
        parameters.cb_eval = callback
        parameters.flash_attn_type = flash[arguments.flash_attn]
        if arguments.kv_type == "f32":
            parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32

    try:
        engine = llama_cpp_yardstick.Yardstick(arguments.model, arguments.ctx, arguments.n_threads, n_batch=arguments.ctx,
                                               change=change)  # fmt: skip
        text = ""
        if arguments.tokens is None:
            text = arguments.prompt if arguments.raw else chat_text(llama_cpp, engine.model, arguments.prompt)
        tokens = arguments.tokens or engine.tokenize(text, parse_special=True)
        plumb_trace.check_tokens(tokens, engine.n_vocab)
        if len(tokens) + arguments.steps > arguments.ctx:
            needed = len(tokens) + arguments.steps
            raise TraceError(f"{len(tokens)} tokens and {arguments.steps} steps need --ctx {needed} at least")
        info = plumb_trace.Info(
            engine=f"llama.cpp, ggml {ggml.version} (llama-cpp-python {llama_cpp_yardstick.version()}, "
            f"{arguments.kv_type} KV cache, flash attention {arguments.flash_attn})",
            model=pathlib.Path(arguments.model).name, model_sha256=sha256, prompt=text, tokens=list(tokens),
        )  # fmt: skip
        a_step = 17 * llama_cpp.llama_model_n_layer(engine.model) + 3
        with plumb_trace.Writer(arguments.output, info, a_step * (1 + arguments.steps)) as writer:
            recorder = Recorder(ggml, writer, arguments.values)
            given, n_cached = list(tokens), 0
            for step in range(arguments.steps + 1):
                recorder.begin(step, len(given), n_cached)
                engine.decode(given, all_logits=True)
                recorder.end()
                n_cached += len(given)
                token = int(engine.last_logits().argmax())
                if step == arguments.steps or llama_cpp.llama_vocab_is_eog(engine.vocab, token):
                    break
                info.tokens.append(token)
                given = [token]
            if writer.n_values == 0:
                raise TraceError("no value of the run matches --values; docs/trace.md has the names, such as blk.0.attn_q")
        engine.close()
    except SystemExit as error:  # the yardstick's own error messages
        raise TraceError(str(error)) from error
    print(plumb_trace.summary(writer, len(tokens)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file")
    plumb_trace.add_run_arguments(parser)
    parser.add_argument("-c", "--ctx", type=int, default=512, help="positions of the KV cache (%(default)s)")
    parser.add_argument("--kv-type", choices=("f16", "f32"), default="f16", help="type of the KV cache (%(default)s)")
    parser.add_argument("--flash-attn", choices=("off", "on", "auto"), default="off", help="(%(default)s)")
    parser.add_argument("-t", "--n-threads", type=int, default=2, help="CPU threads (%(default)s)")
    return plumb_trace.run_program(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
