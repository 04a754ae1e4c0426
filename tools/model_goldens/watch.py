"""Hooks on a model of Hugging Face transformers that show the values of its runs, under Plumb's names."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers_names import ROTATED, Tap

from .base import Family

ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")


class Watch:
    """Calls keep(name, values) for what a model shows: [T, features], in the model's type and the file's order.

    `n_tokens` must say how many tokens the run at hand has. keep_probs gets [heads * T, positions].
    """

    def __init__(self, family: Family, model: torch.nn.Module, keep: Callable, keep_probs: Callable | None = None):
        self.family, self.model, self._keep, self._keep_probs = family, model, keep, keep_probs
        self.config = model.config.get_text_config()
        self.n_tokens = 0
        self.layer = 0
        self.turned: set[int] = set()  # layers in which a rotary function was called
        self.heads_first: dict[str, bool] = {}  # of values with four dimensions

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = [self._tap(tap) for tap in self.family.taps(self.config)] + self._follow_layers()
        handles += self.family.watch(self.show, self.model)
        originals = self._wrap_functions()
        try:
            yield
        finally:
            for source, name, original in originals:
                setattr(source, name, original)
            for handle in filter(None, handles):
                handle.remove()

    def show(self, name: str, tensor: torch.Tensor, part=None) -> None:
        """tensor: [1, T, features], [1, T, heads, head_dim] or [1, heads, T, head_dim]; part: Tap's, or a function."""
        if tensor.dim() == 4:
            if tensor.shape[1] != tensor.shape[2]:
                self.heads_first[name] = tensor.shape[1] != self.n_tokens
            if name not in self.heads_first:
                return  # as many heads as tokens, and no run before that tells them apart
            if self.heads_first[name]:
                tensor = tensor.transpose(1, 2)
        array = as_numpy(tensor).reshape(self.n_tokens, -1)
        if callable(part):
            array = part(array)
        elif isinstance(part, int):
            array = np.split(array, 3, axis=1)[part]
        elif part is not None:
            array = array[:, part[0] : part[1]]
        array = np.ascontiguousarray(self.family.reorder(name, array, self.config))
        self._keep(name, torch.from_numpy(array).view(tensor.dtype))

    def _tap(self, tap: Tap):
        try:
            module = self.model.get_submodule(tap.module)
        except AttributeError:  # such as q_norm, which some families lack
            return None
        if tap.side == "input":
            return module.register_forward_pre_hook(
                lambda m, args, more: self.show(tap.value, args[0] if args else more["hidden_states"], tap.part),
                with_kwargs=True,
            )
        return module.register_forward_hook(
            lambda m, args, out: self.show(tap.value, out[0] if isinstance(out, tuple) else out, tap.part)
        )

    def _follow_layers(self) -> list:
        """Follows which layer runs, by its attention; where that has another one inside, by the outer."""
        found = [module for name, module in self.model.named_modules() if name.rpartition(".")[2] in ATTENTIONS]
        found = [module for module in found if not any(module in other.children() for other in found)]
        handles = []
        for n, module in enumerate(found):
            handles.append(module.register_forward_pre_hook(lambda *_, n=n: setattr(self, "layer", n)))
            if self.family.rotated_by == "function":
                handles.append(module.register_forward_hook(lambda m, args, out, n=n: self._show_probs(n, out[1])))
        return handles

    def _show_probs(self, n: int, probs: torch.Tensor | None) -> None:
        if self._keep_probs and probs is not None:
            self._keep_probs(f"blk.{n}.attn_probs", probs[0].flatten(0, 1))

    def _wrap_functions(self) -> list[tuple]:
        """Hooks see only modules. The model's source file has functions that rotate q and k, and that attend."""
        source = sys.modules[type(self.model).__module__]
        originals = []

        def replace(name, make):
            if original := getattr(source, name, None):
                originals.append((source, name, original))
                setattr(source, name, make(original))

        def show_rotated(pair):
            for name, value in zip(ROTATED, pair, strict=True):
                if self.family.shows(name, self.layer, self.model):
                    self.show(f"blk.{self.layer}.{name}", value)

        def rotating(original):
            def rotate(*args, **kwargs):
                rotated = original(*args, **kwargs)
                self.turned.add(self.layer)
                if self.family.rotated_by == "function":
                    show_rotated(rotated)
                return rotated

            return rotate

        def attending(original):
            def attend(module, query, key, value, *args, **kwargs):
                context, probs = original(module, query, key, value, *args, **kwargs)
                if self.family.rotated_by == "attention":
                    if self.layer in self.turned:  # of the keys, those of this run's tokens
                        show_rotated((query, key[:, :, -self.n_tokens :]))
                    self._show_probs(self.layer, probs)
                return context, probs

            return attend

        for name in ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb", "apply_rotary_emb"):
            replace(name, rotating)
        replace("ALL_ATTENTION_FUNCTIONS", lambda original: Interfaces(original, attending))
        return originals


class Interfaces:
    """Stands for transformers' table of ways to attend, and wraps the one that a model takes."""

    def __init__(self, original, wrap: Callable):
        self.original, self.wrap = original, wrap

    def get_interface(self, *args):
        return self.wrap(self.original.get_interface(*args))


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The numbers, or for a type that numpy lacks their bits."""
    tensor = tensor.detach().cpu()
    return (tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
