"""Finds Plumb's name for a node of llama.cpp's graph.

llama.cpp's own names are ambiguous: "Qcur-0" is the product, the product with its bias, a view of it and the rotated one.
The sources of a node are not: weights have the file's names in the graph, so MUL_MAT with blk.0.attn_q.weight is
blk.0.attn_q, and ROPE of that node (or of a view of it) is blk.0.attn_q_rope. Names follow from ops and sources alone, as
the PyPI package llama-cpp-python 0.3.36 (ggml 0.25.3) has them for llama, qwen2 and qwen3.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# GGUF's tensor name to the name of the value that it produces.
PRODUCTS = {"attn_q": "attn_q", "attn_k": "attn_k", "attn_v": "attn_v", "attn_output": "attn_out", "ffn_gate": "ffn_gate",
            "ffn_up": "ffn_up", "ffn_down": "ffn_down"}  # fmt: skip
# Values that are found as the input of a product, whichever ops made them, fused or not.
PRODUCT_INPUTS = {"attn_output": "attn_ctx", "ffn_down": "ffn_act"}
NORMS = ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")
ROTATED = {"attn_q": "attn_q_rope", "attn_q_norm": "attn_q_rope", "attn_k": "attn_k_rope", "attn_k_norm": "attn_k_rope"}
RESIDUALS = {"attn_out": "attn_resid", "ffn_down": "output"}
SAME_VALUES = ("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "CONT", "CPY", "DUP")
# Values of shape [head_dim, heads, T] in ggml's order; the others are [width, T].
PER_HEAD = ("attn_q_norm", "attn_k_norm", "attn_q_rope", "attn_k_rope")


class Tensor(NamedTuple):
    """A tensor of the graph: its address and name."""

    address: int
    name: str


class Node(NamedTuple):
    address: int
    op: str  # ggml's, such as "MUL_MAT"
    sources: tuple[Tensor, ...]


class Found(NamedTuple):
    """A value, and where its data is: in the node (-1) or in the source of this index."""

    name: str
    source: int = -1


def weight_of(tensor: Tensor) -> tuple[str, str] | None:
    """("blk.0.", "attn_q", "weight") of a tensor of the file as ("blk.0.attn_q", "weight")."""
    name = tensor.name
    copy = re.fullmatch(r"[^#]+#(.+)#\d+", name)  # a weight copied to another device: "CUDA0#blk.0.attn_q.weight#0"
    name = copy[1] if copy else name
    stem, _, kind = name.rpartition(".")
    return (stem, kind) if kind in ("weight", "bias") else None


def split(name: str) -> tuple[str, str]:
    """'blk.0.attn_q' as ('blk.0.', 'attn_q')."""
    block, dot, stem = name.rpartition(".")
    return block + dot, stem


class Graph:
    """Names the nodes of one graph. It must be asked about every node, in the order of evaluation."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # of nodes and of views of them, by address

    def values_of(self, node: Node) -> list[Found]:
        """The values of a node. A name may come again, for the product with its bias: the later value is right."""
        found = self._find(node)
        for value in found:
            if value.source < 0:
                self._names[node.address] = value.name
        return [value for value in found if not value.name.endswith(".attn_scores")]

    def _find(self, node: Node) -> list[Found]:
        weights = [weight_of(source) for source in node.sources]
        if not weights:
            return []
        if node.op == "GET_ROWS":
            if weights[0] == ("token_embd", "weight"):
                return [Found("token_embd")]
            self._alias(node)  # the rows whose logits are wanted
        elif node.op in SAME_VALUES:
            self._alias(node)
        elif node.op == "MUL_MAT":
            return self._product(node, weights[0])
        elif node.op == "MUL":
            return [Found(stem) for stem, kind in filter(None, weights)
                    if kind == "weight" and (stem == "output_norm" or split(stem)[1] in NORMS)]  # fmt: skip
        elif node.op == "ADD":
            return self._sum(node, weights)
        elif node.op == "ROPE":
            return self._follow(node.sources[:1], ROTATED)
        elif node.op == "SOFT_MAX":
            return self._follow(node.sources[:1], {"attn_scores": "attn_probs"})
        return []

    def _product(self, node: Node, weight: tuple[str, str] | None) -> list[Found]:
        if weight is None:
            return self._follow(node.sources[1:2], {"attn_q_rope": "attn_scores"})
        block, stem = split(weight[0])
        if weight[0] in ("output", "token_embd"):  # token_embd where the two are tied
            return [Found("logits")]
        if not block or stem not in PRODUCTS:
            return []
        inputs = [Found(block + PRODUCT_INPUTS[stem], 1)] if stem in PRODUCT_INPUTS else []
        return [*inputs, Found(block + PRODUCTS[stem])]

    def _sum(self, node: Node, weights: list[tuple[str, str] | None]) -> list[Found]:
        for stem, kind in filter(None, weights):
            if kind == "bias":
                block, stem = split(stem)
                return [Found(block + PRODUCTS[stem])] if stem in PRODUCTS else []
        return self._follow(node.sources, RESIDUALS)

    def _follow(self, sources: Iterable[Tensor], names: dict[str, str]) -> list[Found]:
        """The value that follows from the name of one of the sources."""
        for source in sources:
            block, stem = split(self._names.get(source.address, ""))
            if stem in names:
                return [Found(block + names[stem])]
        return []

    def _alias(self, node: Node) -> None:
        name = self._names.get(node.sources[0].address)
        if name is not None:
            self._names[node.address] = name
