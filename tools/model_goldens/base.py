"""What the goldens of all architectures share: shapes, random weights, names of tensors, common keys, vocabularies."""

import math
from collections.abc import Callable, Iterable, Iterator

import gguf
import numpy as np
import torch
from transformers_names import Tap

VOCAB = 72
CONTEXT = 64
N_TOKENS = 24
# The last tokens of a golden follow its prompt one by one, on the cached keys and values of those before.
N_STEPS = 10
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
# With these bases the slow components turn noticeably within the prompt's 14 positions, so that a wrong scaling shows.
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

Tensors = Iterable[tuple[str, np.ndarray]]


def permute(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Permutes axis 0 (rows or features) of Q or K from halves to adjacent pairs: GGUF's "Meta AI original pth"."""
    head_dim = rows.shape[0] // n_heads
    return rows.reshape(n_heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope: dict, n_rot: int) -> np.ndarray:
    """Llama 3's frequency divisors (https://github.com/meta-llama/llama-models, models/llama3/model.py)."""
    factors = []
    for i in range(n_rot // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * i / n_rot)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        mix = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - mix) / rope["factor"] + mix))
    return np.array(factors, dtype=np.float32)


def write_sentencepiece(writer: gguf.GGUFWriter) -> None:
    pieces = ["<unk>", "<s>", "</s>", "\u2581"] + [chr(ord("a") + i) for i in range(26)] + [str(i) for i in range(10)]
    pieces += ["\u2581" + chr(ord("a") + i) for i in range(26)] + [".", ",", "!", "?", "th", "he"]
    assert len(pieces) == VOCAB
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(VOCAB - 3)])
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def adjacent(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """The features of [T, n_heads * head_dim] in the order in which permute() leaves rows."""
    return permute(rows.T, n_heads).T


def qkv_parts(config) -> tuple[tuple[int, int], ...]:
    """The features of q, of k and of v in a module that makes them one after the other."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q = config.num_attention_heads * head_dim
    kv = first_of(config, "num_key_value_heads", "num_attention_heads") * head_dim
    return (0, q), (q, q + kv), (q + kv, q + 2 * kv)


def first_of(config, *names: str):
    """The first of these attributes that the configuration has, and that is not None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def block_of(name: str) -> str:
    """GGUF's prefix of a parameter's layer; "" for one outside layers."""
    layer = name.partition("layers.")[2].partition(".")[0]
    return f"blk.{layer}" if layer else ""


class Family:
    """One architecture in transformers and in GGUF. A file of this folder overrides what is its own."""

    arch: str  # GGUF's general.architecture
    model: str  # transformers' class
    shape: dict = SHAPE
    n_tokens = N_TOKENS
    # A changed configuration, or a change of the model itself, that must change the logits: by the name of what is off.
    breaks: dict[str, dict | Callable[[torch.nn.Module], None]] = {}
    # Where the rotated q and k are seen: what the rotary function returns, or (where that turns a part of a head) what
    # attention takes.
    rotated_by: str = "attention"
    decoder = True  # has logits, and goes on token by token; an encoder has one pass and its last norm

    def __init__(self, seed: int, **changes):
        self.seed = seed
        self.breaks = {**self.breaks, **changes.pop("breaks", {})}
        self.config = {**self.shape, **changes}

    # Random weights. They are float32, stored in the model's precision.

    def random(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values of one parameter. Q and K are large, so that attention is far from uniform."""
        if name.endswith(("bias", "sinks")):
            return rng.normal(0, 0.5, shape)
        if "q_norm" in name or "k_norm" in name:
            return rng.uniform(1.0, 2.2, shape)
        if "norm" in name.lower() or ".ln_" in name:
            return rng.uniform(0.5, 1.5, shape)
        if "embed_tokens" in name or ".wte." in name or "embeddings." in name or ".embed_in." in name:
            return rng.normal(0, 1, shape)
        gain = (
            1.6
            if any(part in name for part in ("q_proj", "k_proj", ".query.", ".key."))
            else 2.0
            if name.endswith(("gate.weight", "router.weight"))
            else 1.0
        )
        values = rng.normal(0, gain / math.sqrt(shape[-1]), shape)
        if "qkv" in name or "query_key_value" in name:
            self.enlarge_qk(values)
        return values

    def enlarge_qk(self, values: np.ndarray) -> None:
        """Enlarges the rows of q and k in a fused weight; all but the last part are theirs."""
        values *= 1.4

    # The GGUF file.

    buffers: tuple[str, ...] = ()  # names' ends of buffers that are weights too

    def head_dim(self, config) -> int:
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def keys(self, writer: gguf.GGUFWriter, config) -> None:
        """The keys that llama.cpp's converter writes for every text model, as far as the configuration has them."""
        writer.add_block_count(self.block_count(config))
        writer.add_context_length(self.context_length(config))
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(self.feed_forward_length(config))
        writer.add_head_count(config.num_attention_heads)
        if (count := first_of(config, "num_key_value_heads")) is not None:
            writer.add_head_count_kv(count)
        self.rope_keys(writer, config)
        if (eps := first_of(config, "rms_norm_eps", "norm_eps")) is not None:
            writer.add_layer_norm_rms_eps(eps)
        if (eps := first_of(config, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")) is not None:
            writer.add_layer_norm_eps(eps)
        if (count := first_of(config, "num_local_experts", "num_experts")) is not None:
            writer.add_expert_count(count)
        if (count := first_of(config, "num_experts_per_tok", "num_experts_per_token", "top_k_experts")) is not None:
            writer.add_expert_used_count(count)
        if (count := first_of(config, "n_group")) is not None:
            writer.add_expert_group_count(count)
        if (count := first_of(config, "topk_group")) is not None:
            writer.add_expert_group_used_count(count)
        if (length := first_of(config, "head_dim")) is not None:
            writer.add_key_length(length)
            writer.add_value_length(length)

    def block_count(self, config) -> int:
        return config.num_hidden_layers

    def context_length(self, config) -> int:
        return config.max_position_embeddings

    def feed_forward_length(self, config) -> int:
        return config.intermediate_size

    def model_keys(self, writer: gguf.GGUFWriter, model: torch.nn.Module) -> None:
        """Keys whose values are weights of the model."""

    def rope_keys(self, writer: gguf.GGUFWriter, config) -> None:
        parameters = getattr(config, "rope_parameters", None) or {}
        rope = parameters.get("full_attention", parameters)
        if rope.get("rope_type") in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope.get("rope_type") == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            if rope.get("attention_factor") is not None:
                writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
            if rope.get("beta_fast") is not None:
                writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            if rope.get("beta_slow") is not None:
                writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
        if rope.get("rope_type") == "longrope":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        if "mrope_section" in parameters:
            writer.add_rope_dimension_sections([*parameters["mrope_section"], 0, 0, 0, 0][:4])
        if rope.get("rope_theta") is not None:
            writer.add_rope_freq_base(rope["rope_theta"])
        if (theta := parameters.get("sliding_attention", {}).get("rope_theta")) is not None:
            writer.add_rope_freq_base_swa(theta)

    def vocabulary(self, writer: gguf.GGUFWriter, config) -> None:
        write_sentencepiece(writer)

    def first_tensors(self, config) -> Tensors:
        """Tensors that no parameter of the model holds."""
        return ()

    def last_tensors(self, written: dict[str, np.ndarray], config) -> Tensors:
        """Tensors that no parameter of the model holds, after those that were written."""
        return ()

    def tensor_name(self, name: str, config) -> str:
        """GGUF's name of a parameter, from the table that llama.cpp's converter uses."""
        arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.arch)
        found = gguf.get_tensor_name_map(arch, config.num_hidden_layers).get_name(
            name, try_suffixes=(".weight", ".bias")
        )
        assert found is not None, f"gguf has no name for {name}"
        return found

    def tensors(self, name: str, values: np.ndarray, config) -> Iterator[tuple[str, np.ndarray]]:
        """What becomes of a parameter of the model."""
        if name.endswith(".experts.gate_up_proj"):  # [expert, gate's and then up's features, in]
            block = block_of(name)
            gate, up = np.split(values, 2, axis=1)
            yield f"{block}.ffn_gate_exps.weight", gate
            yield f"{block}.ffn_up_exps.weight", up
        elif name.endswith(".experts.down_proj"):
            yield f"{block_of(name)}.ffn_down_exps.weight", values
        else:
            if self.permuted and ".q_proj." in name:
                values = permute(values, config.num_attention_heads)
            if self.permuted and ".k_proj." in name:
                values = permute(values, first_of(config, "num_key_value_heads", "num_attention_heads"))
            yield self.tensor_name(name, config), values

    # The values.

    # Modules that every model has, and those of a layer: (module, side, value) or (module, side, value, part). A module
    # that a model lacks is passed over. The module "" is the layer.
    layers = "model.layers"
    model_taps: tuple = (
        ("model.embed_tokens", "output", "token_embd"),
        ("model.norm", "output", "output_norm"),
    )
    layer_taps: tuple = (
        ("input_layernorm", "output", "attn_norm"),
        ("self_attn.q_proj", "output", "attn_q"),
        ("self_attn.k_proj", "output", "attn_k"),
        ("self_attn.v_proj", "output", "attn_v"),
        ("self_attn.q_norm", "output", "attn_q_norm"),
        ("self_attn.k_norm", "output", "attn_k_norm"),
        ("self_attn.o_proj", "input", "attn_ctx"),
        ("self_attn.o_proj", "output", "attn_out"),
        ("post_attention_layernorm", "input", "attn_resid"),
        ("post_attention_layernorm", "output", "ffn_norm"),
        ("mlp.gate_proj", "output", "ffn_gate"),
        ("mlp.up_proj", "output", "ffn_up"),
        ("mlp.down_proj", "input", "ffn_act"),
        ("mlp.down_proj", "output", "ffn_down"),
        ("", "output", "output"),
    )
    # Values of q and k whose features the file has in another order than transformers: permute()'s.
    permuted = False

    def taps(self, config) -> list[Tap]:
        found = [Tap(*tap) for tap in self.model_taps]
        for n in range(config.num_hidden_layers):
            for module, side, value, *part in self.parts(config):
                found.append(Tap(f"{self.layers}.{n}.{module}".rstrip("."), side, f"blk.{n}.{value}", *part))
        return found

    def parts(self, config) -> tuple:
        """The taps of a layer, for a model of this configuration."""
        return self.layer_taps

    def reorder(self, value: str, array: np.ndarray, config) -> np.ndarray:
        """A value's features in the order of the file."""
        stem = value.rpartition(".")[2]
        if self.permuted and stem in ("attn_q", "attn_q_rope"):
            return adjacent(array, config.num_attention_heads)
        if self.permuted and stem in ("attn_k", "attn_k_rope"):
            return adjacent(array, first_of(config, "num_key_value_heads", "num_attention_heads"))
        return array

    def shows(self, value: str, layer: int, model: torch.nn.Module) -> bool:
        """Whether a layer has this value, of those that hooks on functions show."""
        return True

    def more_values(self, values: dict[str, np.ndarray], model: torch.nn.Module) -> None:
        """Adds to the values, or takes some out, after the run."""

    def watch(self, keep: Callable, model: torch.nn.Module) -> list:
        """More hooks, for what no tap shows; keep(name, tensor) keeps a value. Returns their handles."""
        return []


class Mixture(Family):
    """Layers of which some choose among experts.

    Values: ffn_router (the router's logits), ffn_experts (the chosen experts, as numbers, best choice first),
    ffn_expert_weights (their weights, with every scale), ffn_gate_exps, ffn_up_exps, ffn_act_exps and ffn_down_exps
    ([T, chosen * features], in the order of ffn_experts) and ffn_moe (the weighted sum).
    """

    router = "mlp.gate"
    experts = "mlp.experts"
    min_margin = 1e-3  # between the last choice and the best that was not chosen, so that rounding changes none

    def watch(self, keep: Callable, model: torch.nn.Module) -> list:
        handles = []
        for n in range(model.config.get_text_config().num_hidden_layers):
            try:
                router = model.get_submodule(f"{self.layers}.{n}.{self.router}")
                experts = model.get_submodule(f"{self.layers}.{n}.{self.experts}")
            except AttributeError:  # a dense layer
                continue
            handles.append(router.register_forward_hook(self.router_hook(keep, f"blk.{n}", model, n)))
            handles.append(experts.register_forward_hook(self.experts_hook(keep, f"blk.{n}")))
        return handles

    def choice(self, logits: torch.Tensor, model: torch.nn.Module, layer: int) -> torch.Tensor:
        """The scores by which experts are chosen, or any that order them the same way."""
        return logits

    def router_hook(self, keep, block: str, model, layer: int):
        def hook(module, args, output):
            logits = output[0]
            keep(f"{block}.ffn_router", logits)
            self.scores = self.choice(logits.double(), model, layer)
            ordered = self.scores.sort(dim=-1, descending=True)[0]
            used = first_of(model.config.get_text_config(), "num_experts_per_tok", "top_k_experts")
            margin = float((ordered[:, used - 1] - ordered[:, used]).min())
            exact = next(module.parameters()).dtype == torch.float64
            assert not exact or margin > self.min_margin, f"{block}: a choice of experts by {margin:.1e}"

        return hook

    def experts_hook(self, keep, block: str):
        def hook(module, args, output):
            hidden, index, weights = args[:3]
            order = self.scores.gather(1, index).argsort(dim=-1, descending=True)
            index, weights = index.gather(1, order), weights.gather(1, order)
            steps = [self.expert(module, hidden[t], int(e)) for t in range(len(index)) for e in index[t]]
            gate, up, act, down = (torch.stack(each).reshape(len(index), -1) for each in zip(*steps, strict=True))
            total = (down.reshape(*index.shape, -1) * weights[..., None]).sum(1)
            if output.dtype == torch.float64:
                assert torch.allclose(total, output.reshape(total.shape), rtol=1e-6, atol=1e-6), block
            for name, value in (
                ("ffn_experts", index),
                ("ffn_expert_weights", weights),
                ("ffn_gate_exps", gate),
                ("ffn_up_exps", up),
                ("ffn_act_exps", act),
                ("ffn_down_exps", down),
                ("ffn_moe", output),
            ):
                keep(f"{block}.{name}", value)

        return hook

    def expert(self, module, x: torch.Tensor, e: int) -> tuple[torch.Tensor, ...]:
        """What expert e makes of one position: gate, up, the activated product, and down."""
        gate, up = (module.gate_up_proj[e] @ x).chunk(2)
        act = module.act_fn(gate) * up
        return gate, up, act, module.down_proj[e] @ act


def shared(module: str) -> tuple:
    """The taps of experts that every position passes."""
    return (
        (f"{module}.gate_proj", "output", "ffn_gate_shexp"),
        (f"{module}.up_proj", "output", "ffn_up_shexp"),
        (f"{module}.down_proj", "input", "ffn_act_shexp"),
        (f"{module}.down_proj", "output", "ffn_down_shexp"),
    )
