"""Granite 3 MoE: Granite with experts, whose weights are a softmax over the chosen logits; with a shared one in Granite
3's "shared".

Keys, the order of q's and k's rows and the parting of gate and up: llama.cpp's converter (conversion/granite.py).
"""

import gguf

from .base import Mixture, block_of
from .granite import Granite


class GraniteMoe(Mixture):
    arch = "granitemoe"
    model = "GraniteMoeForCausalLM"
    permuted = True
    router = "block_sparse_moe.router"
    experts = "block_sparse_moe.experts"
    shape = {**Granite.shape, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 16}
    breaks = Granite.breaks
    model_taps = Granite.model_taps

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        Granite.keys(self, writer, config)
        if length := getattr(config, "shared_intermediate_size", 0):
            writer.add_expert_shared_feed_forward_length(length)

    def tensor_name(self, name, config):
        return super().tensor_name(name.replace(".router.", ".router.layer."), config)


class Shared(GraniteMoe):
    model = "GraniteMoeSharedForCausalLM"

    def parts(self, config) -> tuple:
        n_ff = config.shared_intermediate_size
        return (
            *self.layer_taps,
            ("shared_mlp.input_linear", "output", "ffn_gate_shexp", (0, n_ff)),
            ("shared_mlp.input_linear", "output", "ffn_up_shexp", (n_ff, 2 * n_ff)),
            ("shared_mlp.output_linear", "input", "ffn_act_shexp"),
            ("shared_mlp.output_linear", "output", "ffn_down_shexp"),
        )

    def tensors(self, name, values, config):
        if name.endswith("shared_mlp.input_linear.weight"):
            block = block_of(name)
            n_ff = config.shared_intermediate_size
            yield f"{block}.ffn_gate_shexp.weight", values[:n_ff]
            yield f"{block}.ffn_up_shexp.weight", values[n_ff:]
        else:
            yield from super().tensors(name, values, config)


CASES = {"granitemoe": GraniteMoe(1089), "granitemoe-shared": Shared(1090, shared_intermediate_size=24)}
