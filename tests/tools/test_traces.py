"""The names that the trace adapters give to values, and the files that they write. Needs neither numpy nor the engines."""

import copy
import importlib.util
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import llama_cpp_nodes  # noqa: E402
import plumb_trace  # noqa: E402


class LlamaCppNodes(unittest.TestCase):
    """Graphs as llama.cpp evaluates them, written as lines of 'result = OP source source'."""

    def named(self, *lines):
        """For each node that has a value: (its name, the tensor with its data)."""
        graph = llama_cpp_nodes.Graph()
        addresses, found = {}, []
        for line in lines:
            result, _, op, *sources = line.split()
            tensors = tuple(llama_cpp_nodes.Tensor(addresses.setdefault(s, len(addresses)), s.split(":")[0]) for s in sources)
            node = llama_cpp_nodes.Node(addresses.setdefault(result, len(addresses)), op, tensors)
            found += [(value.name, result if value.source < 0 else sources[value.source]) for value in graph.values_of(node)]
        return found

    # In "NAME:n", n tells apart tensors of one name.
    def test_one_name_for_product_bias_view_and_rotation(self):
        self.assertEqual(
            self.named(
                "norm-3 = RMS_NORM l_out-2",
                "attn_norm-3 = MUL norm-3 blk.3.attn_norm.weight",
                "Qcur-3:1 = MUL_MAT blk.3.attn_q.weight attn_norm-3",
                "Qcur-3:2 = ADD Qcur-3:1 blk.3.attn_q.bias",
                "Qcur-3:3 = RESHAPE Qcur-3:2",
                "Qcur-3:4 = ROPE Qcur-3:3 inp_pos",
                "Kcur-3:1 = MUL_MAT blk.3.attn_k.weight attn_norm-3",
                "Kcur-3:2 = RESHAPE Kcur-3:1",
                "Kcur-3:3 = ROPE Kcur-3:2 inp_pos",
            ),
            [("blk.3.attn_norm", "attn_norm-3"), ("blk.3.attn_q", "Qcur-3:1"), ("blk.3.attn_q", "Qcur-3:2"),
             ("blk.3.attn_q_rope", "Qcur-3:4"), ("blk.3.attn_k", "Kcur-3:1"), ("blk.3.attn_k_rope", "Kcur-3:3")],
        )  # fmt: skip

    def test_norms_of_heads_come_between_product_and_rotation(self):
        self.assertEqual(
            self.named(
                "Qcur-0:1 = MUL_MAT blk.0.attn_q.weight attn_norm-0",
                "Qcur-0:2 = RESHAPE Qcur-0:1",
                "norm-0 = RMS_NORM Qcur-0:2",
                "Qcur_normed-0 = MUL norm-0 blk.0.attn_q_norm.weight",
                "Qcur-0:3 = ROPE Qcur_normed-0 inp_pos",
            ),
            [("blk.0.attn_q", "Qcur-0:1"), ("blk.0.attn_q_norm", "Qcur_normed-0"), ("blk.0.attn_q_rope", "Qcur-0:3")],
        )

    def test_attention_with_and_without_the_fused_kernel(self):
        begin = ("Qcur-0:1 = MUL_MAT blk.0.attn_q.weight x", "Qcur-0:2 = ROPE Qcur-0:1 inp_pos", "q = PERMUTE Qcur-0:2")
        end = "attn_out-0 = MUL_MAT blk.0.attn_output.weight kqv_out-0"
        first = [("blk.0.attn_q", "Qcur-0:1"), ("blk.0.attn_q_rope", "Qcur-0:2")]
        last = [("blk.0.attn_ctx", "kqv_out-0"), ("blk.0.attn_out", "attn_out-0")]
        plain = ("kq-0 = MUL_MAT cache_k_l0 q", "kq_soft_max-0 = SOFT_MAX kq-0 mask", "kqv-0 = MUL_MAT v kq_soft_max-0",
                 "kqv-0:2 = PERMUTE kqv-0", "kqv_out-0 = CONT kqv-0:2")  # fmt: skip
        self.assertEqual(self.named(*begin, *plain, end), [*first, ("blk.0.attn_probs", "kq_soft_max-0"), *last])
        fused = ("f = FLASH_ATTN_EXT q k v mask", "kqv_out-0 = RESHAPE f")
        self.assertEqual(self.named(*begin, *fused, end), [*first, *last])

    def test_sums_of_the_residual_stream(self):
        self.assertEqual(
            self.named(
                "embd = GET_ROWS token_embd.weight inp_tokens",
                "node_1 = MUL_MAT blk.1.attn_output.weight kqv_out-1",
                "attn_out-1 = ADD node_1 blk.1.attn_output.bias",
                "rows:1 = GET_ROWS attn_out-1 out_ids",
                "rows:2 = GET_ROWS embd out_ids",
                "ffn_inp-1 = ADD rows:1 rows:2",
                "ffn_out-1 = MUL_MAT blk.1.ffn_down.weight ffn_swiglu-1",
                "l_out-1 = ADD ffn_out-1 ffn_inp-1",
            ),
            [("token_embd", "embd"), ("blk.1.attn_ctx", "kqv_out-1"), ("blk.1.attn_out", "node_1"),
             ("blk.1.attn_out", "attn_out-1"), ("blk.1.attn_resid", "ffn_inp-1"), ("blk.1.ffn_act", "ffn_swiglu-1"),
             ("blk.1.ffn_down", "ffn_out-1"), ("blk.1.output", "l_out-1")],
        )  # fmt: skip

    def test_logits_of_own_and_of_tied_weights(self):
        for weight in ("output.weight", "token_embd.weight", "CUDA0#output.weight#0"):
            self.assertEqual(
                self.named("result_norm = MUL norm output_norm.weight", f"result_output = MUL_MAT {weight} result_norm"),
                [("output_norm", "result_norm"), ("logits", "result_output")],
            )

    def test_what_is_not_known_has_no_name(self):
        self.assertEqual(
            self.named(
                "a = MUL_MAT blk.0.attn_qkv.weight x", "b = ADD a blk.0.attn_qkv.bias", "c = MUL_MAT x y", "d = ROPE c p",
                "e = SOFT_MAX c m", "f = ADD x y", "g = GLU x y", "h = MUL a blk.0.attn_q.scale", "i = GET_ROWS",
            ),
            [],
        )  # fmt: skip


