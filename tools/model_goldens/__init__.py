"""Plumb's goldens of models: one file an architecture (or a family of them), found by its place in this folder.

A file has CASES, a dict from a golden's name to a Family: the model of Hugging Face transformers and its configuration,
the keys and tensors of its GGUF file as real files have them, and the values that its modules show. What files share is
here, in base.py and in watch.py. tools/make_model_goldens.py runs them; tools/trace_transformers.py uses their names.
"""

import importlib
import pkgutil

from .base import Family

__all__ = ["Family", "all_cases", "family_of"]


def all_cases() -> dict[str, Family]:
    """Every case of every file, by name."""
    found: dict[str, Family] = {}
    for file in pkgutil.iter_modules(__path__):
        if file.name in ("base", "watch"):
            continue
        for name, case in importlib.import_module(f"{__name__}.{file.name}").CASES.items():
            assert name not in found, name
            found[name] = case
    seeds = [case.seed for case in found.values()]
    assert len(set(seeds)) == len(seeds), "two cases with one seed"
    return found


def family_of(model: str) -> Family | None:
    """The first case of this class of transformers."""
    return next((case for case in all_cases().values() if case.model == model), None)
