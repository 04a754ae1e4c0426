"""Llama 4's text model: chunks, layers without rotation, norms of q and k without weight after rotation, experts
weighed before.

Keys: llama.cpp's converter (conversion/llama.py); pairs are adjacent, the rows as they are. What no key says,
llama.cpp's runtime knows: chunks of 8192 positions in three layers of four, the fourth does not turn, and there q is
multiplied by 1 + 0.1 ln(1 + floor((position + 1) / 8192)): 24 positions are in one chunk and have the factor 1. The
norms of q and k are in the model of 16 experts, not in that of 128. An expert takes its input times its weight, the
sigmoid of its logit; ffn_moe is the sum of what experts and not the shared one make.
"""

import gguf
import torch

from .base import SHAPE, Mixture, shared


def no_norm(model) -> None:
    for layer in model.model.layers:
        if hasattr(layer.self_attn, "qk_norm"):
            layer.self_attn.qk_norm = torch.nn.Identity()


class Llama4(Mixture):
    arch = "llama4"
    model = "Llama4ForCausalLM"
    rotated_by = "function"
    router = "feed_forward.router"
    experts = "feed_forward.experts"
    shape = {
        **SHAPE,
        "hidden_size": 24,
        "intermediate_size": 12,
        "intermediate_size_mlp": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "use_qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    layer_taps = (
        *(tap for tap in Mixture.layer_taps if not tap[0].startswith("mlp")),
        ("feed_forward.gate_proj", "output", "ffn_gate"),
        ("feed_forward.up_proj", "output", "ffn_up"),
        ("feed_forward.down_proj", "input", "ffn_act"),
        ("feed_forward.down_proj", "output", "ffn_down"),
        *shared("feed_forward.shared_expert"),
    )
    breaks = {"layers without rotation": {"no_rope_layers": [1, 1, 1, 1]}, "norms of q and k": no_norm}

    def feed_forward_length(self, config) -> int:
        return config.intermediate_size_mlp

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        super().keys(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_interleave_moe_layer_step(config.interleave_moe_layer_step)
        writer.add_expert_feed_forward_length(config.intermediate_size)

    def tensors(self, name, values, config):
        if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            values = values.swapaxes(1, 2)
        yield from super().tensors(name, values, config)

    def router_hook(self, keep, block, model, layer):
        def hook(module, args, output):
            keep(f"{block}.ffn_router", output[1])
            self.scores = output[1]
            ordered = output[1].sort(dim=-1, descending=True)[0]
            exact = output[1].dtype == torch.float64
            assert not exact or float((ordered[:, 0] - ordered[:, 1]).min()) > self.min_margin
            self.hidden = args[0]

        return hook

    def experts_hook(self, keep, block):
        def hook(module, args, output):
            best, index = self.scores.topk(1, dim=-1)
            weights = best.sigmoid()
            steps = [self.expert(module, self.hidden[t] * weights[t], int(index[t])) for t in range(len(index))]
            gate, up, act, down = (torch.stack(each) for each in zip(*steps, strict=True))
            total = output.reshape(module.num_experts, len(index), -1).sum(0)
            if total.dtype == torch.float64:
                assert torch.allclose(total, down, rtol=1e-6, atol=1e-6), block
            for name, value in (
                ("ffn_experts", index),
                ("ffn_expert_weights", weights),
                ("ffn_gate_exps", gate),
                ("ffn_up_exps", up),
                ("ffn_act_exps", act),
                ("ffn_down_exps", down),
            ):
                keep(f"{block}.{name}", value)

        return hook

    def expert(self, module, x, e):
        gate, up = (x @ module.gate_up_proj[e]).chunk(2)
        act = module.act_fn(gate) * up
        return gate, up, act, act @ module.down_proj[e]


CASES = {"llama4": Llama4(1088)}