@unittest.skipUnless(all(importlib.util.find_spec(name) for name in ("gguf", "torch", "transformers")), "needs torch")
class TransformersNames(unittest.TestCase):
    """The names in tools/model_goldens, which hold the goldens' values too."""

    @classmethod
    def setUpClass(cls):
        import model_goldens
        import transformers

        cls.cases = model_goldens.all_cases()
        cls.configs = {}
        for name, case in cls.cases.items():
            cls.configs[name] = getattr(transformers, case.model).config_class(**copy.deepcopy(case.config)).get_text_config()

    def names(self, case):
        return [tap.value for tap in self.cases[case].taps(self.configs[case])]

    def test_every_value_of_a_model_once(self):
        names = self.names("qwen3")
        self.assertEqual(len(names), len(set(names)))
        block = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm", "attn_ctx", "attn_out", "attn_resid",
                 "ffn_norm", "ffn_gate", "ffn_up", "ffn_act", "ffn_down", "output"}  # fmt: skip
        whole = {f"blk.{n}.{stem}" for n in range(2) for stem in block}
        self.assertEqual(set(names), whole | {"token_embd", "output_norm"})

    def test_every_value_of_gpt2_once(self):
        names = self.names("gpt2")
        self.assertEqual(len(names), len(set(names)))
        block = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_ctx", "attn_out", "attn_resid", "ffn_norm", "ffn_up", "ffn_act",
                 "ffn_down", "output"}  # fmt: skip
        whole = {f"blk.{n}.{stem}" for n in range(2) for stem in block}
        self.assertEqual(set(names), whole | {"token_embd", "position_embd", "embd", "output_norm"})

    def test_pairs_become_adjacent(self):
        import numpy
        from model_goldens.base import adjacent

        self.assertEqual(adjacent(numpy.arange(12)[None], 2)[0].tolist(), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])

    def test_only_q_and_k_of_llama_lie_in_another_order(self):
        import numpy

        row = numpy.arange(32)[None]
        for name, changed in (("attn_q", True), ("attn_k_rope", True), ("attn_v", False), ("attn_q_norm", False), ("output", False)):
            for case in ("llama", "mixtral", "granite", "smollm3"):
                heads = self.cases[case].reorder(f"blk.1.{name}", row, self.configs[case])
                self.assertEqual(heads.tolist() != row.tolist(), changed, f"{case} {name}")
            self.assertEqual(self.cases["qwen3"].reorder(f"blk.1.{name}", row, self.configs["qwen3"]).tolist(), row.tolist())


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name) / "t.safetensors"

    def tearDown(self):
        self.folder.cleanup()

    def test_header_and_bytes(self):
        info = plumb_trace.Info(engine="test", model="m.gguf", prompt='a "b"\n', tokens=[1, 2])
        with plumb_trace.Writer(self.path, info, 3) as writer:
            writer.add(0, "token_embd", (2, 2), struct.pack("<4f", 1, 2, 3, 4))
            info.tokens.append(7)
            writer.add(1, "token_embd", (1, 2), b"\0\x3c\0\xbc", "F16")
            writer.add(1, "logits", (0, 5), b"")
        data = self.path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        self.assertEqual((8 + length) % 64, 0)
        header = json.loads(data[8 : 8 + length])
        self.assertEqual(
            header.pop("__metadata__"),
            {"format": "plumb-trace", "version": "1", "engine": "test", "model": "m.gguf", "prompt": 'a "b"\n',
             "tokens": "[1, 2, 7]"},
        )  # fmt: skip
        self.assertEqual(header["0/token_embd"], {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]})
        self.assertEqual(header["1/token_embd"], {"dtype": "F16", "shape": [1, 2], "data_offsets": [16, 20]})
        self.assertEqual(header["1/logits"]["data_offsets"], [20, 20])
        self.assertEqual(data[8 + length :], struct.pack("<4f", 1, 2, 3, 4) + b"\0\x3c\0\xbc")

    def test_nothing_is_left_of_a_run_that_fails(self):
        for mistake in (
            lambda writer: writer.add(0, "x", (1, 3), bytes(8)),
            lambda writer: [writer.add(0, "x", (1, 1), bytes(4)) for _ in range(2)],
            lambda writer: [writer.add(n, "x" * 90, (1, 1), bytes(4)) for n in range(100)],
        ):
            with self.assertRaises(ValueError), plumb_trace.Writer(self.path, plumb_trace.Info("e"), 1) as writer:
                mistake(writer)
            self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_patterns_of_values(self):
        self.assertTrue(plumb_trace.is_wanted(None, "blk.0.attn_q"))
        self.assertFalse(plumb_trace.is_wanted(None, "blk.0.attn_probs"))
        self.assertTrue(plumb_trace.is_wanted(["logits", "blk.*.attn_*"], "blk.10.attn_probs"))
        self.assertFalse(plumb_trace.is_wanted(["logits", "blk.*.attn_*"], "output_norm"))

    def test_wrong_use_is_a_sentence_and_exit_code_2(self):
        for arguments in (
            ["m.gguf", "-o", "t"],
            ["m.gguf", "-o", "t", "-p", "a", "--tokens", "1"],
            ["m.gguf", "-o", "t", "--tokens", "1,x"],
            ["m.gguf", "-o", "t", "-p", "a", "--steps", "-1"],
            ["m.gguf", "-o", "t", "-p", "a"],  # no such file, or no such package
        ):
            for tool in ("trace_llama_cpp.py", "trace_transformers.py"):
                done = subprocess.run([sys.executable, TOOLS / tool, *arguments], capture_output=True, cwd=self.path.parent,
                                      env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(tool.encode(), done.stderr)
                self.assertNotIn(b"Traceback", done.stderr)
        self.assertEqual(list(self.path.parent.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
